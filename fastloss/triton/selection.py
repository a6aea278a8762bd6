"""The selection of top-k: which elements count, found digit by digit on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from ..spec import AUX_COLUMNS
from . import topk
from .call import KernelCall
from .kernel_spec import AUX
from .launch import Launch

KEY_BLOCK = 2048


def select(call: KernelCall, stream: int, inputs: tuple, numbers: Tensor, aux: Tensor, aux_at: int) -> None:
    """Threshold, tie weight and count of every top-k term, into its row of aux."""
    spec = call.spec
    if not spec.topk:
        return
    digits = 8 if call.wide else 4
    keys = torch.empty(call.elements, dtype=torch.int64 if call.wide else torch.int32, device=call.device)
    room = 1 + len(spec.topk) * (digits - 1)
    work = torch.zeros((room + 1, 256), dtype=torch.int64, device=call.device)  # histograms, then cursors
    call.elements_into(stream, inputs, None, keys, work[0], numbers, spec.topk_elements)
    free = iter(work[1:room])
    tiles = -(-call.elements // KEY_BLOCK)
    loops = min(max(1, tiles // 1024), 64)
    for position, (i, k_num, k_den) in enumerate(spec.topk):
        cursor, row, histogram = work[room, 2 * position :], aux[aux_at + AUX_COLUMNS * i :], work[0]
        for digit in range(digits):
            if digit:
                histogram = next(free)
                constants = {"SHIFT": 8 * (digits - 1 - digit), "BLOCK": KEY_BLOCK}
                made = call.launch(("histogram", digit), Launch, topk.topk_histogram, -(-tiles // loops), constants)
                made(stream, keys, cursor, histogram, call.elements, loops)
            constants = {"aux": AUX, "T": call.type, "FIRST": digit == 0, "LAST": digit == digits - 1}
            made = call.launch(("select", digit, i), Launch, topk.topk_select, 1, constants)
            made(stream, histogram, cursor, row, k_num, k_den)

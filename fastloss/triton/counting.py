"""Statistics: tp, fp, fn and tn of each sample and channel, by a pass of their own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..spec import COUNTS
from . import finalize, sigmoid, softmax
from .call import COMBINE_TILE, KernelCall
from .launch import Launch


def count(call: KernelCall, stream: int, inputs: tuple, state: Tensor, at: int, threshold: float) -> None:
    """The counts of a call that does not merge samples, [N, C, 4] from state[at] on."""
    *walk, space, channels = call.walk(*inputs)
    arguments = (*walk[:3], space, channels, call.cut.blocks)
    partial, ignore = call.doubles(call.rows * COUNTS), call.spec.ignore_index
    launch = call.launch(("counts",), _passing, call)
    if call.spec.softmax:
        launch(stream, *arguments, ignore, partial)
    else:
        limit = _logit_threshold(threshold, call.wide)
        smallest = torch.full((), limit, dtype=torch.float64, device=call.device)
        launch(stream, *arguments, call.cut.loops, ignore, smallest, partial)
    call.launch(("combine",), _combining, call)(
        stream, partial, state, at, call.geometry.samples // call.samples, call.channels, call.cut.blocks,
        *call.steps(COUNTS),
    )  # fmt: skip


def _passing(call: KernelCall) -> Launch:
    constants = {"IGNORE": call.ignore, "T": call.type, "BLOCK": call.cut.block}
    if call.spec.softmax:
        return Launch(softmax.softmax_counts, call.cut.programs, constants | {"INDICES": call.indices})
    return Launch(sigmoid.sigmoid_counts, call.cut.programs, constants)


def _combining(call: KernelCall) -> Launch:
    constants = {"COLUMNS": COUNTS, "WIDTH": COUNTS, "TILE": COMBINE_TILE}
    return Launch(finalize.combine, call.samples * call.channels, constants)


def _logit_threshold(threshold: float, wide: bool) -> float:
    """The smallest logit, in the type of the computation, whose sigmoid reaches the threshold."""
    if not 0.0 < threshold < 1.0:
        return math.copysign(math.inf, threshold - 0.5)
    exact = math.log(threshold / (1.0 - threshold))
    if wide:
        return exact
    rounded = torch.tensor(exact, dtype=torch.float32)
    above = torch.nextafter(rounded, torch.tensor(math.inf))
    return (above if rounded.double() < exact else rounded).item()

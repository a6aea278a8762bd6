"""How kernels are started."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl

WARPS = 4
OPTIONS = {"enable_fp_fusion": False}  # elementary.py says why


def value_type(wide: bool) -> tl.dtype:
    """What the kernels compute in."""
    return tl.float64 if wide else tl.float32


def launch(
    kernel: Any,
    programs: int,
    device: torch.device,
    arguments: tuple,
    constants: dict[str, Any],
    warps: int = WARPS,
) -> None:
    """Starts `programs` programs on the current stream of the device."""
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel[(programs,)](*arguments, **constants, num_warps=warps, **OPTIONS)
    else:
        kernel[(programs,)](*arguments, **constants, num_warps=warps, **OPTIONS)

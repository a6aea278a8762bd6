"""How kernels are started.

`JITFunction.run` looks at every argument, strides within tuples too, to find the machine code that it is specialised
to: 15 us and more of the host's time. A `Launch` asks it once, then starts what it returned as `run` does.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs
from triton.compiler import CompiledKernel

WARPS = 4
OPTIONS = {"enable_fp_fusion": False}  # elementary.py says why
# Versions of Triton in which CompiledKernel.run takes what `Launch` gives it; others always take the ordinary way.
DIRECT_VERSIONS = ((3, 6), (3, 7), (3, 8))
DIRECT = tuple(map(int, triton.__version__.split(".")[:2])) in DIRECT_VERSIONS


def value_type(wide: bool) -> tl.dtype:
    """What the kernels compute in."""
    return tl.float64 if wide else tl.float32


def stream_of(device: torch.device) -> int:
    """The current stream of the device."""
    return torch._C._cuda_getCurrentRawStream(device.index) if device.type == "cuda" else 0


def elsewhere(device: torch.device) -> bool:
    """Whether another device is the current one: kernels start on that."""
    return device.type == "cuda" and device.index != torch.cuda.current_device()


def start(kernel: Any, programs: int, arguments: tuple, constants: dict[str, Any], warps: int) -> Any:
    """Triton's ordinary way; the compiled kernel."""
    return kernel[(programs,)](*arguments, **constants, num_warps=warps, **OPTIONS)


def watched() -> bool:
    """Whether somebody watches the launches or has changed how kernels are compiled: a profiler, as a rule."""
    runtime = knobs.runtime
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    hooked = getattr(enter, "calls", enter) or getattr(leave, "calls", leave)  # a chain of hooks, as a rule
    return bool(hooked or runtime.debug or knobs.compilation.instrumentation_mode)


class Launch:
    """A kernel with its grid and its constants, to be started on any tensors of one specialisation.

    Whoever keeps a `Launch` sees to that: its arguments have the same types, integers the same values (those named in
    `do_not_specialize` the same width), and pointers the same remainder by 16 bytes (but for those named in
    `do_not_specialize_on_alignment`).
    """

    def __init__(self, kernel: Any, programs: int, constants: dict[str, Any], warps: int = WARPS) -> None:
        self.kernel, self.programs, self.constants, self.warps = kernel, programs, constants, warps
        self.tail = tuple([constants[name] for name in kernel.arg_names if name in constants])
        self.run: Any = None  # the launcher of the compiled kernel, once there is one

    def __call__(self, stream: int, *arguments: Any) -> None:
        """Start on that stream, which belongs to the current device."""
        if self.run is None or watched():
            made = start(self.kernel, self.programs, arguments, self.constants, self.warps)
            if DIRECT and type(made) is CompiledKernel and not self.kernel.pre_run_hooks:
                self.compiled = made  # owns the function
                self.function, self.metadata = made.function, made.packed_metadata
                self.run = made.run  # last: another thread may be about to start this
            return
        self.run(self.programs, 1, 1, stream, self.function, self.metadata, None, None, None, *arguments, *self.tail)

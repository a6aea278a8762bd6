"""A GPU that nobody has, for the host's side of the Triton backend: nothing is compiled, and what is started is noted.

Triton chooses the kernel for each launch as ever: one stand-in for each specialisation.
"""

import contextlib
import itertools

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel

import fastloss as fl
from fastloss.triton import call, launch

DEVICE = 1000  # as Triton counts: none that a test of a real GPU could use


class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return DEVICE

    def get_current_stream(self, device=None):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")


class Card:
    """`started`: what the launcher got, for each launch; with `noting` False it is a no-op."""

    def __init__(self):
        self.started, self.noting, self.numbers = [], True, itertools.count()

    def compile(self, src, target=None, options=None, **_):
        kernel = object.__new__(CompiledKernel)
        kernel.src, kernel.module, kernel.name, kernel.packed_metadata = None, None, src.fn.__name__, ()
        kernel.function, kernel._init_handles, kernel._run = next(self.numbers), lambda: None, self.launcher(src)
        return kernel

    def launcher(self, src):
        def run(*arguments):
            if self.noting:
                self.started.append((src.fn.__name__, *arguments))

        return run


@contextlib.contextmanager
def card():
    """Within this the Triton backend takes CPU tensors and starts its kernels on a `Card`."""
    made, active = Card(), getattr(triton.runtime.driver, "_active", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("triton.compiler.compile", made.compile)
        patch.setitem(fl.backends.DEVICES, "triton", "cpu")
        patch.setattr("fastloss.triton.reason", lambda: None)
        patch.setitem(fl.backends._reasons, "triton", None)
        patch.setattr(launch, "DIRECT", True)
        triton.runtime.driver.set_active(Driver())
        forget()
        try:
            yield made
        finally:
            triton.runtime.driver._active = active
            forget()


def forget():
    """What the backend and Triton know of this card."""
    call._calls.cache_clear()
    for kernel in KERNELS:
        kernel.device_caches.pop(DEVICE, None)


def _kernels():
    from fastloss.triton import finalize, sigmoid, softmax, topk

    jitted = [
        value
        for module in (finalize, sigmoid, softmax, topk)
        for value in vars(module).values()
        if isinstance(value, triton.runtime.JITFunction)
    ]
    return list({id(kernel): kernel for kernel in jitted}.values())


KERNELS = _kernels()

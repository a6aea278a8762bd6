"""Compiles Triton kernels for GPUs that are not here: what a call would launch goes through Triton's own launcher up to
the machine code, and stops there."""

import re
import subprocess

import torch
import triton
from triton.backends.compiler import GPUTarget

from fastloss.triton import call, launch


class Driver:
    """Of a GPU that nobody has; Triton keeps what it compiled by device, so each capability is a device."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self):
        return self.capability

    def get_current_stream(self, device=None):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")


def kernels(monkeypatch, capability, run):
    """What run() launches, compiled: Triton's objects, the same one for the same specialisation."""
    made = []

    def compile_only(kernel, programs, device, arguments, constants, warps=launch.WARPS):
        options = {"num_warps": warps, **launch.OPTIONS}
        made.append(kernel.warmup(*arguments, **constants, **options, grid=(programs,)))

    monkeypatch.setattr(call, "launch", compile_only)
    active = getattr(triton.runtime.driver, "_active", None)
    triton.runtime.driver.set_active(Driver(capability))
    try:
        run()
    finally:
        triton.runtime.driver._active = active
    return made


def used(kernel, folder):
    """{REG, STACK, LOCAL, …} as the machine code itself says."""
    file = folder / "kernel.cubin"
    file.write_bytes(kernel.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    said = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", said)}

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

    def compile_only(kernel, programs, arguments, constants, warps):
        options = {"num_warps": warps, **launch.OPTIONS}
        made.append(kernel.warmup(*arguments, **constants, **options, grid=(programs,)))

    monkeypatch.setattr(launch, "start", compile_only)
    call._calls.cache_clear()
    active = getattr(triton.runtime.driver, "_active", None)
    triton.runtime.driver.set_active(Driver(capability))
    try:
        run()
    finally:
        triton.runtime.driver._active = active
    return made


def used(kernel, capability, folder):
    """(registers, bytes spilled) as the assembler says of the kernel's PTX."""
    file = folder / "kernel.ptx"
    file.write_text(kernel.asm["ptx"], encoding="utf-8")
    target = re.search(r"^\.target (\w+)", kernel.asm["ptx"], re.MULTILINE).group(1)
    tools = triton.knobs.nvidia
    tool = tools.ptxas_blackwell if capability >= 100 and hasattr(tools, "ptxas_blackwell") else tools.ptxas
    command = [tool.path, "-v", f"--gpu-name={target}", file, "-o", folder / "kernel.cubin"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    stores, loads = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said).groups()
    return int(re.search(r"Used (\d+) registers", said).group(1)), int(stores) + int(loads)

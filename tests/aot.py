"""Compiles Triton kernels for GPUs that are not here: what a call would launch is recorded, not run."""

import re
import subprocess

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastloss.triton import call, launch

POINTERS = {
    torch.float32: "*fp32", torch.float64: "*fp64", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.bool: "*i1",
    torch.uint8: "*u8", torch.int32: "*i32", torch.int64: "*i64",
}  # fmt: skip


def record(monkeypatch, run):
    """[(kernel, arguments, constants)] of what run() launches."""
    launched = []
    monkeypatch.setattr(call, "launch", lambda kernel, _, __, *rest: launched.append((kernel, *rest[:2])))
    run()
    return launched


def source(kernel, arguments, constants):
    """As Triton's launcher specialises them: sizes of 1 are constants, pointers and sizes multiples of 16 where so."""
    fixed, attributes, signature = {}, {}, {}

    def visit(value, path, special):
        if value is None:
            fixed[path] = None
            return "constexpr"
        if isinstance(value, tuple):
            return tuple([visit(item, (*path, i), special) for i, item in enumerate(value)])
        if isinstance(value, torch.Tensor):
            attributes[path] = [["tt.divisibility", 16]]
            return POINTERS[value.dtype]
        if special and value == 1:
            fixed[path] = 1
            return "constexpr"
        if special and value % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return "i32" if -(2**31) <= value < 2**31 else "i64"

    plain = set(kernel.do_not_specialize or ())
    names = kernel.arg_names
    for position, (name, value) in enumerate(zip(names, arguments)):
        signature[name] = visit(value, (position,), name not in plain)
    for name, value in constants.items():
        signature[name], fixed[names.index(name),] = "constexpr", value
    return ASTSource(kernel, signature=signature, constexprs=fixed, attrs=attributes)


def key(kernel, arguments, constants):
    made = source(kernel, arguments, constants)
    return kernel.__name__, repr(made.signature), repr(sorted(made.constants.items(), key=repr)), repr(made.attrs)


def compiled(kernel, arguments, constants, capability, folder):
    """{REG, STACK, LOCAL, …} as the machine code itself says."""
    options = {"num_warps": launch.WARPS, **launch.OPTIONS}
    made = triton.compile(source(kernel, arguments, constants), GPUTarget("cuda", capability, 32), options)
    assert f"sm_{capability}" in made.asm["ptx"]
    file = folder / "kernel.cubin"
    file.write_bytes(made.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    said = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", said)}

"""The compiled CUDA kernels: no warnings, a budget of instances, and what the fast ones may not do.

Reads what the build of the extension left in build/: nvcc's report beside each object, and the objects themselves.
"""

import re

import pytest
import sass

from fastloss import _library

RECORD = _library.build_record().get("cuda")
pytestmark = [
    pytest.mark.skipif(not RECORD, reason=f"built without CUDA: {_library.build_record().get('cuda_reason')}"),
    pytest.mark.skipif(not sass.logs(), reason="the extension was not built in this tree"),
]
needs_disassembler = pytest.mark.skipif(sass.cuobjdump() is None, reason="neither CUDA nor Triton brings cuobjdump")

# Template instances, of which there are 59. 104, and the rest of the extension, took 9 min 23 s of CPU time for three
# architectures: under five minutes on two cores.
BUDGET = 64

FAST = r"(sigmoid_(resident|stream|pointwise|topk_resident)|softmax_small)<.*"
# The end of the sums, which one block runs, keeps a term in local memory.
FINISH = "finish_sums"
# Kernels that call it out of line, and how many bytes of registers a thread then saves.
CALLS = {r"sigmoid_stream<.*>": 200, r"softmax_small<.*>": 120}


def fast():
    return [kernel for kernel in sass.kernels() if re.fullmatch(FAST, kernel.name)]


def limit(table, kernel):
    return next((number for pattern, number in table.items() if re.fullmatch(pattern, kernel.name)), 0)


def test_every_kernel_is_compiled_for_every_architecture():
    wanted = {"sm_" + arch.partition("+")[0].replace(".", "") for arch in RECORD["archs"].split()}
    found = {}
    for kernel in sass.kernels():
        found.setdefault(kernel.symbol, set()).add(kernel.arch)
    assert found and all(archs == wanted for archs in found.values())


def test_no_warnings():
    lines = [line for log in sass.logs() for line in log.read_text().splitlines()]
    assert not [line for line in lines if re.search(r"\bwarning\b", line, re.IGNORECASE)]


def test_the_number_of_instances():
    count = len({kernel.symbol for kernel in sass.kernels()})
    assert count <= BUDGET, f"{count} instances: measure the build before you raise the budget"


def test_the_fast_kernels_spill_nothing():
    assert len({kernel.name for kernel in fast()}) > 30
    assert not {f"{k.arch} {k.name}": k.spilled for k in fast() if k.spilled}


def test_fast_kernels_use_no_local_memory_of_their_own():
    finish = {k.arch: k.stack for k in sass.kernels() if k.name == FINISH}
    used = {}
    for kernel in fast():
        own = kernel.stack - finish[kernel.arch] - limit(CALLS, kernel)
        if own > 24:  # 24: registers saved around the call
            used[f"{kernel.arch} {kernel.name}"] = own
    assert not used


@needs_disassembler
def test_fast_kernels_read_and_write_sixteen_bytes_at_a_time():
    wrong = []
    for kernel in fast():
        if not kernel.code:
            continue  # another architecture
        wide = [name.split(".")[0] for name in kernel.code if ".128" in name]
        if kernel.name.startswith("sigmoid") and ("LDG" not in wide or "STG" not in wide):
            wrong.append(f"{kernel.arch} {kernel.name}")
    assert not wrong


@needs_disassembler
def test_no_kernel_adds_floats_atomically():
    """The sum would depend on the order."""
    code = {(k.arch, k.name): k.code for k in sass.kernels() if k.code}
    assert len(code) > 40
    pattern = r"(ATOM|ATOMG|ATOMS|RED|REDG)\b.*\.(F16|F32|F64|BF16)"
    assert not [(who, name) for who, names in code.items() for name in names if re.match(pattern, name)]

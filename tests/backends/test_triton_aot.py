"""Every kernel of the hot cases becomes machine code for each GPU that we name, without a GPU, and keeps its tiles in
registers."""

import re

import pytest
import torch
from cases import CHANNELS, DEVICES, LOSSES, build, logits, target

pytest.importorskip("triton")
if DEVICES["triton"] == "cpu":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

import aot

import fastloss as fl
from fastloss.spec import WANT_COUNTS, WANT_GRAD
from fastloss.triton import ops

CAPABILITIES = (80, 90, 100)
# The assembler may keep one scalar of the loop over classes in memory (4 bytes stored, 4 loaded), though registers are
# left: in softmax_pass at 64 to 72 of them, in softmax_counts at 32 to 40. No tile is ever spilled.
SPILLED = 8
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
HALVES = {
    "binary:bce": (F16,),
    "binary:dice": (BF16,),
    "binary:dice+focal": (BF16,),
    "multiclass:tversky+crossentropy": (BF16,),
}
# loss, channels, layout
CASES = [
    ("binary:bce", 1, "contiguous"),
    ("binary:dice", 1, "contiguous"),
    ("binary:focal-2.0", 1, "contiguous"),
    ("binary:dice+focal", 1, "contiguous"),
    ("binary:tversky+crossentropy", 1, "contiguous"),
    ("binary:dice-sample-skip", 1, "contiguous"),
    ("binary:topk", 1, "contiguous"),
    ("multilabel:dice+focal", 3, "contiguous"),
    ("multiclass:ce", 19, "contiguous"),
    ("multiclass:dice", 4, "contiguous"),
    ("multiclass:tversky+crossentropy", 4, "contiguous"),
    ("multiclass:tversky+crossentropy", 19, "channels_last"),
    ("multiclass:topk", 4, "contiguous"),
]


def compiled(monkeypatch, capability, criterion, dtype, channels, layout):
    """Forward with counts and the backward that follows, on 4 samples of 64 x 64."""
    x = logits((4, channels, 64, 64), dtype, layout)
    y = target(criterion.mode, x.shape, torch.int64 if criterion.mode == "multiclass" else torch.uint8)
    inputs = x, y, None, None
    ints, floats = criterion.spec.encode(channels)
    weights = [torch.ones(()) for _ in {term.weight_index for term in criterion.spec.terms if term.weight_index >= 0}]
    guess = torch.ones((), dtype=torch.float64)

    def run():
        want = WANT_COUNTS | (0 if dtype is F16 else WANT_GRAD)
        value, state, grad = ops.loss(*inputs, weights, ints, floats, want, 0.5, 1.0, guess)
        if dtype is F16:
            ops.backward(value, state, *inputs, ints, floats)
        else:
            ops.rescale_grad(value, grad, guess, state, *inputs, ints, floats)

    return aot.kernels(monkeypatch, capability, run)


@pytest.fixture(scope="module")
def seen():
    """Kernels that were looked at already."""
    return []


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name,channels,layout", CASES)
def test_machine_code_without_spills(name, channels, layout, capability, monkeypatch, tmp_path, seen):
    for dtype in (F32, *HALVES.get(name, ())):
        for kernel in compiled(monkeypatch, capability, build(name), dtype, channels, layout):
            if any([kernel is other for other in seen]):
                continue
            seen.append(kernel)
            ptx = kernel.asm["ptx"]
            assert f".target sm_{capability}" in ptx and kernel.asm["cubin"][:4] == b"\x7fELF"
            registers, spilled = aot.used(kernel, capability, tmp_path)
            what = f"{kernel.metadata.name} of {name} in {dtype} for sm_{capability}: {registers} registers"
            assert spilled <= SPILLED and 0 < registers <= 128, f"{what}, {spilled} bytes spilled"
            if kernel.metadata.name.endswith("_pass") and dtype is F32 and layout == "contiguous":
                # Four logits a load, whatever is masked; the upstream gradient is a load of its own.
                assert "ld.global.v4.b32" in ptx and len(re.findall(r"ld\.global\.[bf]32", ptx)) <= 1, what


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_compiles(monkeypatch, name):
    """What the parity tests compute, a term over the batch beside one over samples among it, is code for a GPU too."""
    criterion = build(name)
    assert compiled(monkeypatch, 90, criterion, F32, CHANNELS[criterion.mode], "contiguous")


def test_a_schedule_compiles_nothing_new(monkeypatch):
    """Settings are numbers that a kernel reads: other weights, gammas and smoothings are the same kernel."""
    made = []
    for weight, gamma, alpha, smooth in ((0.5, 1.3, 0.3, 0.0), (0.25, 2.7, 0.6, 1.0)):
        criterion = weight * fl.FocalLoss("binary", gamma=gamma) + fl.TverskyLoss("binary", alpha=alpha, smooth=smooth)
        made.append(compiled(monkeypatch, 90, criterion, F32, 1, "contiguous"))
    assert len(made[0]) == 6 and all([a is b for a, b in zip(*made)])

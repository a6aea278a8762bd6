"""Every kernel of the hot cases becomes machine code for each GPU that we name, without a GPU, and keeps its numbers in
registers."""

import pytest
import torch
from cases import DEVICES, build, logits, target

pytest.importorskip("triton")
if DEVICES["triton"] == "cpu":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

import aot

from fastloss.triton import ops

CAPABILITIES = (80, 90, 100)
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


def launches(monkeypatch, name, dtype, channels, layout):
    mode = name.split(":")[0]
    x = logits((4, channels, 64, 64), dtype, layout)
    y = target(mode, x.shape, torch.int64 if mode == "multiclass" else torch.uint8)
    ints, floats = build(name).spec.encode(channels)
    predicted = torch.ones((), dtype=torch.float64)

    def run():
        value, state, grad = ops.loss(
            x, y, None, None, [], ints, floats, 1 if dtype is not F16 else 0, 0.5, 1.0, predicted
        )
        if dtype is F16:
            ops.backward(value, state, x, y, None, None, ints, floats)
        else:
            ops.settle(value, grad, predicted, state, x, y, None, None, ints, floats)

    return aot.record(monkeypatch, run)


@pytest.fixture(scope="module")
def seen():
    return set()


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name,channels,layout", CASES)
def test_machine_code_without_spills(name, channels, layout, capability, monkeypatch, tmp_path, seen):
    for dtype in (F32, *HALVES.get(name, ())):
        for launched in launches(monkeypatch, name, dtype, channels, layout):
            key = (capability, *aot.key(*launched))
            if key in seen:
                continue
            seen.add(key)
            used = aot.compiled(*launched, capability, tmp_path)
            what = f"{launched[0].__name__} of {name} in {dtype} for sm_{capability}: {used}"
            assert used["STACK"] == used["LOCAL"] == 0 and 0 < used["REG"] <= 255, what


def test_a_schedule_compiles_nothing_new(monkeypatch):
    """Settings are numbers that a kernel reads: other weights, gammas and smoothings are the same kernel."""
    import fastloss as fl

    seen = []
    for weight, gamma, alpha, smooth in ((0.5, 1.3, 0.3, 0.0), (0.25, 2.7, 0.6, 1.0)):
        criterion = weight * fl.FocalLoss("binary", gamma=gamma) + fl.TverskyLoss("binary", alpha=alpha, smooth=smooth)
        x = logits((4, 1, 64, 64))
        y = target("binary", x.shape, torch.uint8)
        ints, floats = criterion.spec.encode(1)
        launched = aot.record(monkeypatch, lambda: ops.loss(x, y, None, None, [], ints, floats, 1, 0.5, 1.0))
        seen.append([aot.key(*launch) for launch in launched])
    assert len(seen[0]) == 4 and seen[0] == seen[1]

"""Every hot loop is still vectorised: float32 against its float64 twin, which takes libm's exp and log and cannot be.

The same loops, the same data, one thread, processor time: a loop that the compiler gives up on costs what its twin
costs (1.0 to 1.4), a vectorised one a third or less.
"""

import time

import pytest
import torch
from cases import COMPILED, logits, target

import fastloss as fl
from fastloss import _library

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif("cpu" not in COMPILED, reason=f"no extension: {_library.reason()}"),
]
# Half types pay for their conversion.
LEAST = {"baseline": {torch.float32: 1.5, torch.bfloat16: 1.15}, "vector": {torch.float32: 2.0, torch.bfloat16: 1.4}}

BINARY = {
    "bce": fl.BCEWithLogitsLoss(),
    "focal-2": fl.FocalLoss("binary"),
    "focal-1": fl.FocalLoss("binary", gamma=1.0),
    "focal-1.5": fl.FocalLoss("binary", gamma=1.5),
    "dice": fl.DiceLoss("binary"),
    "dice-l1-squared": fl.DiceLoss("binary", squared=True, soft="l1"),
    "topk": fl.TopKLoss("binary", k=0.3),
    "dice+focal": fl.DiceLoss("binary") + fl.FocalLoss("binary"),
    "iou+topk": fl.IoULoss("binary") + fl.TopKLoss("binary", k=0.6),
}
SOFTMAX = {
    "ce": fl.CrossEntropyLoss(),
    "ce-smoothing": fl.CrossEntropyLoss(label_smoothing=0.1),
    "focal-2": fl.FocalLoss("multiclass"),
    "focal-1.5": fl.FocalLoss("multiclass", gamma=1.5),
    "dice": fl.DiceLoss("multiclass"),
    "dice-squared": fl.DiceLoss("multiclass", squared=True),
    "topk": fl.TopKLoss("multiclass", k=0.3),
    "dice+ce": fl.DiceLoss("multiclass") + fl.CrossEntropyLoss(),
    "dice+focal": fl.DiceLoss("multiclass") + fl.FocalLoss("multiclass"),
}
CASES = [("binary", name) for name in BINARY] + [("multiclass", name) for name in SOFTMAX]


def cost(loss, x, y, mask, repeats=7):
    """Least processor time of forward and backward."""
    x = x.clone().requires_grad_()
    best = float("inf")
    for _ in range(repeats):
        began = time.thread_time()
        torch.autograd.grad(loss(x, y, mask), x)
        best = min(best, time.thread_time() - began)
    return best


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("case", ("labels", "masked", "soft"))
@pytest.mark.parametrize("mode,name", CASES)
def test_loop_is_vectorised(mode, name, case, dtype):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)  # the poison costs time
    shape = (2, 1, 128, 128) if mode == "binary" else (1, 8, 64, 64)
    x = logits(shape)
    soft = "soft" if mode == "binary" else "probabilities"
    y = target(mode, shape, soft if case == "soft" else torch.uint8)
    mask = torch.rand(x[:, 0].shape) < 0.9 if case == "masked" else None
    loss = (BINARY if mode == "binary" else SOFTMAX)[name]
    isa = "baseline" if _library.load().cpu_capability() == "baseline" else "vector"
    for _ in range(3):  # a neighbour on the machine may spoil one measurement, not three
        ratio = cost(loss, x.double(), y, mask) / cost(loss, x.to(dtype), y, mask)
        if ratio >= LEAST[isa][dtype]:
            return
    pytest.fail(f"float64 takes only {ratio:.2f} times as long, expected at least {LEAST[isa][dtype]}")

"""A first look at a backend: every family of losses on small odd inputs, against float64. Seconds, not a test suite."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch import Tensor

import fastloss as fl
from fastloss import backends
from fastloss.measure.formula import Truth, compare, evaluate

SHAPES = {
    "binary": [(2, 1, 33, 31), (3, 1, 70_001)],
    "multilabel": [(2, 3, 17, 13)],
    "multiclass": [(2, 3, 17, 13), (1, 9, 40, 41), (1, 21, 6, 7, 5), (2, 130, 65)],
}
LIMITS = {torch.float32: (1e-5, 1e-4), torch.bfloat16: (1e-4, 4e-3), torch.float16: (1e-4, 2e-3)}


def losses(mode: str) -> dict[str, fl.CompoundLoss]:
    entropy = fl.CrossEntropyLoss() if mode == "multiclass" else fl.BCEWithLogitsLoss(mode)
    return {
        "entropy": entropy,
        "focal": fl.FocalLoss(mode, gamma=1.5),
        "dice": fl.DiceLoss(mode),
        "topk": fl.TopKLoss(mode, k=0.3),
        "dice+entropy": fl.DiceLoss(mode) + 0.5 * entropy,
        "iou+topk": fl.IoULoss(mode) + fl.TopKLoss(mode, k=0.6),
        "dice by sample": fl.DiceLoss(mode, batch=False, empty="skip") + fl.FocalLoss(mode),
    }


def draw(mode: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Draw on the CPU, so that a checked process launches no kernels but ours and a few copies."""
    rng = torch.Generator().manual_seed(7)
    x = torch.randn(shape, generator=rng) * 2
    plain = (shape[0], *shape[2:])
    if mode == "multiclass":
        y = torch.randint(0, shape[1], plain, generator=rng, dtype=torch.int64)
    else:
        y = (torch.rand(shape, generator=rng) < 0.4).long()
    return x, y, torch.rand(plain, generator=rng) < 0.8


def run(
    backend: str, device: str, tiny: bool = False, modes: Iterable[str] = tuple(SHAPES), seconds: float = 600.0
) -> dict:
    """Return {checked, failures}: a failure says which loss, shape and dtype, and by how much it is off.

    Small shapes in float32 come first; after `seconds` the rest is left out, and `late` says so.
    """
    why_not = backends.available()[backend]
    if why_not is not None:
        return {"missing": why_not}
    dtypes = (torch.float32,) if tiny else tuple(LIMITS)
    every = [
        (mode, shape, dtype)
        for dtype in dtypes
        for mode in modes
        for shape in (SHAPES[mode][:1] if tiny else SHAPES[mode])
    ]
    checked, failures, began = 0, [], time.monotonic()
    for mode, shape, dtype in every:
        x, y, mask = draw(mode, shape)
        for name, loss in losses(mode).items():
            for m in (None, mask):
                if time.monotonic() - began > seconds:
                    return {"checked": checked, "failures": failures, "late": f"stopped after {seconds:.0f} s"}
                checked += 1
                fault = _fault(backend, device, loss, x.to(dtype), y, m)
                if fault:
                    masked = "" if m is None else ", masked"
                    failures.append(f"{mode} {name} {list(shape)} {dtype}{masked}: {fault}")
    return {"checked": checked, "failures": failures}


def _fault(backend: str, device: str, loss, x: Tensor, y: Tensor, mask: Tensor | None) -> str:
    scale = float(x.numel())  # keeps float16 gradients clear of the subnormal range
    with backends.use("reference"):
        value, grad = evaluate(lambda a, b: loss(a, b, mask) * scale, x, y)
    band = 1e-2 if x.dtype != torch.float32 and "TopK" in repr(loss) else 0.0
    with backends.use(backend):
        given = x.to(device).requires_grad_()
        result = loss(given, y.to(device, torch.uint8), None if mask is None else mask.to(device)) * scale
        (found,) = torch.autograd.grad(result, given)
    limits = LIMITS[x.dtype]
    truth = Truth(value, grad, None, 1.0, "")
    return compare(truth, float(result.detach()), found.cpu(), (limits[0], max(limits[1], band))).reason

"""Comparing values and gradients with float64 truth, and whether a peer computes the same formula at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import plain
from .cases import Case, inputs

FEW_CLASSES = 14


@dataclass
class Truth:
    """Value and gradient in float64, and for top-k the elements too close to the threshold to have one right answer."""

    value: float
    grad: Tensor
    band: Tensor | None
    sign: Tensor | float
    source: str


@dataclass
class Verdict:
    ok: bool
    value_error: float
    grad_error: float
    reason: str = ""


def evaluate(loss, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    x = x.detach().double().requires_grad_()
    value = loss(x, y)
    return float(value.detach()), torch.autograd.grad(value, x)[0]


def tie_band(case: Case, x: Tensor, y: Tensor) -> Tensor | None:
    topk = [t for t in case.terms if t.kind == "topk"]
    if not topk:
        return None
    losses = plain.elements(x.double(), y.double() if case.mode != "multiclass" else y, case.mode)
    tau = losses.flatten().topk(plain.topk_count(topk[0].k, losses.numel()), sorted=False).values.min()
    width = 1e-2 if case.dtype == "bfloat16" else 1e-5  # peers round the elements to bfloat16 before they choose
    band = (losses - tau).abs() <= width * tau.abs()
    return band if case.mode != "multiclass" else band[:, None]


def signs(case: Case, y: Tensor) -> Tensor | float:
    """Return the sign of each logit's BCE or CE gradient, where top-k needs it."""
    if all(t.kind != "topk" for t in case.terms):
        return 1.0
    labels = plain.one_hot(y, case.shape[1], torch.float64) if case.mode == "multiclass" else y.double()
    return 1.0 - 2.0 * labels


def compare(truth: Truth, value: float, grad: Tensor, limits: tuple[float, float]) -> Verdict:
    value_error = abs(value - truth.value) / max(abs(truth.value), 1e-12)
    difference, wanted = grad.double() - truth.grad, truth.grad
    if truth.band is not None:
        # Ties may share their weight in any way, but the weight itself is fixed: they all have the same |gradient|.
        inside = (difference * truth.sign).masked_fill(~truth.band, 0).sum().abs() / wanted.abs().sum()
        value_error = max(value_error, float(inside))
        difference, wanted = difference.masked_fill(truth.band, 0), wanted.masked_fill(truth.band, 0)
    grad_error = float(difference.norm() / wanted.norm().clamp_min(1e-300))
    finite = bool(torch.isfinite(grad).all())
    ok = finite and value_error <= limits[0] and grad_error <= limits[1]
    reason = (
        ""
        if ok
        else f"value off by {value_error:.1e}, gradient by {grad_error:.1e}" + ("" if finite else ", not finite")
    )
    return Verdict(ok, value_error, grad_error, reason)


def small(case: Case) -> Case:
    """Return the same formula in float64 on a few thousand elements, and classes so few that none is absent, which
    libraries treat differently."""
    n, c, *space = case.shape
    shape = (min(n, 2), min(c, FEW_CLASSES), *(min(s, 33 if len(space) < 3 else 11) for s in space))
    return replace(case, shape=shape, dtype="float64", levels=1)


def same_formula(case: Case, loss: Callable[[Tensor, Tensor], Tensor], target: Callable[[Tensor], Tensor]) -> str:
    """Return "" if a peer computes the formula of a case, else how far off it is; its loss for the case that `small`
    gives is checked in float64."""
    tiny = small(case)
    x, y = inputs(tiny)
    value, grad = evaluate(plain.build(tiny), x, y)
    wide = target(y).double() if target(y).is_floating_point() else target(y)
    truth = Truth(value, grad, tie_band(tiny, x, y), signs(tiny, y), "")
    return compare(truth, *evaluate(loss, x, wide), (1e-5, 1e-5)).reason

"""The same loss by fastloss and by segmentation-models-pytorch, on the same logits of a real training step."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastloss.compound import Criterion
from fastloss.measure import memory
from fastloss.measure.providers import Contender
from fastloss.spec import Term

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """One loss at one step: its value, its gradient at the logits, and the seconds of forward and backward."""

    value: float
    gradient: Tensor
    seconds: float


def split_step(loss: Loss, logits: Tensor, y: Tensor) -> Step:
    """The loss alone: forward, and backward no further than the logits."""
    leaf = logits.detach().requires_grad_()
    start = time.perf_counter()
    value = loss(leaf, y)
    (gradient,) = torch.autograd.grad(value, leaf)
    return Step(float(value.detach()), gradient, time.perf_counter() - start)


@dataclass(frozen=True)
class Pair:
    """One training step's loss by fastloss and by smp. `value_gap` is |difference|, `gradient_gap` the norm of the
    difference over the norm of smp's gradient, `error` and `smp_error` the same between the gradient of fastloss, of
    smp, and that of smp in float64 (NaN unless judged); `overhead` the seconds that all this added to the step."""

    loss: float
    gradient: Tensor
    seconds: float
    smp_seconds: float
    value_gap: float
    gradient_gap: float
    error: float
    smp_error: float
    overhead: float


def compare(loss: Loss, smp_loss: Loss, logits: Tensor, y: Tensor, smp_first: bool, judged: bool) -> Pair:
    """Both losses on the same logits [N, 1, H, W] and masks; alternate `smp_first`, as the second finds warm caches."""
    start = time.perf_counter()
    floats = y.float()  # smp refuses integer masks; the conversion is not counted as its time
    theirs = split_step(smp_loss, logits, floats) if smp_first else None
    ours = split_step(loss, logits, y)
    theirs = theirs or split_step(smp_loss, logits, floats)
    error = smp_error = math.nan
    if judged:
        exact = split_step(smp_loss, logits.double(), y.double())
        error, smp_error = _distance(ours.gradient, exact.gradient), _distance(theirs.gradient, exact.gradient)
    return Pair(
        loss=ours.value,
        gradient=ours.gradient,
        seconds=ours.seconds,
        smp_seconds=theirs.seconds,
        value_gap=abs(ours.value - theirs.value),
        gradient_gap=_distance(ours.gradient, theirs.gradient),
        error=error,
        smp_error=smp_error,
        overhead=time.perf_counter() - start - ours.seconds,
    )


def _distance(gradient: Tensor, other: Tensor) -> float:
    gap, norm = (gradient - other).norm(), other.norm()
    return float(gap / norm) if norm > 0 else float(gap)


def of_smp(criterion: Criterion) -> Loss:
    """The sum of smp's losses with the numbers of a binary fastloss criterion; ValueError for a term that smp lacks."""
    terms = criterion.spec.terms
    parts = [(term.weight, _smp_term(term)) for term in terms]

    def loss(x: Tensor, y: Tensor) -> Tensor:
        values = [part(x, y) if weight == 1 else weight * part(x, y) for weight, part in parts]
        return sum(values[1:], values[0])

    return loss


def _smp_term(term: Term) -> Loss:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from segmentation_models_pytorch import losses

    if term.kind == "bce":
        return losses.SoftBCEWithLogitsLoss(ignore_index=None)
    if term.kind == "focal":
        return losses.FocalLoss("binary", gamma=term.gamma)
    if term.kind == "tversky":
        named = {(1.0, 1.0): losses.JaccardLoss, (0.5, 0.5): losses.DiceLoss}.get((term.alpha, term.beta))
        return named("binary") if named else losses.TverskyLoss("binary", alpha=term.alpha, beta=term.beta)
    raise ValueError(f"smp has no {term.kind} loss")


def kept_bytes(loss: Loss, logits: Tensor, y: Tensor) -> int:
    """Bytes that live between forward and backward beyond logits and target, by torch's allocator."""
    leaf = logits.detach().clone().requires_grad_()
    return memory.measure(Contender("", "eager", "", loss, y, ""), leaf).kept

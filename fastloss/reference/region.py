"""Functions of the sums of a class: mirrors csrc/math/region.h."""

from __future__ import annotations

import torch
from torch import Tensor

from ..spec import SumColumn, Term
from . import overlap
from .inputs import constants


def tversky_score(tp: Tensor, fp: Tensor, fn: Tensor, term: Term) -> Tensor:
    """(TP + s) / max(TP + alpha FP + beta FN + s, eps)."""
    below = tp + term.alpha * fp + term.beta * fn + term.smooth
    return (tp + term.smooth) / below.clamp_min(term.eps)


def region_loss(score: Tensor, term: Term) -> Tensor:
    """The curve of a score: see csrc/math/region.h. A score below eps has the derivative 0 under "root" and "log"."""
    if term.curve == "log_cosh":
        miss = (1.0 - score).abs()
        return miss + torch.log(0.5 + 0.5 * torch.exp(-2.0 * miss))
    if term.curve == "power":
        return _power(1.0 - score, term.gamma)
    kept = score.clamp_min(term.eps)
    return 1.0 - _power(kept, term.gamma) if term.curve == "root" else _power(-torch.log(kept), term.gamma)


def _power(base: Tensor, gamma: float) -> Tensor:
    """max(base, 0)^gamma with derivative 0 where the base is 0; base itself for gamma = 1."""
    if gamma == 1.0:
        return base
    inside = ~(base.detach() <= 0)  # a NaN stays
    power = torch.where(inside, base, torch.ones_like(base)).pow(gamma)
    return torch.where(inside, power, torch.zeros_like(power))


def class_loss(sums: Tensor, term: Term) -> tuple[Tensor, Tensor]:
    """(loss, whether it counts in the mean) of each group and class, [G, C] each, from sums [G, C, FIXED_SUMS + T]."""
    pred, target = sums[..., SumColumn.PRED], sums[..., SumColumn.TARGET]
    tp = (pred + target - sums[..., SumColumn.ABS_DIFF]) * 0.5 if term.l1 else sums[..., SumColumn.INTER]
    present = target.detach() != 0
    if term.squared:
        pred, target = sums[..., SumColumn.PRED_SQ], sums[..., SumColumn.TARGET_SQ]
    by_class = overlap.BY_CLASS.get(term.kind)
    loss = by_class(sums, term) if by_class else region_loss(tversky_score(tp, pred - tp, target - tp, term), term)
    counts = present if term.empty == "skip" else torch.ones_like(present)
    scored = (sums[..., SumColumn.VALID].detach() > 0) if term.empty == "score" else present
    loss = torch.where(scored, loss, torch.zeros_like(loss))
    return loss, counts


def region_term(sums: Tensor, term: Term) -> tuple[Tensor, Tensor]:
    """(sum over groups of the class mean, number of groups that count), 0-d each, from sums [G, C, FIXED_SUMS + T]."""
    if term.kind == "generalized_dice":
        return pooled_classes(sums, term)
    loss, counts = class_loss(sums, term)
    weights = torch.ones_like(loss)
    vector = term.per_class(loss.shape[1])
    if vector:
        weights = weights * constants(vector, loss)
    weights = torch.where(counts, weights, torch.zeros_like(weights))
    loss = torch.where(weights != 0, loss, torch.zeros_like(loss))
    total = weights.sum(1)
    used = total > 0
    mean = (weights * loss).sum(1) / torch.where(used, total, torch.ones_like(total))
    return mean.sum(), used.sum().to(loss.dtype)


def pooled_classes(sums: Tensor, term: Term) -> tuple[Tensor, Tensor]:
    """The same for a term that is one function of all classes of a group."""
    present = sums[..., SumColumn.TARGET].detach() != 0
    vector = term.per_class(sums.shape[1])
    used = (constants(vector, sums) != 0).expand_as(present) if vector else torch.ones_like(present)
    some = (present & used).any(1)
    loss = overlap.generalized_dice(sums, term, used)
    loss = torch.where(some, loss, torch.zeros_like(loss))
    counts = some if term.empty == "skip" else torch.ones_like(some)
    return loss.sum(), counts.sum().to(loss.dtype)

"""The same formulas as plain PyTorch: the eager baseline that needs nothing but torch, and a check on the oracle.

Written as a user would write them, one obvious expression per loss; float64 in, float64 out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.spec import Term

from .cases import IGNORED, Case


def topk_count(k: Fraction | None, n: int) -> int:
    """Count how many of n elements a top-k term selects."""
    assert k is not None
    return max(1, math.floor(k * n))


def one_hot(y: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    return F.one_hot(y.long(), classes).movedim(-1, 1).to(dtype)


def elements(x: Tensor, y: Tensor, mode: str) -> Tensor:
    if mode == "multiclass":
        return F.cross_entropy(x, y.long(), reduction="none")
    return F.binary_cross_entropy_with_logits(x, y.to(x.dtype), reduction="none")


def split(case: Case, y: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return labels and the bool mask [N, *S] of the pixels that count, from a truth or from such a pair."""
    if isinstance(y, tuple):
        return y
    if not case.ignored:
        return y, None
    mask = y != IGNORED
    return y.where(mask, 0), mask if case.mode == "multiclass" else mask[:, 0]


def pointwise(term: Term, x: Tensor, y: Tensor, mode: str, mask: Tensor | None = None) -> Tensor:
    if term.kind == "bce" and mask is None:
        return F.binary_cross_entropy_with_logits(x, y.to(x.dtype))
    if term.kind == "ce":
        y = y.long() if mask is None else y.long().where(mask, IGNORED)
        return F.cross_entropy(x, y, ignore_index=IGNORED, label_smoothing=term.label_smoothing)
    losses = elements(x, y, mode)
    if term.kind == "focal":
        losses = (1 - torch.exp(-losses)) ** term.gamma * losses
    if term.kind == "topk":
        return losses.flatten().topk(topk_count(term.k, losses.numel()), sorted=False).values.mean()
    if mask is None:
        return losses.mean()
    counted = (mask if mode == "multiclass" else mask[:, None]).to(x.dtype).expand_as(losses)
    return (losses * counted).sum() / counted.sum()


def region(term: Term, x: Tensor, y: Tensor, mode: str, mask: Tensor | None = None) -> Tensor:
    if mode == "multiclass":
        p, t = x.softmax(1), one_hot(y, x.shape[1], x.dtype)
    else:
        p, t = x.sigmoid(), y.to(x.dtype)
    if mask is not None:
        p, t = p * mask[:, None], t * mask[:, None]
    dims = (0, *range(2, x.ndim))
    tp, total_p, total_t = (p * t).sum(dims), p.sum(dims), t.sum(dims)
    score = tp / (tp + term.alpha * (total_p - tp) + term.beta * (total_t - tp)).clamp_min(term.eps)
    return ((1 - score) * (total_t > 0)).mean()


def build(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    """Make loss(x, y) for the sum of the case's terms; y may be a pair of labels and mask."""

    def loss(x: Tensor, y: Tensor) -> Tensor:
        y, mask = split(case, y)
        parts = [t.weight * (region if t.region else pointwise)(t, x, y, case.mode, mask) for t in case.terms]
        return sum(parts[1:], parts[0])

    return loss

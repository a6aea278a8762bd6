"""Region terms that no kernel finishes: those sum up, and these functions make the loss on every backend.

Each takes sums [G, C, FIXED_SUMS + T] in float64 and gives the loss of each group and class [G, C], differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..spec import SumColumn, Term
from .inputs import constants


def mcc(sums: Tensor, term: Term) -> Tensor:
    """1 - Matthews' correlation of a class against the rest, s added to each of TP, TN, FP, FN (Abhishek & Hamarneh
    2021); the products are written without the differences in which digits would cancel."""
    n, s = sums[..., SumColumn.VALID], term.smooth
    tp, pred, target = sums[..., SumColumn.INTER], sums[..., SumColumn.PRED], sums[..., SumColumn.TARGET]
    above = tp * (n + 4 * s) - pred * (target + 2 * s) + s * (n - 2 * target)
    margins = (pred + 2 * s) * ((n - pred).clamp_min(0) + 2 * s)
    margins = margins * (target + 2 * s) * ((n - target).clamp_min(0) + 2 * s)
    return 1.0 - above / margins.sqrt()


def generalized_dice(sums: Tensor, term: Term, used: Tensor) -> Tensor:
    """The loss of each group [G], of the classes that are used [G, C] (Sudre et al. 2017).

    A class weighs (sum y)^-gamma. One without target pixels has no weight, but under empty="score" the largest of its
    group, as in MONAI.
    """
    target = sums[..., SumColumn.TARGET]
    present = used & (target.detach() != 0)
    weights = torch.where(present, target, torch.ones_like(target)).pow(-term.gamma)
    weights = torch.where(present, weights, torch.zeros_like(weights))
    if term.empty == "score":
        largest = weights.amax(1, keepdim=True).expand_as(weights)
        weights = torch.where(used & ~present, largest, weights)
    above = (weights * sums[..., SumColumn.INTER]).sum(1) + term.smooth
    below = (weights * (sums[..., SumColumn.PRED] + target)).sum(1) * 0.5 + term.smooth
    return 1.0 - above / torch.where(below == 0, torch.ones_like(below), below)


def tvmf_dice(sums: Tensor, term: Term) -> Tensor:
    """(1 - phi)^2, phi the t-vMF similarity of p and y as directions (Kato & Hotta 2024)."""
    norms = (sums[..., SumColumn.PRED_SQ] * sums[..., SumColumn.TARGET_SQ]).clamp_min(1e-24).sqrt()
    cos = (sums[..., SumColumn.INTER] / norms).clamp_max(1.0)
    phi = (1.0 + cos) / (1.0 + constants(term.kappa, sums) * (1.0 - cos)) - 1.0
    return (1.0 - phi).square()


def boundary_dou(sums: Tensor, term: Term) -> Tensor:
    """The difference over a part of the union (Sun et al. 2023): see `boundary.add_label_columns` for the last column,
    the number of pixels at the boundary of the class."""
    s, size, edge = term.smooth, sums[..., SumColumn.TARGET].detach(), sums[..., -1].detach()
    alpha = (1.0 - 2.0 * (edge + s) / (size + s).clamp_min(term.eps)).clamp(-1.0, term.alpha)
    inter, both = sums[..., SumColumn.INTER], sums[..., SumColumn.PRED_SQ] + sums[..., SumColumn.TARGET_SQ]
    return (both - 2.0 * inter + s) / (both - (1.0 + alpha) * inter + s).clamp_min(term.eps)


def sensitivity_specificity(sums: Tensor, term: Term) -> Tensor:
    """alpha sum (1-p)^2 y / sum y + (1 - alpha) sum p^2 (1-y) / sum (1-y) (Brosch et al. 2015). Where nothing but the
    class is left (to a millionth, the rounding of the sums), the second part is 0."""
    n, target, cross = sums[..., SumColumn.VALID], sums[..., SumColumn.TARGET], sums[..., SumColumn.PRED_SQ_TARGET]
    missed = target - 2.0 * sums[..., SumColumn.INTER] + cross
    false, rest = sums[..., SumColumn.PRED_SQ] - cross, n - target
    some = ~(rest.detach() <= 1e-6 * n)  # a NaN stays
    specificity = torch.where(some, false / torch.where(some, rest, torch.ones_like(rest)), torch.zeros_like(rest))
    return term.alpha * missed / target.clamp_min(term.eps) + (1.0 - term.alpha) * specificity


def weighted_dice(sums: Tensor, term: Term) -> Tensor:
    """1 - Dice of w (2p - 1) and w (2y - 1), w = alpha where y is 0 and 1 - alpha where it is 1 (Wang et al. 2020).
    A soft label is a probability: of each pixel the mean over both labels is taken."""
    inter, pred, pred_sq = sums[..., SumColumn.INTER], sums[..., SumColumn.PRED], sums[..., SumColumn.PRED_SQ]
    target, cross = sums[..., SumColumn.TARGET], sums[..., SumColumn.PRED_SQ_TARGET]
    rest = sums[..., SumColumn.VALID] - target
    own, other = (1.0 - term.alpha) ** 2, term.alpha**2
    above = own * (2.0 * inter - target) - other * (2.0 * (pred - inter) - rest)
    squares = own * (4.0 * (cross - inter) + target) + other * (4.0 * (pred_sq - cross - pred + inter) + rest)
    both = squares + own * target + other * rest
    return 1.0 - (above + term.smooth) / (0.5 * both + term.smooth).clamp_min(term.eps)


BY_CLASS = {
    "mcc": mcc,
    "tvmf_dice": tvmf_dice,
    "boundary_dou": boundary_dou,
    "sensitivity_specificity": sensitivity_specificity,
    "weighted_dice": weighted_dice,
}

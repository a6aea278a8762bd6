"""Region terms that no kernel finishes: those sum up, and these functions make the loss on every backend.

Each takes sums [G, C, FIXED_SUMS + T] in float64 and gives the loss of each group and class [G, C], differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..spec import SumColumn, Term


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


BY_CLASS = {"mcc": mcc}

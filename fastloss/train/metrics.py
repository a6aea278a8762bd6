"""Scores from the counts of the fused pass, and the baseline that needs no network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastloss.stats import Stats

EMPTY_RULE = (
    "Dice and IoU are means over the validation slices whose truth is not empty; "
    "the pooled Dice counts every slice, so that false positives on empty slices cost there."
)


EMPTY = {  # what counts where the truth of a slice and class is empty
    "skip": "left out",
    "one": "1 if nothing was found, else 0",
    "zero": "0",
    "transunet": "1 if something was found, else 0 (TransUNet's evaluation)",
}


@dataclass(frozen=True)
class Scores:
    """Dice and IoU: the mean over slices, and of the counts of all slices together; of several classes their mean."""

    dice: float
    iou: float
    pooled_dice: float
    pooled_iou: float


def scores(counts: Tensor, empty: str = "skip") -> Scores:
    """Score counts int64 [N, C, 4] (tp, fp, fn, tn) by a rule of EMPTY; NaN means where nothing counts."""
    stats = Stats(counts)
    pooled = Stats(counts.sum(0, keepdim=True))
    found = [
        _mean(score, counts_of, empty)
        for counts_of, pair in ((counts, (stats.dice(), stats.iou())), (pooled.counts, (pooled.dice(), pooled.iou())))
        for score in pair
    ]
    return Scores(*found)


def _mean(score: Tensor, counts: Tensor, empty: str) -> float:
    """Average over the slices of each class, then over the classes that have any."""
    tp, fp, fn, _ = counts.unbind(-1)
    instead = {"skip": torch.full_like(score, torch.nan), "one": (fp == 0).to(score), "zero": torch.zeros_like(score)}
    instead["transunet"] = (fp > 0).to(score)
    return float(torch.where(tp + fn > 0, score, instead[empty]).nanmean(0).nanmean())


def group_counts(counts: Tensor, groups: list[str]) -> Tensor:
    """Sum to [G, C, 4] the counts [N, C, 4] of each group's slices together, groups in the order of their first
    slice."""
    names = {name: at for at, name in enumerate(dict.fromkeys(groups))}
    at = torch.tensor([names[name] for name in groups])
    return torch.zeros(len(names), *counts.shape[1:], dtype=counts.dtype).index_add_(0, at, counts)


@dataclass(frozen=True)
class Thresholds:
    """Foreground is low <= intensity < high after a Gaussian blur of `blur` pixels."""

    blur: float
    low: float
    high: float

    def __call__(self, images: Tensor) -> Tensor:
        """Return uint8 masks of images [N, 1, H, W]."""
        blurred = _blur(images, self.blur)
        return ((blurred >= self.low) & (blurred < self.high)).to(torch.uint8)

    def scores(self, images: Tensor, masks: Tensor) -> Scores:
        found, truth = self(images).bool(), masks.bool()
        cells = (found & truth, found & ~truth, ~found & truth, ~found & ~truth)
        return scores(torch.stack([cell.flatten(2).sum(-1) for cell in cells], dim=-1))


def fit_thresholds(images: Tensor, masks: Tensor, levels: int = 120) -> Thresholds:
    """Find the blur and the two thresholds with the best pooled Dice on these slices, by trying all of them."""
    truth = masks.bool()
    edges = torch.linspace(0.0, 1.2, levels + 1)
    best, found = -1.0, Thresholds(0.0, 0.0, 1.2)
    for blur in (0.0, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0):
        blurred = _blur(images, blur)
        everything = torch.histogram(blurred, edges)[0].cumsum(0)
        inside = torch.histogram(blurred[truth], edges)[0].cumsum(0)
        tp, taken = inside[None, :] - inside[:, None], everything[None, :] - everything[:, None]
        dice = torch.triu(2 * tp / (taken + truth.sum()), diagonal=1)
        at = int(dice.argmax())
        if float(dice.flatten()[at]) > best:
            best = float(dice.flatten()[at])
            found = Thresholds(blur, float(edges[at // levels + 1]), float(edges[at % levels + 1]))
    return found


def _blur(images: Tensor, sigma: float) -> Tensor:
    from scipy import ndimage

    if sigma == 0:
        return images
    return torch.from_numpy(ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma)))

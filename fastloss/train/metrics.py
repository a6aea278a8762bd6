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


@dataclass(frozen=True)
class Scores:
    """Dice and IoU: the mean over slices with a truth, and of the counts of all slices together."""

    dice: float
    iou: float
    pooled_dice: float
    pooled_iou: float


def scores(counts: Tensor) -> Scores:
    """Of counts int64 [N, 1, 4] (tp, fp, fn, tn); NaN means where every truth is empty."""
    stats = Stats(counts)
    present = counts[:, 0, 0] + counts[:, 0, 2] > 0
    dice, iou = stats.dice()[:, 0][present].mean(), stats.iou()[:, 0][present].mean()
    return Scores(float(dice), float(iou), float(stats.dice(pooled=True)), float(stats.iou(pooled=True)))


@dataclass(frozen=True)
class Thresholds:
    """Foreground is low <= intensity < high after a Gaussian blur of `blur` pixels."""

    blur: float
    low: float
    high: float

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 masks of images [N, 1, H, W]."""
        blurred = _blur(images, self.blur)
        return ((blurred >= self.low) & (blurred < self.high)).to(torch.uint8)

    def scores(self, images: Tensor, masks: Tensor) -> Scores:
        found, truth = self(images).bool(), masks.bool()
        cells = (found & truth, found & ~truth, ~found & truth, ~found & ~truth)
        return scores(torch.stack([cell.flatten(2).sum(-1) for cell in cells], dim=-1))


def fit_thresholds(images: Tensor, masks: Tensor, levels: int = 120) -> Thresholds:
    """The blur and the two thresholds with the best pooled Dice on these slices, by trying all of them."""
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

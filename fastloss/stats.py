"""Confusion counts and term values that a call computes on the side."""

from __future__ import annotations

import torch
from torch import Tensor

from ._arguments import shown


class Stats:
    """What `with_stats` returns beside the loss.

    Attributes:
        counts: int64 [N, C, 4], the tp, fp, fn, tn of each sample and class over the valid elements. Binary and
            multilabel predictions are sigmoid(x) >= threshold, multiclass ones the argmax (lowest class on ties).
    """

    def __init__(self, counts: Tensor, names: tuple[str, ...] = (), values: Tensor | None = None) -> None:
        self.counts = counts
        self._names = names
        self._values = values

    @property
    def terms(self) -> dict[str, Tensor]:
        """{name: detached 0-d float64 value} of each term, before its weight: "bce", "ce", "focal", "topk", "dice",
        "jaccard", "tversky", with "_2", "_3" … for repeated ones. NaN for a term whose Python weight is 0."""
        return {} if self._values is None else dict(zip(self._names, self._values.unbind()))

    def dice(self, pooled: bool = False, empty: float = 1.0) -> Tensor:
        """2 tp / (2 tp + fp + fn) as float64: [N, C], or [C] of the counts summed over the batch (pooled).

        `empty` is the score where nothing is present and nothing predicted; NaN lets `nanmean` leave it out.
        """
        tp, fp, fn = self._parts(pooled)
        return _ratio(2.0 * tp, 2.0 * tp + fp + fn, empty)

    def iou(self, pooled: bool = False, empty: float = 1.0) -> Tensor:
        """tp / (tp + fp + fn); shapes and arguments as in `dice`."""
        tp, fp, fn = self._parts(pooled)
        return _ratio(tp, tp + fp + fn, empty)

    def _parts(self, pooled: bool) -> tuple[Tensor, Tensor, Tensor]:
        counts = self.counts.sum(0) if pooled else self.counts
        tp, fp, fn, _ = counts.to(torch.float32 if counts.device.type == "mps" else torch.float64).unbind(-1)
        return tp, fp, fn

    def __repr__(self) -> str:
        terms = ", ".join([f"{name}={shown(value)}" for name, value in self.terms.items()])
        return f"Stats(counts={list(self.counts.shape)}{', ' + terms if terms else ''})"


def _ratio(above: Tensor, below: Tensor, empty: float) -> Tensor:
    return torch.where(below > 0, above / below.clamp_min(1.0), torch.full_like(below, empty))

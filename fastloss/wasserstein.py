"""The generalised Wasserstein Dice loss: the map of distances is fused, what is left are a few sums of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _arguments as check
from ._planned import PlannedLoss
from ._types import Backend, ScalarReduction
from .plan import plan
from .reference.inputs import class_counts, per_pixel, select, signed
from .spec import Spec, Term

WEIGHTINGS = ("default", "gdl")


class GeneralizedWassersteinDiceLoss(PlannedLoss):
    """Generalised Wasserstein Dice loss (Fidon et al. 2017, "Generalised Wasserstein Dice score for imbalanced
    multi-class segmentation using holistic convolutional networks"): some confusions are worse than others.

    W = sum over classes of M[y, c] p_c is what a pixel costs, M being divided by its largest distance. Of each sample
    1 - (2 TP + s) / (2 TP + E + s) with TP = sum a_y (1 - W) and E = sum e_y W; a is 1 but for the background, class 0,
    where it is 0, and e is 1 ("default"), or a = e = 1 / (pixels of the class + 1) ("gdl", Tilborghs et al. 2020). The
    formulas of `monai.losses.GeneralizedWassersteinDiceLoss`. W is stored, 4 bytes a pixel; the probabilities are not.
    """

    def __init__(
        self,
        distances: Any,
        *,
        weighting: str = "default",
        smooth: float = 1e-5,
        reduction: ScalarReduction = "mean",
        ignore_index: int | None = None,
        backend: Backend | None = None,
    ) -> None:
        """Make a generalised Wasserstein Dice loss.

        Args:
            distances: M, [C, C] numbers of at least 0, a nested list, array or tensor; M[y, c] is what it costs to take
                a pixel of class y for one of class c.
            weighting: "default" or "gdl".
            smooth: s, at least 0.
            reduction: "mean" or "sum" over samples.
            ignore_index: pixels with this class index are left out.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit.
        """
        matrix, classes = _matrix(distances), len(distances)
        weighting = check.choice("weighting", weighting, WEIGHTINGS)
        smooth = check.number("smooth", smooth, 0.0)
        mean = check.reduction(reduction, ("mean", "sum")) == "mean"
        term = Term("wasserstein", reduction="none", vector=matrix)
        spec = Spec("multiclass", (term,), check.index("ignore_index", ignore_index))
        rows = [[round(d, 6) for d in matrix[classes * c : classes * (c + 1)]] for c in range(classes)]
        shown = {
            "distances": rows,
            "weighting": repr(weighting) if weighting != "default" else None,
            "smooth": smooth if smooth != 1e-5 else None,
            "reduction": None if mean else repr("sum"),
        }
        super().__init__(plan(spec, check.backend(backend)), shown)
        self._weighting, self._smooth, self._mean = weighting, smooth, mean

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None) -> Tensor:
        """Compute the loss of logits x [N, C, *S] and class indices y [N, *S] or [N, 1, *S].

        Args:
            x: logits.
            y: class indices, of any integer type.
            mask: bool [N, *S] or [N, 1, *S]; only True pixels count.
            pixel_weight: floating, the shapes of mask, not negative; how often a pixel counts in TP and E.

        Returns:
            0-d, float32 (float64 for float64 logits).

        Raises:
            TypeError, ValueError, RuntimeError: as `CrossEntropyLoss`; TypeError for probabilities as the target.
        """
        cost = self._plan.run(x, y, mask, pixel_weight)[0].flatten(1)
        with torch.no_grad():
            classes = x.shape[1]
            flat = signed(per_pixel(y, x))
            valid = select(self._plan.spec, flat, mask if mask is None else per_pixel(mask, x))
            volume = class_counts(flat, valid, classes).to(torch.float64) if self._weighting == "gdl" else None
            valid, index = valid[:, 0], flat[:, 0].long().clamp(0, classes - 1)
            if volume is not None:
                share = (1.0 / (volume + 1.0)).gather(1, index)
            else:
                share = (index > 0).to(torch.float64)
            share = torch.where(valid, share, torch.zeros_like(share)).to(cost.dtype)
            often = torch.ones_like(cost) if pixel_weight is None else per_pixel(pixel_weight, x)[:, 0].to(cost.dtype)
            often = torch.where(valid, often, torch.zeros_like(often))
        hits = (share * (often - cost)).sum(1, dtype=torch.float64)
        errors = (share * cost if self._weighting == "gdl" else cost).sum(1, dtype=torch.float64)
        below = 2.0 * hits + errors + self._smooth
        score = (2.0 * hits + self._smooth) / torch.where(below == 0, torch.ones_like(below), below)
        loss = 1.0 - score
        return (loss.mean() if self._mean and len(x) else loss.sum()).to(cost.dtype)


def _matrix(distances: Any) -> tuple[float, ...]:
    """The rows of a square matrix behind each other, divided by its largest number."""
    rows = distances.tolist() if hasattr(distances, "tolist") else distances
    if not isinstance(rows, list | tuple) or not all([isinstance(row, list | tuple) for row in rows]):
        raise TypeError(f"distances must be a matrix of numbers, got {type(distances).__name__}.")
    if len(rows) < 2 or any([len(row) != len(rows) for row in rows]):
        raise ValueError(
            f"distances must be [C, C] with at least two classes, got rows of {[len(row) for row in rows]}."
        )
    numbers = [check.number("distances", value, 0.0) for row in rows for value in row]
    if max(numbers) == 0.0:
        raise ValueError("distances must hold a number above 0, got only 0.")
    return tuple([value / max(numbers) for value in numbers])

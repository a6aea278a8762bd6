"""Region losses of squared errors on the object and around it, which PyTorch finishes as those of overlap.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _arguments as check
from ._types import Backend, Empty, Mode, Vector
from .losses import SingleLoss
from .spec import Term


class SensitivitySpecificityLoss(SingleLoss):
    """Sensitivity-specificity loss (Brosch et al. 2015): what is missed of the object, and what is false outside.

    Per class: loss = r sum (1 - p)^2 y / sum y + (1 - r) sum p^2 (1 - y) / sum (1 - y), then the mean over classes; the
    paper's form for labels of 0 and 1. Shapes of the call: see `Criterion.forward`.
    """

    def __init__(
        self,
        mode: Mode = "binary",
        *,
        sensitivity: float = 0.05,
        classes: Sequence[int] | None = None,
        class_weights: Vector | None = None,
        batch: bool = True,
        empty: Empty | None = None,
        ignore_index: int | None = None,
        process_group: Any = None,
        backend: Backend | None = None,
    ) -> None:
        """Make a sensitivity-specificity loss.

        Args:
            mode: "binary", "multilabel" or "multiclass".
            sensitivity: r, between 0 and 1; a small one, since the object is small.
            classes: channels that count (not binary).
            class_weights: one for each channel, at least 0: sum(w loss) / sum(w) (not binary).
            batch: True pools batch and space; False takes each sample by itself and averages over samples.
            empty: what a class without target pixels gives: "zero" (loss and gradient 0, but counted in the mean; the
                default for batch=True), "skip" (left out of the mean) or "score" (the formula, whose first part is then
                0). batch=False has no default for it.
            ignore_index: targets of this value are left out.
            process_group: True (the default group) or a group: the sums are reduced over its processes.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit, or two that do not go together.
        """
        grouped, shown = check.grouping(mode, classes, class_weights, batch, empty)
        ratio = check.number("sensitivity", sensitivity, 0.0, 1.0)
        term = Term("sensitivity_specificity", alpha=ratio, squared=True, crossed=True, **grouped)
        shown = {"sensitivity": f"{ratio:g}" if ratio != 0.05 else None, **shown}
        super().__init__("sensitivity", term, mode, shown, ignore_index, backend, process_group)


class WeightedSoftDiceLoss(SingleLoss):
    """Weighted soft Dice loss (Wang et al. 2020): Dice that also sees the background, each pixel by its weight.

    Per class: with w = v where y = 0 and 1 - v where y = 1, a = w (2p - 1) and b = w (2y - 1), loss = 1 - (sum a b + s)
    / max((sum a^2 + sum b^2) / 2 + s, eps), between 0 and 2, then the mean over classes. Shapes of the call: see
    `Criterion.forward`.
    """

    def __init__(
        self,
        mode: Mode = "binary",
        *,
        background: float = 0.1,
        smooth: float = 0.0,
        eps: float = 1e-7,
        classes: Sequence[int] | None = None,
        class_weights: Vector | None = None,
        batch: bool = True,
        empty: Empty | None = None,
        ignore_index: int | None = None,
        process_group: Any = None,
        backend: Backend | None = None,
    ) -> None:
        """Make a weighted soft Dice loss.

        Args:
            mode: "binary", "multilabel" or "multiclass".
            background: v, between 0 and 1/2; 1/2 weighs all pixels alike.
            smooth: s, at least 0.
            eps: smallest denominator, greater than 0.
            classes: channels that count (not binary).
            class_weights: one for each channel, at least 0: sum(w loss) / sum(w) (not binary).
            batch: True pools batch and space; False takes each sample by itself and averages over samples.
            empty: what a class without target pixels gives: "zero" (loss and gradient 0, but counted in the mean; the
                default for batch=True), "skip" (left out of the mean) or "score" (the formula, which pushes the class
                away). batch=False has no default for it.
            ignore_index: targets of this value are left out.
            process_group: True (the default group) or a group: the sums are reduced over its processes.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit, or two that do not go together.
        """
        grouped, shown = check.grouping(mode, classes, class_weights, batch, empty)
        term = Term(
            "weighted_dice",
            alpha=check.number("background", background, 0.0, 0.5),
            smooth=check.number("smooth", smooth, 0.0),
            eps=check.number("eps", eps, 0.0, open_low=True),
            squared=True,
            crossed=True,
            **grouped,
        )
        given = {"background": f"{background:g}" if background != 0.1 else None}
        given |= {"smooth": f"{smooth:g}" if smooth else None, "eps": f"{eps:g}" if eps != 1e-7 else None}
        super().__init__("weighted", term, mode, {**given, **shown}, ignore_index, backend, process_group)

"""Region losses of which the kernels make the sums and PyTorch the rest: a few numbers, in reference/overlap.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _arguments as check
from ._types import Backend, Empty, Mode, Vector, Weighting
from .losses import SingleLoss
from .spec import Term

WEIGHTINGS = {"square": 2.0, "simple": 1.0, "uniform": 0.0}  # powers of the size of a class that its weight divides by


class MCCLoss(SingleLoss):
    """1 - Matthews' correlation coefficient (Abhishek & Hamarneh 2021).

    Per class, against the rest: loss = 1 - (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)) with s added
    to each of the four, then the mean over classes. TN = sum (1 - p) (1 - y); the other sums are those of
    `TverskyLoss`. Shapes of the call: see `Criterion.forward`.
    """

    def __init__(
        self,
        mode: Mode = "binary",
        *,
        smooth: float = 1e-5,
        classes: Sequence[int] | None = None,
        class_weights: Vector | None = None,
        batch: bool = True,
        empty: Empty | None = None,
        ignore_index: int | None = None,
        process_group: Any = None,
        backend: Backend | None = None,
    ) -> None:
        """Make a loss of Matthews' correlation coefficient.

        Args:
            mode: "binary", "multilabel" or "multiclass".
            smooth: s, greater than 0; 1e-5 is that of smp.
            classes: channels that count (not binary).
            class_weights: one for each channel, at least 0: sum(w loss) / sum(w) (not binary).
            batch: True pools batch and space; False takes each sample by itself and averages over samples.
            empty: what a class without target pixels gives: "zero" (loss and gradient 0, but counted in the mean; the
                default for batch=True), "skip" (left out of the mean) or "score" (the formula, as in smp). batch=False
                has no default for it.
            ignore_index: targets of this value are left out.
            process_group: True (the default group) or a group: the sums are reduced over its processes.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit, or two that do not go together.
        """
        grouped, shown = check.grouping(mode, classes, class_weights, batch, empty)
        term = Term("mcc", smooth=check.number("smooth", smooth, 0.0, open_low=True), **grouped)
        shown = {"smooth": f"{smooth:g}" if smooth != 1e-5 else None, **shown}
        super().__init__("mcc", term, mode, shown, ignore_index, backend, process_group)


class GeneralizedDiceLoss(SingleLoss):
    """Generalised Dice loss (Sudre et al. 2017): one Dice of all classes, in which a rare class weighs more.

    loss = 1 - (sum_c w_c TP_c + s) / (sum_c w_c (sum p + sum y) / 2 + s) with w_c = 1 / (sum y)^2. In mode "binary"
    there is one class, so that it is Dice. Shapes of the call: see `Criterion.forward`.
    """

    def __init__(
        self,
        mode: Mode = "binary",
        *,
        weighting: Weighting = "square",
        smooth: float = 0.0,
        classes: Sequence[int] | None = None,
        batch: bool = True,
        empty: Empty | None = None,
        ignore_index: int | None = None,
        process_group: Any = None,
        backend: Backend | None = None,
    ) -> None:
        """Make a generalised Dice loss.

        Args:
            mode: "binary", "multilabel" or "multiclass".
            weighting: w_c: "square" 1 / (sum y)^2, "simple" 1 / sum y or "uniform" 1.
            smooth: s, at least 0, beside sums that the weights make small; 5e-6 is MONAI's 1e-5.
            classes: channels that count (not binary).
            batch: True pools batch and space; False takes each sample by itself and averages over samples.
            empty: a class without target pixels, whose weight is infinite: "zero" and "skip" give it none, "score" the
                largest of the other classes, as in MONAI. Where no class has a target pixel, the loss is 0, and "skip"
                leaves the sample out of the mean. batch=True has the default "zero", batch=False none.
            ignore_index: targets of this value are left out.
            process_group: True (the default group) or a group: the sums are reduced over its processes.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit, or two that do not go together.
        """
        grouped, shown = check.grouping(mode, classes, None, batch, empty)
        power = WEIGHTINGS[check.choice("weighting", weighting, tuple(WEIGHTINGS))]
        term = Term("generalized_dice", gamma=power, smooth=check.number("smooth", smooth, 0.0), **grouped)
        given = {"weighting": repr(weighting) if weighting != "square" else None}
        shown = {**given, "smooth": f"{smooth:g}" if smooth else None, **shown}
        super().__init__("generalized_dice", term, mode, shown, ignore_index, backend, process_group)

"""Region losses of which the kernels make the sums and PyTorch the rest: a few numbers, in reference/overlap.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _arguments as check
from ._types import Backend, Empty, Mode, PlainEmpty, Vector, Weighting
from .losses import SingleLoss
from .spec import EMPTY, Term

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
        super().__init__("generalized", term, mode, shown, ignore_index, backend, process_group)


class TvMFDiceLoss(SingleLoss):
    """t-vMF Dice loss (Kato & Hotta 2024): Dice by an angle, whose peak kappa makes narrow.

    Per class: cos = sum p y / sqrt(sum p^2 sum y^2), phi = (1 + cos) / (1 + kappa (1 - cos)) - 1, loss = (1 - phi)^2,
    then the mean over classes. Shapes of the call: see `Criterion.forward`.
    """

    def __init__(
        self,
        mode: Mode = "binary",
        *,
        kappa: float | Vector = 32.0,
        classes: Sequence[int] | None = None,
        class_weights: Vector | None = None,
        batch: bool = True,
        empty: PlainEmpty | None = None,
        ignore_index: int | None = None,
        process_group: Any = None,
        backend: Backend | None = None,
    ) -> None:
        """Make a t-vMF Dice loss.

        Args:
            mode: "binary", "multilabel" or "multiclass".
            kappa: concentration, a number or one for each channel, at least 0; 0 leaves the cosine. The paper's
                adaptive form is 32 times the validation Dice of each class: make a new loss after each epoch.
            classes: channels that count (not binary).
            class_weights: one for each channel, at least 0: sum(w loss) / sum(w) (not binary).
            batch: True pools batch and space; False takes each sample by itself and averages over samples.
            empty: what a class without target pixels gives: "zero" (loss and gradient 0, but counted in the mean; the
                default for batch=True) or "skip" (left out of the mean). There is no angle to nothing, so no "score".
                batch=False has no default for it.
            ignore_index: targets of this value are left out.
            process_group: True (the default group) or a group: the sums are reduced over its processes.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit, or two that do not go together.
        """
        grouped, shown = check.grouping(mode, classes, class_weights, batch, empty, EMPTY[:2])
        if kappa is None:
            raise TypeError("kappa must be a number or a list of them, got None.")
        numbers = check.number_or_vector("kappa", kappa)
        term = Term("tvmf_dice", kappa=numbers, squared=True, **grouped)
        shown = {"kappa": f"{numbers[0]:g}" if len(numbers) == 1 else list(numbers), **shown}
        super().__init__("tvmf", term, mode, shown, ignore_index, backend, process_group)


class BoundaryDoULoss(SingleLoss):
    """Boundary difference over union loss (Sun et al. 2023).

    Per class: with E the number of pixels at the boundary of the target and alpha = min(1 - 2 E / sum y, cap), loss =
    (sum p^2 + sum y^2 - 2 TP + s) / max(sum p^2 + sum y^2 - (1 + alpha) TP + s, eps), then the mean over classes: the
    smaller a target, the nearer to 1 - Dice, the larger, the more its border decides. A pixel is at the boundary if one
    of its neighbours along the axes (2 for each) is not of its class, or outside the image. Shapes of the call: see
    `Criterion.forward`.
    """

    def __init__(
        self,
        mode: Mode = "binary",
        *,
        cap: float = 0.8,
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
        """Make a boundary difference over union loss.

        Args:
            mode: "binary", "multilabel" or "multiclass".
            cap: largest alpha, between 0 and 1.
            smooth: s, at least 0, also added to E and sum y; 1e-5 in the authors' code.
            eps: smallest denominator, greater than 0.
            classes: channels that count (not binary).
            class_weights: one for each channel, at least 0: sum(w loss) / sum(w) (not binary).
            batch: True pools batch and space; False takes each sample by itself and averages over samples.
            empty: what a class without target pixels gives: "zero" (loss and gradient 0, but counted in the mean; the
                default for batch=True), "skip" (left out of the mean) or "score" (the formula, which is 1; needs
                smooth > 0). batch=False has no default for it.
            ignore_index: targets of this value are left out.
            process_group: True (the default group) or a group: the sums are reduced over its processes.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit, or two that do not go together.
        """
        grouped, shown = check.grouping(mode, classes, class_weights, batch, empty)
        smooth = check.number("smooth", smooth, 0.0)
        check.scored(grouped["empty"], smooth)
        term = Term(
            "boundary_dou",
            alpha=check.number("cap", cap, 0.0, 1.0),
            smooth=smooth,
            eps=check.number("eps", eps, 0.0, open_low=True),
            squared=True,
            **grouped,
        )
        given = {"cap": f"{cap:g}" if cap != 0.8 else None, "smooth": f"{smooth:g}" if smooth else None}
        given["eps"] = f"{eps:g}" if eps != 1e-7 else None
        super().__init__("dou", term, mode, {**given, **shown}, ignore_index, backend, process_group)

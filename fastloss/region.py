"""The region losses: functions of the sums over a class, all of them Tversky's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _arguments as check
from ._types import Backend, Curve, Empty, Mode, Soft, Vector
from .losses import SingleLoss
from .spec import CURVES, Term


class TverskyLoss(SingleLoss):
    """Tversky loss (Salehi et al. 2017); focal Tversky for gamma != 1 (Abraham & Khan 2019).

    Per class: score = (TP + s) / max(TP + alpha FP + beta FN + s, eps), loss = (1 - score)^gamma or another `curve`,
    then the mean over classes; TP = sum p y, FP = sum p (1 - y), FN = sum (1 - p) y with p = sigmoid or softmax. Shapes
    of the call: see `Criterion.forward`.
    """

    def __init__(
        self,
        mode: Mode = "binary",
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        curve: Curve = "power",
        smooth: float = 0.0,
        eps: float = 1e-7,
        log_loss: bool = False,
        classes: Sequence[int] | None = None,
        class_weights: Vector | None = None,
        squared: bool = False,
        soft: Soft = "product",
        batch: bool = True,
        empty: Empty | None = None,
        ignore_index: int | None = None,
        process_group: Any = None,
        backend: Backend | None = None,
    ) -> None:
        """Make a Tversky loss.

        Args:
            mode: "binary", "multilabel" or "multiclass".
            alpha: weighs false positives, at least 0.
            beta: weighs false negatives, at least 0.
            gamma: exponent of the curve, greater than 0.
            curve: what the loss of a class is of its score: "power" (1 - score)^gamma, "log_cosh" log cosh(1 - score)
                (Jadon 2020; no gamma), "root" 1 - score^gamma (focal Dice, Wang & Chung 2018, whose beta is 1 / gamma)
                or "log" (-log max(score, eps))^gamma (exponential logarithmic loss, Wong et al. 2018).
            smooth: s, at least 0.
            eps: smallest denominator, and smallest score of the curves "root" and "log"; greater than 0.
            log_loss: True is curve="log" by another name, -log max(score, eps); not together with gamma or curve.
            classes: channels that count (not binary).
            class_weights: one for each channel, at least 0: sum(w loss) / sum(w) (not binary).
            squared: sums of p^2 and y^2 in place of those of p and y in the denominator.
            soft: "product" (TP = sum p y) or "l1" (TP = (sum p + sum y - sum |p - y|) / 2, as smp), for soft labels.
            batch: True pools batch and space; False takes each sample by itself and averages over samples.
            empty: what a class without target pixels gives: "zero" (loss and gradient 0, but counted in the mean: smp's
                rule and the default for batch=True), "skip" (left out of the mean) or "score" (the formula; needs
                smooth > 0). batch=False has no default for it.
            ignore_index: targets of this value are left out.
            process_group: True (the default group) or a group: the sums are reduced over its processes, so that
                data-parallel training sees the loss of the global batch; DDP's mean over ranks is then its gradient.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit, or two that do not go together.
        """
        term, shown = _region(
            mode, gamma, curve, smooth, eps, log_loss, classes, class_weights, squared, soft, batch, empty,
            alpha=check.number("alpha", alpha, 0.0),
            beta=check.number("beta", beta, 0.0),
        )  # fmt: skip
        weighs = {"alpha": f"{alpha:g} (FP)", "beta": f"{beta:g} (FN)"}
        super().__init__("tversky", term, mode, {**weighs, **shown}, ignore_index, backend, process_group)


class DiceLoss(SingleLoss):
    """Soft Dice loss (Milletari et al. 2016): `TverskyLoss` with alpha = beta = 1/2.

    Per class: score = (TP + s) / max(TP + FP/2 + FN/2 + s, eps), loss = 1 - score or another `curve`, then the mean
    over classes. Shapes of the call: see `Criterion.forward`.
    """

    def __init__(
        self,
        mode: Mode = "binary",
        *,
        gamma: float = 1.0,
        curve: Curve = "power",
        smooth: float = 0.0,
        eps: float = 1e-7,
        log_loss: bool = False,
        classes: Sequence[int] | None = None,
        class_weights: Vector | None = None,
        squared: bool = False,
        soft: Soft = "product",
        batch: bool = True,
        empty: Empty | None = None,
        ignore_index: int | None = None,
        process_group: Any = None,
        backend: Backend | None = None,
    ) -> None:
        """Make a soft Dice loss.

        Args:
            mode: "binary", "multilabel" or "multiclass".
            gamma: exponent of the curve, greater than 0.
            curve: what the loss of a class is of its score: "power" (1 - score)^gamma, "log_cosh" log cosh(1 - score)
                (Jadon 2020; no gamma), "root" 1 - score^gamma (focal Dice, Wang & Chung 2018, whose beta is 1 / gamma)
                or "log" (-log max(score, eps))^gamma (exponential logarithmic loss, Wong et al. 2018).
            smooth: s, at least 0; the classic is (2 TP + 2s) / (sum p + sum y + 2s), as in smp.
            eps: smallest denominator, and smallest score of the curves "root" and "log"; greater than 0.
            log_loss: True is curve="log" by another name, -log max(score, eps); not together with gamma or curve.
            classes: channels that count (not binary).
            class_weights: one for each channel, at least 0: sum(w loss) / sum(w) (not binary).
            squared: sums of p^2 and y^2 in place of those of p and y in the denominator.
            soft: "product" (TP = sum p y) or "l1" (TP = (sum p + sum y - sum |p - y|) / 2, as smp), for soft labels.
            batch: True pools batch and space; False takes each sample by itself and averages over samples.
            empty: what a class without target pixels gives: "zero" (loss and gradient 0, but counted in the mean: smp's
                rule and the default for batch=True), "skip" (left out of the mean) or "score" (the formula; needs
                smooth > 0). batch=False has no default for it.
            ignore_index: targets of this value are left out.
            process_group: True (the default group) or a group: the sums are reduced over its processes, so that
                data-parallel training sees the loss of the global batch; DDP's mean over ranks is then its gradient.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit, or two that do not go together.
        """
        term, shown = _region(
            mode, gamma, curve, smooth, eps, log_loss, classes, class_weights, squared, soft, batch, empty,
            alpha=0.5, beta=0.5,
        )  # fmt: skip
        super().__init__("dice", term, mode, shown, ignore_index, backend, process_group)


class JaccardLoss(SingleLoss):
    """Soft Jaccard (IoU) loss (Rahman & Wang 2016): `TverskyLoss` with alpha = beta = 1.

    Per class: score = (TP + s) / max(TP + FP + FN + s, eps), loss = 1 - score or another `curve`, then the mean over
    classes. Shapes of the call: see `Criterion.forward`.
    """

    def __init__(
        self,
        mode: Mode = "binary",
        *,
        gamma: float = 1.0,
        curve: Curve = "power",
        smooth: float = 0.0,
        eps: float = 1e-7,
        log_loss: bool = False,
        classes: Sequence[int] | None = None,
        class_weights: Vector | None = None,
        squared: bool = False,
        soft: Soft = "product",
        batch: bool = True,
        empty: Empty | None = None,
        ignore_index: int | None = None,
        process_group: Any = None,
        backend: Backend | None = None,
    ) -> None:
        """Make a soft Jaccard (IoU) loss.

        Args:
            mode: "binary", "multilabel" or "multiclass".
            gamma: exponent of the curve, greater than 0.
            curve: what the loss of a class is of its score: "power" (1 - score)^gamma, "log_cosh" log cosh(1 - score)
                (Jadon 2020; no gamma), "root" 1 - score^gamma (focal Dice, Wang & Chung 2018, whose beta is 1 / gamma)
                or "log" (-log max(score, eps))^gamma (exponential logarithmic loss, Wong et al. 2018).
            smooth: s, at least 0.
            eps: smallest denominator, and smallest score of the curves "root" and "log"; greater than 0.
            log_loss: True is curve="log" by another name, -log max(score, eps); not together with gamma or curve.
            classes: channels that count (not binary).
            class_weights: one for each channel, at least 0: sum(w loss) / sum(w) (not binary).
            squared: sums of p^2 and y^2 in place of those of p and y in the denominator.
            soft: "product" (TP = sum p y) or "l1" (TP = (sum p + sum y - sum |p - y|) / 2, as smp), for soft labels.
            batch: True pools batch and space; False takes each sample by itself and averages over samples.
            empty: what a class without target pixels gives: "zero" (loss and gradient 0, but counted in the mean: smp's
                rule and the default for batch=True), "skip" (left out of the mean) or "score" (the formula; needs
                smooth > 0). batch=False has no default for it.
            ignore_index: targets of this value are left out.
            process_group: True (the default group) or a group: the sums are reduced over its processes, so that
                data-parallel training sees the loss of the global batch; DDP's mean over ranks is then its gradient.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit, or two that do not go together.
        """
        term, shown = _region(
            mode, gamma, curve, smooth, eps, log_loss, classes, class_weights, squared, soft, batch, empty,
            alpha=1.0, beta=1.0,
        )  # fmt: skip
        super().__init__("jaccard", term, mode, shown, ignore_index, backend, process_group)


IoULoss = JaccardLoss


def _region(
    mode: str,
    gamma: float,
    curve: str,
    smooth: float,
    eps: float,
    log_loss: bool,
    classes: Sequence[int] | None,
    class_weights: Vector | None,
    squared: bool,
    soft: str,
    batch: bool,
    empty: str | None,
    **tversky: Any,
) -> tuple[Term, dict[str, Any]]:
    """The term of a Tversky loss, and what its repr shows."""
    check.mode(mode)
    gamma = check.number("gamma", gamma, 0.0, open_low=True)
    curve = check.choice("curve", curve, CURVES)
    for name, value, plain in (("gamma", gamma, 1.0), ("curve", curve, "power")):
        if check.flag("log_loss", log_loss) and value != plain:
            raise ValueError(f"log_loss cannot be combined with {name}, got log_loss=True and {name}={value!r}.")
    if curve == "log_cosh" and gamma != 1.0:
        raise ValueError(f"gamma cannot be combined with curve='log_cosh', which has no exponent, got {gamma}.")
    smooth = check.number("smooth", smooth, 0.0)
    grouped, shown_group = check.grouping(mode, classes, class_weights, batch, empty)
    check.scored(grouped["empty"], smooth)
    term = Term(
        "tversky",
        smooth=smooth,
        eps=check.number("eps", eps, 0.0, open_low=True),
        gamma=gamma,
        curve="log" if log_loss else curve,
        squared=check.flag("squared", squared),
        l1=check.choice("soft", soft, ("product", "l1")) == "l1",
        **grouped,
        **tversky,
    )
    shown = {
        "gamma": f"{gamma:g}" if gamma != 1 else None,
        "curve": repr(curve) if curve != "power" else None,
        "smooth": f"{smooth:g}" if smooth else None,
        "eps": f"{term.eps:g}" if term.eps != 1e-7 else None,
        "log_loss": log_loss or None,
        **shown_group,
        "squared": term.squared or None,
        "soft": "'l1'" if term.l1 else None,
    }
    return term, shown

"""Cross-entropies of another shape: Poly-1 and the exponential logarithmic one."""

from __future__ import annotations

from typing import Any

from . import _arguments as check
from ._types import Backend, Mode, Reduction, Vector
from .losses import SingleLoss, numbers, reduced
from .spec import Term


class PolyLoss(SingleLoss):
    """Poly-1 loss (Leng et al. 2022, "PolyLoss: A polynomial expansion perspective of classification loss functions"):
    the mean of cross-entropy + eps (1 - p_t).

    Multiclass: w_t [-log p_t + eps (1 - p_t)], of probabilities its mean under them. Binary and multilabel: the same
    of each element, w y [-log p + eps (1 - p)] + (1 - y) [-log(1 - p) + eps p]. Shapes of the call: see
    `Criterion.forward`.
    """

    def __init__(
        self,
        mode: Mode = "binary",
        *,
        eps: float = 1.0,
        pos_weight: float | Vector | None = None,
        class_weights: Vector | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        ignore_index: int | None = None,
        backend: Backend | None = None,
    ) -> None:
        """Make a Poly-1 loss.

        Args:
            mode: "binary", "multilabel" or "multiclass".
            eps: coefficient of 1 - p_t, at least -1; 0 gives cross-entropy.
            pos_weight: w of the positives, a number or one for each channel, at least 0 (not multiclass).
            class_weights: one for each class, at least 0 (multiclass); the mean divides as in `CrossEntropyLoss`.
            label_smoothing: e in [0, 1]; the target becomes y (1 - e) + e / C, with C = 2 where it is no class.
            reduction: "mean", "sum" or "none" (x's shape; multiclass [N, *S]).
            ignore_index: targets of this value are left out.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit.
        """
        vector, weights = _weights(mode, pos_weight, class_weights)
        term = Term(
            "poly",
            eps=check.number("eps", eps, -1.0),
            reduction=check.reduction(reduction),
            label_smoothing=check.number("label_smoothing", label_smoothing, 0.0, 1.0),
            vector=vector,
        )
        shown = {"eps": f"{eps:g}", **weights, "label_smoothing": label_smoothing or None, **reduced(reduction)}
        super().__init__("poly", term, mode, shown, ignore_index, backend)


class ExpLogCrossEntropyLoss(SingleLoss):
    """Exponential logarithmic cross-entropy (Wong et al. 2018, "3D segmentation with exponential logarithmic loss for
    highly unbalanced object sizes", eq. 3): the mean of w_t (-log p_t)^gamma.

    Binary and multilabel: w y (-log p)^gamma + (1 - y) (-log(1 - p))^gamma of each element. Below gamma = 1 the
    derivative by -log p_t is infinite at p_t = 1: it is taken at 1e-7 there, where the published code clips p. Shapes
    of the call: see `Criterion.forward`.
    """

    def __init__(
        self,
        mode: Mode = "multiclass",
        *,
        gamma: float = 0.3,
        pos_weight: float | Vector | None = None,
        class_weights: Vector | None = None,
        reduction: Reduction = "mean",
        ignore_index: int | None = None,
        backend: Backend | None = None,
    ) -> None:
        """Make an exponential logarithmic cross-entropy.

        Args:
            mode: "binary", "multilabel" or "multiclass".
            gamma: greater than 0, at most 5; 1 is cross-entropy, less pushes also what is nearly right.
            pos_weight: w of the positives, a number or one for each channel, at least 0 (not multiclass).
            class_weights: w, one for each class, at least 0 (multiclass); the mean divides by the number of pixels.
            reduction: "mean", "sum" or "none" (x's shape; multiclass [N, *S]).
            ignore_index: targets of this value are left out.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit.
        """
        vector, weights = _weights(mode, pos_weight, class_weights)
        power = check.number("gamma", gamma, 0.0, 5.0, open_low=True)
        term = Term("log_power", gamma=power, reduction=check.reduction(reduction), vector=vector)
        shown = {"gamma": f"{gamma:g}", **weights, **reduced(reduction)}
        super().__init__("explog", term, mode, shown, ignore_index, backend)


def _weights(mode: str, pos_weight: Any, class_weights: Any) -> tuple[tuple[float, ...], dict[str, Any]]:
    """The vector of a term, and what its repr shows of it."""
    softmax = check.mode(mode) == "multiclass"
    if softmax and pos_weight is not None:
        raise ValueError("pos_weight needs mode 'binary' or 'multilabel', got 'multiclass'; use class_weights.")
    if not softmax and class_weights is not None:
        raise ValueError(f"class_weights needs mode 'multiclass', got {mode!r}; use pos_weight.")
    if softmax:
        vector = check.vector("class_weights", class_weights)
    else:
        vector = check.number_or_vector("pos_weight", pos_weight)
    return vector, {"class_weights" if softmax else "pos_weight": numbers(vector)}

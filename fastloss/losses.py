"""The pointwise losses. Each is one `Term` with checked arguments; the arithmetic lives in the backends."""

from __future__ import annotations

from typing import Any

from . import _arguments as check
from ._types import Backend, Mode, Reduction, ScalarReduction, SigmoidMode, SoftmaxMode, Vector
from .compound import Criterion, Part
from .spec import Term

SIGMOID = ("binary", "multilabel")


class SingleLoss(Criterion):
    """A loss of a single term."""

    def __init__(
        self,
        name: str,
        term: Term,
        mode: str,
        shown: dict[str, Any],
        ignore_index: int | None,
        backend: str | None,
        process_group: Any = None,
    ) -> None:
        ignore_index = check.index("ignore_index", ignore_index)
        shown["ignore_index"] = ignore_index
        shown["process_group"] = check.shown_group(process_group)
        shown["backend"] = None if backend is None else repr(backend)
        part = Part(name, self._text(mode, shown), term)
        super().__init__([part], mode, ignore_index, check.backend(backend), check.process_group(process_group))

    def _text(self, mode: str, shown: dict[str, Any]) -> str:
        """`Name('binary', alpha=0.3 (FP))`: the repr, without what has its default."""
        words = [repr(mode)] + [f"{name}={value}" for name, value in shown.items() if value is not None]
        return f"{type(self).__name__}({', '.join(words)})"

    def __repr__(self) -> str:
        return self._parts[0].text


class BCEWithLogitsLoss(SingleLoss):
    """Binary cross-entropy of logits: the mean over N·C·S of -[w y log p + (1 - y) log(1 - p)], p = sigmoid(x).

    Shapes of the call: see `Criterion.forward`.
    """

    def __init__(
        self,
        mode: SigmoidMode = "binary",
        *,
        pos_weight: float | Vector | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        ignore_index: int | None = None,
        backend: Backend | None = None,
    ) -> None:
        """Make a binary cross-entropy.

        Args:
            mode: "binary" or "multilabel".
            pos_weight: w, a number or one for each channel, at least 0.
            label_smoothing: e in [0, 1]; y becomes y (1 - e) + e / 2.
            reduction: "mean" (over the valid elements), "sum" or "none" (x's shape).
            ignore_index: targets of this value are left out.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit.
        """
        check.mode(mode, SIGMOID, "; use CrossEntropyLoss")
        term = Term(
            "bce",
            reduction=check.reduction(reduction),
            label_smoothing=check.number("label_smoothing", label_smoothing, 0.0, 1.0),
            vector=check.number_or_vector("pos_weight", pos_weight),
        )
        shown = {"pos_weight": numbers(term.vector), "label_smoothing": label_smoothing or None, **reduced(reduction)}
        super().__init__("bce", term, mode, shown, ignore_index, backend)


class CrossEntropyLoss(SingleLoss):
    """Softmax cross-entropy, with the formulas of `torch.nn.functional.cross_entropy` but ignore_index=None.

    Shapes of the call: see `Criterion.forward`.
    """

    def __init__(
        self,
        mode: SoftmaxMode = "multiclass",
        *,
        class_weights: Vector | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        ignore_index: int | None = None,
        backend: Backend | None = None,
    ) -> None:
        """Make a softmax cross-entropy.

        Args:
            mode: "multiclass".
            class_weights: one number for each class, at least 0. With class indices the mean divides by the sum of the
                weights of the valid pixels (and is 0 where that is 0, not NaN as in torch), with probabilities by their
                number.
            label_smoothing: e in [0, 1]; the target becomes y (1 - e) + e / C.
            reduction: "mean", "sum" or "none" ([N, *S]).
            ignore_index: pixels with this class index are left out.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit.
        """
        check.mode(mode, ("multiclass",), "; use BCEWithLogitsLoss")
        term = Term(
            "ce",
            reduction=check.reduction(reduction),
            label_smoothing=check.number("label_smoothing", label_smoothing, 0.0, 1.0),
            vector=check.vector("class_weights", class_weights),
        )
        shown = {"class_weights": list(term.vector) or None, "label_smoothing": label_smoothing or None}
        super().__init__("ce", term, mode, {**shown, **reduced(reduction)}, ignore_index, backend)


class FocalLoss(SingleLoss):
    """Focal loss (Lin et al. 2017, eq. 5): the mean of alpha_t (1 - p_t)^gamma (-log p_t).

    Binary and multilabel: elementwise with -log p_t = BCE, also for soft labels, and alpha_t = alpha y +
    (1 - alpha)(1 - y). Multiclass: the softmax probability of the target class (not one-vs-rest sigmoids as in smp).
    Shapes of the call: see `Criterion.forward`.
    """

    def __init__(
        self,
        mode: Mode = "binary",
        *,
        gamma: float = 2.0,
        alpha: float | Vector | None = None,
        reduction: Reduction = "mean",
        ignore_index: int | None = None,
        backend: Backend | None = None,
    ) -> None:
        """Make a focal loss.

        Args:
            mode: "binary", "multilabel" or "multiclass".
            gamma: at least 0; 0 gives (alpha-weighted) cross-entropy.
            alpha: weight of the positives in [0, 1], for multilabel also one for each channel; multiclass: a number
                that multiplies every class, or one for each class, at least 0.
            reduction: "mean", "sum" or "none" (x's shape; multiclass [N, *S]).
            ignore_index: targets of this value are left out.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit.
        """
        check.mode(mode)
        softmax = mode == "multiclass"
        term = Term(
            "focal",
            reduction=check.reduction(reduction),
            gamma=check.number("gamma", gamma, 0.0),
            vector=check.number_or_vector("alpha", alpha, float("inf") if softmax else 1.0),
        )
        weighs = "classes" if softmax else "positives"
        shown = {"gamma": f"{gamma:g}", "alpha": f"{numbers(term.vector)} ({weighs})" if term.vector else None}
        super().__init__("focal", term, mode, {**shown, **reduced(reduction)}, ignore_index, backend)


class TopKLoss(SingleLoss):
    """Mean of the max(1, floor(k n)) largest BCE (multiclass: cross-entropy) elements of the whole batch.

    n is the number of valid elements. Elements equal to the smallest selected one share its weight equally. (Wu et al.
    2016, "Bridging category-level and instance-level semantic image segmentation"; the form of nnU-Net.)
    Shapes of the call: see `Criterion.forward`.
    """

    def __init__(
        self,
        mode: Mode = "binary",
        *,
        k: float = 0.1,
        reduction: ScalarReduction = "mean",
        ignore_index: int | None = None,
        backend: Backend | None = None,
        process_group: Any = None,
    ) -> None:
        """Make a top-k cross-entropy.

        Args:
            mode: "binary", "multilabel" or "multiclass".
            k: share of the elements, a float in (0, 1] read as a decimal (0.29 of 100 is 29). Integers are refused,
                since nnU-Net's k counts percent.
            reduction: "mean" or "sum" of the selected elements.
            ignore_index: targets of this value are left out.
            process_group: True or a torch.distributed group: the largest elements of the batch of all its processes.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit.
        """
        check.mode(mode)
        term = Term("topk", reduction=check.reduction(reduction, ("mean", "sum")), k=check.fraction(k))
        shown = {"k": f"{float(k):g}", **reduced(reduction)}
        super().__init__("topk", term, mode, shown, ignore_index, backend, process_group)


def numbers(vector: tuple[float, ...]) -> str | list[float] | None:
    return None if not vector else f"{vector[0]:g}" if len(vector) == 1 else list(vector)


def reduced(reduction: str) -> dict[str, str | None]:
    return {"reduction": repr(reduction) if reduction != "mean" else None}

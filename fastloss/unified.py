"""The unified focal losses: sums of focal and Tversky terms, settings of what there is."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import _arguments as check
from ._types import Backend, Empty, SoftmaxMode
from .compound import CompoundLoss
from .losses import FocalLoss
from .region import TverskyLoss


class UnifiedFocalLoss(CompoundLoss):
    """Unified focal loss (Yeung et al. 2022, "Unified Focal loss: Generalising Dice and cross entropy-based losses to
    handle class imbalanced medical image segmentation"): weight F + (1 - weight) T, a sum of existing terms.

    Class 0 is the background. With a = 1 - delta for it and a = delta for the others, and C classes:

        F = mean over pixels of a_t (1 - p_t)^g (-log p_t)
        T = mean over samples and classes of (1 - score)^(1 - h),
            score = (TP + s) / (TP + (1 - delta) FP + delta FN + s)

    The symmetric form has g = h = gamma for all classes. The asymmetric one suppresses the background only in F (g = 0
    for the others) and enhances the others only in T (h = 0 for the background). Logits, not probabilities as in the
    published code, which clips them to [1e-7, 1 - 1e-7]; there `weight` weighs T. Shapes of the call: see
    `Criterion.forward`.
    """

    def __init__(
        self,
        mode: SoftmaxMode = "multiclass",
        *,
        num_classes: int = 2,
        weight: float = 0.5,
        delta: float = 0.6,
        gamma: float = 0.5,
        asymmetric: bool = True,
        smooth: float = 1e-7,
        batch: bool = False,
        empty: Empty = "score",
        ignore_index: int | None = None,
        process_group: Any = None,
        backend: Backend | None = None,
    ) -> None:
        """Make a unified focal loss.

        Args:
            mode: "multiclass".
            num_classes: channels of the logits, at least 2.
            weight: of F, in [0, 1]; T has the rest.
            delta: in [0, 1]; weighs false negatives, and in F all classes but the background.
            gamma: in [0, 1); 0 is weighted cross-entropy and Tversky loss.
            asymmetric: False gives the symmetric form.
            smooth: s, at least 0.
            batch: False takes the scores of each sample by itself, as published; True pools batch and space.
            empty: what a class without target pixels gives: "score" (the formula: a score near 0, as published),
                "zero" or "skip", as in `TverskyLoss`.
            ignore_index: pixels with this class index are left out.
            process_group: as in `TverskyLoss`.
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit.
        """
        check.mode(mode, ("multiclass",), "; a mask of one class is class indices 0 and 1 with two logits")
        classes = check.count("num_classes", num_classes, 2)
        weight = check.number("weight", weight, 0.0, 1.0)
        delta = check.number("delta", delta, 0.0, 1.0)
        gamma = check.number("gamma", gamma, 0.0, 1.0)
        if gamma == 1.0:
            raise ValueError("gamma must be below 1, got 1.0, which leaves (1 - score)^0.")
        one_sided = check.flag("asymmetric", asymmetric)
        common: dict[str, Any] = {"ignore_index": ignore_index, "backend": backend}
        scores: dict[str, Any] = {
            **{"alpha": 1.0 - delta, "beta": delta, "smooth": smooth, "batch": batch, "empty": empty},
            **{"process_group": process_group, **common},
        }
        focal, region = weight, 1.0 - weight
        if one_sided:
            back = [1.0 - delta] + [0.0] * (classes - 1)
            front = [0.0] + [delta] * (classes - 1)
            others = list(range(1, classes))
            terms = [
                (focal, FocalLoss(mode, gamma=gamma, alpha=back, **common)),
                (focal, FocalLoss(mode, gamma=0.0, alpha=front, **common)),
                (region / classes, TverskyLoss(mode, classes=[0], **scores)),
                (region * (classes - 1) / classes, TverskyLoss(mode, gamma=1.0 - gamma, classes=others, **scores)),
            ]
        else:
            alpha = [1.0 - delta] + [delta] * (classes - 1)
            terms = [
                (focal, FocalLoss(mode, gamma=gamma, alpha=alpha, **common)),
                (region, TverskyLoss(mode, gamma=1.0 - gamma, **scores)),
            ]
        super().__init__(terms)
        self._classes = classes

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None) -> Tensor:
        if isinstance(x, Tensor) and x.ndim > 1 and x.shape[1] != self._classes:
            raise ValueError(f"num_classes is {self._classes}, but x has {x.shape[1]} channels.")
        return super().forward(x, y, mask, pixel_weight)

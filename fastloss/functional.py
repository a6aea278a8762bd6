"""Functional forms: `dice_loss(x, y, "binary", smooth=1.0)` is `DiceLoss("binary", smooth=1.0)(x, y)`.

Each takes the keyword arguments of its class, and `mask` and `pixel_weight`. Shapes, formulas and errors are those of
the class. The checked loss of each set of arguments is cached, so that a call costs little more than that of a module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import _arguments as check
from . import losses, region
from ._forms import form_of
from ._functional_pointwise import boundary_loss, exp_log_cross_entropy_loss, poly_loss, unified_focal_loss
from ._functional_region import (
    boundary_dou_loss,
    generalized_dice_loss,
    mcc_loss,
    sensitivity_specificity_loss,
    tvmf_dice_loss,
    weighted_soft_dice_loss,
)
from ._types import Backend, Curve, Empty, Mode, Reduction, ScalarReduction, SigmoidMode, Soft, SoftmaxMode, Vector
from .plan import plan
from .spec import Spec
from .stats import Stats

__all__ = [
    "bce_with_logits_loss",
    "boundary_dou_loss",
    "boundary_loss",
    "cross_entropy_loss",
    "dice_loss",
    "exp_log_cross_entropy_loss",
    "focal_loss",
    "generalized_dice_loss",
    "iou_loss",
    "jaccard_loss",
    "mcc_loss",
    "poly_loss",
    "sensitivity_specificity_loss",
    "stats",
    "topk_loss",
    "tversky_loss",
    "tvmf_dice_loss",
    "unified_focal_loss",
    "weighted_soft_dice_loss",
]


@form_of(losses.BCEWithLogitsLoss)
def bce_with_logits_loss(
    x: Tensor,
    y: Tensor,
    mode: SigmoidMode = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    pos_weight: float | Vector | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    ignore_index: int | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Return the binary cross-entropy of logits x [N, C, *S] and targets y of the same shape.

    The mean over the valid elements of -[w y log p + (1 - y) log(1 - p)] with p = sigmoid(x), w = pos_weight: 0-d, or
    of x's shape with reduction="none". Arguments and errors: see `fastloss.BCEWithLogitsLoss` and its call.
    """
    ...


@form_of(losses.CrossEntropyLoss)
def cross_entropy_loss(
    x: Tensor,
    y: Tensor,
    mode: SoftmaxMode = "multiclass",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    class_weights: Vector | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    ignore_index: int | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Return the softmax cross-entropy of logits x [N, C, *S] and class indices y [N, *S], or probabilities [N, C, *S].

    The mean over the valid pixels of -log softmax(x)_y: 0-d, or [N, *S] with reduction="none". Arguments and errors:
    see `fastloss.CrossEntropyLoss` and its call.
    """
    ...


@form_of(losses.FocalLoss)
def focal_loss(
    x: Tensor,
    y: Tensor,
    mode: Mode = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float | Vector | None = None,
    reduction: Reduction = "mean",
    ignore_index: int | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Return the focal loss (Lin et al. 2017) of logits x [N, C, *S] and a target y that fits `mode`.

    The mean of alpha_t (1 - p_t)^gamma (-log p_t): 0-d, or of x's shape (multiclass [N, *S]) with reduction="none".
    Arguments and errors: see `fastloss.FocalLoss` and its call.
    """
    ...


@form_of(losses.TopKLoss)
def topk_loss(
    x: Tensor,
    y: Tensor,
    mode: Mode = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    k: float = 0.1,
    reduction: ScalarReduction = "mean",
    ignore_index: int | None = None,
    backend: Backend | None = None,
    process_group: Any = None,
) -> Tensor:
    """Return the mean, 0-d, of the largest cross-entropies of logits x [N, C, *S] and a target y that fits `mode`.

    A share k of the valid elements counts, at least one. Arguments and errors: see `fastloss.TopKLoss` and its call.
    """
    ...


@form_of(region.TverskyLoss)
def tversky_loss(
    x: Tensor,
    y: Tensor,
    mode: Mode = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
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
) -> Tensor:
    """Return the Tversky loss, 0-d, of logits x [N, C, *S] and a target y that fits `mode`.

    The mean over classes of (1 - score)^gamma, score = (TP + smooth) / (TP + alpha FP + beta FN + smooth). Arguments
    and errors: see `fastloss.TverskyLoss` and its call.
    """
    ...


@form_of(region.DiceLoss)
def dice_loss(
    x: Tensor,
    y: Tensor,
    mode: Mode = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
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
) -> Tensor:
    """Return the soft Dice loss, 0-d, of logits x [N, C, *S] and a target y that fits `mode`.

    The mean over classes of 1 - (TP + smooth) / (TP + FP/2 + FN/2 + smooth). Arguments and errors: see
    `fastloss.DiceLoss` and its call.
    """
    ...


@form_of(region.JaccardLoss)
def jaccard_loss(
    x: Tensor,
    y: Tensor,
    mode: Mode = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
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
) -> Tensor:
    """Return the soft Jaccard (IoU) loss, 0-d, of logits x [N, C, *S] and a target y that fits `mode`.

    The mean over classes of 1 - (TP + smooth) / (TP + FP + FN + smooth). Arguments and errors: see
    `fastloss.JaccardLoss` and its call.
    """
    ...


iou_loss = jaccard_loss


def stats(
    x: Tensor,
    y: Tensor,
    mode: Mode = "binary",
    *,
    threshold: float = 0.5,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    backend: Backend | None = None,
) -> Stats:
    """Return confusion counts without a loss, for validation: `stats(x, y, mode=…).dice()`. `Stats.terms` is empty.

    Args:
        x: logits, as for a loss (see `Criterion.forward`).
        y: the target, as for a loss; soft labels count as positive from 0.5, probability targets by their argmax.
        mode: "binary", "multilabel" or "multiclass".
        threshold: probability from which a pixel is predicted positive (binary, multilabel).
        ignore_index: targets of this value are left out.
        mask: as for a loss.
        backend: as for a loss.

    Raises:
        TypeError, ValueError, RuntimeError: as for a loss, and for a threshold outside [0, 1].
    """
    check.threshold(threshold)
    spec = Spec(check.mode(mode), (), check.index("ignore_index", ignore_index))
    return Stats(plan(spec, check.backend(backend)).counts(x, y, mask, threshold))

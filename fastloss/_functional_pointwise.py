"""Further functional forms, which `functional.py` hands out: those of crossentropies.py, boundary.py and unified.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import boundary, crossentropies, unified
from ._forms import form_of
from ._types import Backend, Empty, Mode, Reduction, SoftmaxMode, Vector


@form_of(crossentropies.PolyLoss)
def poly_loss(
    x: Tensor,
    y: Tensor,
    mode: Mode = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    eps: float = 1.0,
    pos_weight: float | Vector | None = None,
    class_weights: Vector | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    ignore_index: int | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Return the Poly-1 loss (Leng et al. 2022) of logits x [N, C, *S] and a target y that fits `mode`.

    The mean of cross-entropy + eps (1 - p_t): 0-d, or of x's shape (multiclass [N, *S]) with reduction="none".
    Arguments and errors: see `fastloss.PolyLoss` and its call.
    """
    ...


@form_of(crossentropies.ExpLogCrossEntropyLoss)
def exp_log_cross_entropy_loss(
    x: Tensor,
    y: Tensor,
    mode: Mode = "multiclass",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    gamma: float = 0.3,
    pos_weight: float | Vector | None = None,
    class_weights: Vector | None = None,
    reduction: Reduction = "mean",
    ignore_index: int | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Return the exponential logarithmic cross-entropy (Wong et al. 2018) of logits x [N, C, *S] and a target y that
    fits `mode`.

    The mean of w_t (-log p_t)^gamma: 0-d, or of x's shape (multiclass [N, *S]) with reduction="none". Arguments and
    errors: see `fastloss.ExpLogCrossEntropyLoss` and its call.
    """
    ...


@form_of(boundary.BoundaryLoss)
def boundary_loss(
    x: Tensor,
    y: Tensor,
    mode: Mode = "multiclass",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    classes: Sequence[int] | None = None,
    reduction: Reduction = "mean",
    backend: Backend | None = None,
) -> Tensor:
    """Return the boundary loss (Kervadec et al. 2019) of logits x [N, C, *S] and signed distances y of x's shape.

    The mean of p y: 0-d, or of x's shape (multiclass [N, *S]) with reduction="none". Arguments and errors: see
    `fastloss.BoundaryLoss` and its call.
    """
    ...


@form_of(unified.UnifiedFocalLoss)
def unified_focal_loss(
    x: Tensor,
    y: Tensor,
    mode: SoftmaxMode = "multiclass",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
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
) -> Tensor:
    """Return the unified focal loss (Yeung et al. 2022), 0-d, of logits x [N, C, *S] and class indices y [N, *S].

    weight F + (1 - weight) T, of focal and focal Tversky terms. Arguments and errors: see `fastloss.UnifiedFocalLoss`
    and its call.
    """
    ...

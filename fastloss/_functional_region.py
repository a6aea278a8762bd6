"""Further functional forms, which `functional.py` hands out: those of overlap.py and squared.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import overlap, squared
from ._forms import form_of
from ._types import Backend, Empty, Mode, PlainEmpty, Vector, Weighting


@form_of(overlap.MCCLoss)
def mcc_loss(
    x: Tensor,
    y: Tensor,
    mode: Mode = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    smooth: float = 1e-5,
    classes: Sequence[int] | None = None,
    class_weights: Vector | None = None,
    batch: bool = True,
    empty: Empty | None = None,
    ignore_index: int | None = None,
    process_group: Any = None,
    backend: Backend | None = None,
) -> Tensor:
    """Return 1 - Matthews' correlation, 0-d, of logits x [N, C, *S] and a target y that fits `mode`.

    The mean over classes, each against the rest. Arguments and errors: see `fastloss.MCCLoss` and its call.
    """
    ...


@form_of(overlap.GeneralizedDiceLoss)
def generalized_dice_loss(
    x: Tensor,
    y: Tensor,
    mode: Mode = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    weighting: Weighting = "square",
    smooth: float = 0.0,
    classes: Sequence[int] | None = None,
    batch: bool = True,
    empty: Empty | None = None,
    ignore_index: int | None = None,
    process_group: Any = None,
    backend: Backend | None = None,
) -> Tensor:
    """Return the generalised Dice loss, 0-d, of logits x [N, C, *S] and a target y that fits `mode`.

    1 - 2 sum_c w_c TP_c / sum_c w_c (sum p + sum y) with w_c = 1 / (sum y)^2. Arguments and errors: see
    `fastloss.GeneralizedDiceLoss` and its call.
    """
    ...


@form_of(overlap.TvMFDiceLoss)
def tvmf_dice_loss(
    x: Tensor,
    y: Tensor,
    mode: Mode = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    kappa: float | Vector = 32.0,
    classes: Sequence[int] | None = None,
    class_weights: Vector | None = None,
    batch: bool = True,
    empty: PlainEmpty | None = None,
    ignore_index: int | None = None,
    process_group: Any = None,
    backend: Backend | None = None,
) -> Tensor:
    """Return the t-vMF Dice loss (Kato & Hotta 2024), 0-d, of logits x [N, C, *S] and a target y that fits `mode`.

    The mean over classes of (1 - phi)^2, phi a similarity of p and y by their angle. Arguments and errors: see
    `fastloss.TvMFDiceLoss` and its call.
    """
    ...


@form_of(overlap.BoundaryDoULoss)
def boundary_dou_loss(
    x: Tensor,
    y: Tensor,
    mode: Mode = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
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
) -> Tensor:
    """Return the boundary difference over union (Sun et al. 2023), 0-d, of logits x [N, C, *S] and a target y.

    The mean over classes of the difference over a part of the union. Arguments and errors: see
    `fastloss.BoundaryDoULoss` and its call.
    """
    ...


@form_of(squared.SensitivitySpecificityLoss)
def sensitivity_specificity_loss(
    x: Tensor,
    y: Tensor,
    mode: Mode = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    sensitivity: float = 0.05,
    classes: Sequence[int] | None = None,
    class_weights: Vector | None = None,
    batch: bool = True,
    empty: Empty | None = None,
    ignore_index: int | None = None,
    process_group: Any = None,
    backend: Backend | None = None,
) -> Tensor:
    """Return the sensitivity-specificity loss (Brosch et al. 2015), 0-d, of logits x [N, C, *S] and a target y.

    The mean over classes of the squared errors on the object and outside of it, each by its size. Arguments and errors:
    see `fastloss.SensitivitySpecificityLoss` and its call.
    """
    ...


@form_of(squared.WeightedSoftDiceLoss)
def weighted_soft_dice_loss(
    x: Tensor,
    y: Tensor,
    mode: Mode = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
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
) -> Tensor:
    """Return the weighted soft Dice loss (Wang et al. 2020), 0-d, of logits x [N, C, *S] and a target y.

    The mean over classes of 1 - Dice of 2p - 1 and 2y - 1, each pixel by its weight. Arguments and errors: see
    `fastloss.WeightedSoftDiceLoss` and its call.
    """
    ...

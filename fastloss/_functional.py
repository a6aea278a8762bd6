"""Further functional forms, which `functional.py` hands out: those of the losses that surveys compare."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import unified
from ._forms import form_of
from ._types import Backend, Empty, SoftmaxMode


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

"""Targets given as floats: mirrors csrc/math/label.h."""

from __future__ import annotations

import torch
from torch import Tensor


def label_tolerance(eps: float) -> float:
    """How far outside [0, 1] a rounding error may leave a label; eps is that of the target's own type."""
    return max(eps, 1e-5)


def clamp_label(y: Tensor, tolerance: float) -> Tensor:
    """Labels within the tolerance of [0, 1] lie in it; anything else, NaN too, stays as it is."""
    y = torch.where((y < 0) & (y >= -tolerance), torch.zeros_like(y), y)
    return torch.where((y > 1) & (y <= 1 + tolerance), torch.ones_like(y), y)

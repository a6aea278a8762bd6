"""nnU-Net's deep supervision."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ...deep import scaled
from .._base import CompatLoss


class DeepSupervisionWrapper(CompatLoss):
    """nnU-Net's `DeepSupervisionWrapper`: the weighted sum of a loss over lists of outputs and targets.

    The weight of a level is inside its fused pass; levels of weight 0 are not computed. To pass one full-resolution
    target instead of a list, use `fastloss.DeepSupervisionLoss`.

    Args:
        loss: called with one entry of each list.
        weight_factors: one number for each level; None is a TypeError, as in nnU-Net, and 1 for each with strict=False.
        strict: see above.

    Raises AssertionError (also a ValueError) if all factors are 0 or an argument of the call is no list or tuple, and
    IndexError for more levels than factors.
    """

    original = "nnunetv2.training.loss.deep_supervision.DeepSupervisionWrapper"
    library = "nnunet"

    def __init__(self, loss: nn.Module, weight_factors: Iterable[float] | None = None, *, strict: bool = True) -> None:
        super().__init__(strict=strict)
        if weight_factors is None and strict:
            raise TypeError("weight_factors must be one number for each level, got None.")
        self.weight_factors = None if weight_factors is None else tuple(weight_factors)
        if self.weight_factors is not None and not any([w != 0 for w in self.weight_factors]):
            raise PyramidError(f"weight_factors must not all be 0, got {self.weight_factors}.")
        self.loss = loss

    @property
    def why_not_fused(self) -> str | None:
        if isinstance(self.loss, CompatLoss):
            return self.loss.why_not_fused
        return None if type(self.loss).__module__.startswith("fastloss.") else f"loss={type(self.loss).__name__}"

    def forward(self, *args: Any) -> Tensor:
        """args: lists (outputs, targets …) with one entry for each level, the finest first. Returns 0-d."""
        return self._scaled(1.0, *args)

    def _scaled(self, scale: float, *args: Any) -> Tensor:
        for argument in args:
            if not isinstance(argument, tuple | list):
                raise PyramidError(f"every argument must be a list or tuple of levels, got {type(argument).__name__}.")
        levels = list(zip(*args))
        weights = (1.0,) * len(levels) if self.weight_factors is None else self.weight_factors
        if len(levels) > len(weights):
            raise IndexError(f"weight_factors has {len(weights)} values, but there are {len(levels)} levels.")
        parts = [scaled(self.loss, scale * float(w), *inputs) for w, inputs in zip(weights, levels) if w != 0]
        total: Any = sum(parts)
        return total


class PyramidError(AssertionError, ValueError):
    """nnU-Net asserts; the rest of fastloss raises ValueError."""

"""MONAI's deep supervision."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...deep import sample, scaled
from .._base import CompatLoss
from ._inputs import plain_tensor


class DeepSupervisionLoss(CompatLoss):
    """`monai.losses.DeepSupervisionLoss`: the weighted sum of a loss over the levels of a pyramid, each against the
    target resized to it (nearest-exact). Weights are not normalised: "exp" max(1/2^l, 1/16), "two" 1 and then 1/2,
    anything else 1; `weights` come before them if there are enough. Arguments as there; loss: any module.

    Targets are read through strides where sizes divide each other, so that there are no smaller copies.
    """

    original = "monai.losses.ds_loss.DeepSupervisionLoss"
    library = "monai"

    def __init__(
        self, loss: nn.Module, weight_mode: str = "exp", weights: list[float] | None = None, *, strict: bool = True
    ) -> None:
        super().__init__(strict=strict)
        self.loss = loss
        self.weight_mode = weight_mode
        self.weights = weights
        self.interp_mode = "nearest-exact"

    @property
    def why_not_fused(self) -> str | None:
        if getattr(self.loss, "fused", True):
            return None
        return f"loss: {self.loss.why_not_fused}"

    def get_weights(self, levels: int = 1) -> list[float]:
        """The weights of that many levels."""
        levels = max(1, levels)
        if self.weights is not None and len(self.weights) >= levels:
            return self.weights[:levels]
        if self.weight_mode == "exp":
            return [max(0.5**level, 0.0625) for level in range(levels)]
        return [0.5 if level and self.weight_mode == "two" else 1.0 for level in range(levels)]

    def get_loss(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of one level."""
        return self.loss(input, self._resized(input, target))

    def _resized(self, x: Tensor, y: Tensor) -> Tensor:
        if x.shape[2:] == y.shape[2:]:
            return y
        if (self.strict and not y.is_floating_point() and y.dtype != torch.uint8) or x.ndim != y.ndim:
            return F.interpolate(y, size=x.shape[2:], mode=self.interp_mode)  # raises what the original raises
        return sample(y, x.shape[2:], self.interp_mode)

    def forward(self, input: Tensor | list[Tensor] | None, target: Tensor) -> Tensor:
        """input: logits [B, C, *S], or a list or tuple of them; target as the loss wants it. Returns a scalar."""
        if input is None:
            raise ValueError("input must be a tensor or a list of them, got None.")
        y = plain_tensor(target)
        if not isinstance(input, list | tuple):
            return self.loss(self._logits(input), y)
        total = torch.zeros((), device=y.device)
        for x, weight in zip(input, self.get_weights(len(input))):
            x = self._logits(x)
            total = total + scaled(self.loss, weight, x, self._resized(x, y))
        return total

    def _logits(self, x: Tensor) -> Tensor:
        """Half logits are computed in float32 by the fused losses; others get them so."""
        x = plain_tensor(x)
        return x if getattr(self.loss, "fused", False) and x.dtype != torch.float64 else x.float()

"""MONAI's generalised Dice and Tversky losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _fused
from .._fused import TINY
from .._linear import Call, Linear
from ._declared import Activation, ClassWeighting, ErrorWeights, Smoothing
from ._overlap import Fitted, OverlapLoss, Parts, Ratio


class GeneralizedDiceLoss(OverlapLoss, Smoothing, ClassWeighting, Activation):
    """`monai.losses.GeneralizedDiceLoss`: 1 - (2 sum_c w I + smooth_nr) / (sum_c w (P + T) + smooth_dr), w = 1/T^2
    ("square"), 1/T ("simple") or 1 ("uniform"), absent classes with the largest finite w (Sudre et al. 2017). Reduction
    "none" gives [B, 1, 1 …], or [1, 1 …] with batch=True. Arguments as there."""

    original = "monai.losses.dice.GeneralizedDiceLoss"

    soft_label: bool = False

    def _set(self, *, w_type: str, **settings: Any) -> None:
        super()._set(**settings)
        name = w_type.strip() if isinstance(w_type, str) else w_type
        if name not in ("square", "simple", "uniform"):
            raise ValueError(f"w_type must be 'square', 'simple' or 'uniform', got {w_type!r}.")
        self.w_type = str(getattr(name, "value", name))

    def _ratio(self, parts: Parts) -> Ratio:
        w = self._weights(parts.truth.detach())
        twice = 2.0 * w
        above = (parts.inter * twice).sum(-1, keepdim=True) + self.smooth_nr
        below = ((parts.pred + parts.truth) * w).sum(-1, keepdim=True) + self.smooth_dr
        return Ratio(above, below, twice, 0.0, w)

    def _weights(self, truth: Tensor) -> Tensor:
        truth = truth if truth.dtype == torch.float64 else truth.float()
        if self.w_type == "uniform":
            return torch.ones_like(truth)
        w = torch.reciprocal(truth * truth if self.w_type == "square" else truth)
        absent = w == torch.inf
        w = w.masked_fill(absent, 0.0)
        return torch.where(absent, w.amax(-1, keepdim=True), w)


class TverskyLoss(OverlapLoss, Smoothing, ErrorWeights, Activation):
    """`monai.losses.TverskyLoss`: 1 - (I + smooth_nr) / (I + alpha FP + beta FN + smooth_dr) of each sample
    (batch=True: of the batch) and class. Reduction "none" gives [B, C], or [C] with batch=True. Arguments as there."""

    original = "monai.losses.tversky.TverskyLoss"
    _masks_first = True

    soft_label: bool = False
    ignore_index: int | None = None

    def _call(self, fitted: Fitted) -> Call | None:
        x = fitted.x
        if self.reduction == "none" or self.smooth_nr != self.smooth_dr:
            return None
        samples = x.shape[0] if self.reduction == "sum" and not self.batch else 1
        key = (fitted.mode, x.shape[1], samples, fitted.ignore_index)
        return Call(self._cached(key, self._prepare), x, fitted.y, fitted.mask)

    def _prepare(self, key: tuple[str, int, int, int | None]) -> Linear:
        mode, channels, samples, ignore_index = key
        classes = self._classes(channels)
        term = self._term(
            alpha=float(self.alpha),
            beta=float(self.beta),
            smooth=self.smooth_nr,
            eps=TINY,
            empty="score",
            vector=() if classes == channels else (0.0,) + (1.0,) * classes,
            weight=1.0 if self.reduction == "mean" else float(classes * samples),
        )
        return _fused.make_linear(mode, term, ignore_index=ignore_index)

    def _ratio(self, parts: Parts) -> Ratio:
        own = 1.0 - self.alpha - self.beta
        below = own * parts.inter + self.alpha * parts.pred + self.beta * parts.truth + self.smooth_dr
        return Ratio(parts.inter + self.smooth_nr, below, 1.0, own, float(self.alpha))

    def _reduce(self, loss: Tensor, axes: int) -> Tensor:
        return loss if self.reduction == "none" else super()._reduce(loss, axes)

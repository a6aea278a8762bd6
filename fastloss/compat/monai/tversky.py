"""MONAI's generalised Dice and Tversky losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...plan import Plan
from .. import _fused
from .._fused import TINY
from ._inputs import plain_tensor
from ._overlap import Fitted, OverlapLoss, Parts, Ratio


class GeneralizedDiceLoss(OverlapLoss):
    """`monai.losses.GeneralizedDiceLoss`: 1 - (2 sum_c w I + smooth_nr) / (sum_c w (P + T) + smooth_dr), w = 1/T^2
    ("square"), 1/T ("simple") or 1 ("uniform"), absent classes with the largest finite w (Sudre et al. 2017). Arguments
    as there."""

    original = "monai.losses.dice.GeneralizedDiceLoss"

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable | None = None,
        w_type: str = "square",
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        soft_label: bool = False,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(
            include_background, to_onehot_y, sigmoid, softmax, other_act, reduction, smooth_nr, smooth_dr, batch,
            soft_label, None, strict,
        )  # fmt: skip
        name = w_type.strip() if isinstance(w_type, str) else w_type
        if name not in ("square", "simple", "uniform"):
            raise ValueError(f"w_type must be 'square', 'simple' or 'uniform', got {w_type!r}.")
        self.w_type = str(getattr(name, "value", name))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """As `DiceLoss.forward`; reduction "none" gives [B, 1, 1 …], or [1, 1 …] with batch=True."""
        x, y = plain_tensor(input), plain_tensor(target)
        if self.why_not_fused is None:
            fitted = self._fit(x, y)
            if fitted is not None:
                return self._from_sums(fitted)
        return self._reduced(self._plain_parts(self._activated(x), y), x.ndim)

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


class TverskyLoss(OverlapLoss):
    """`monai.losses.TverskyLoss`: 1 - (I + smooth_nr) / (I + alpha FP + beta FN + smooth_dr) of each sample
    (batch=True: of the batch) and class. Arguments as there."""

    original = "monai.losses.tversky.TverskyLoss"
    _masks_first = True

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable | None = None,
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        soft_label: bool = False,
        ignore_index: int | None = None,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(
            include_background, to_onehot_y, sigmoid, softmax, other_act, reduction, smooth_nr, smooth_dr, batch,
            soft_label, ignore_index, strict,
        )  # fmt: skip
        self.alpha = alpha
        self.beta = beta

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """As `DiceLoss.forward`; reduction "none" gives [B, C], or [C] with batch=True."""
        x, y = plain_tensor(input), plain_tensor(target)
        if self.why_not_fused is None:
            fitted = self._fit(x, y)
            if fitted is not None:
                return self._fused(fitted)
        return self._reduced(self._plain_parts(self._activated(x), y), x.ndim)

    def _fused(self, fitted: Fitted) -> Tensor:
        x = fitted.x
        if self.reduction == "none" or self.smooth_nr != self.smooth_dr:
            return self._from_sums(fitted)
        samples = x.shape[0] if self.reduction == "sum" and not self.batch else 1
        ready = self._cached((fitted.mode, x.shape[1], samples, fitted.ignore_index), self._prepare)
        return _fused.call(ready, x, fitted.y, fitted.mask)

    def _prepare(self, key: tuple[str, int, int, int | None]) -> Plan:
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
        return _fused.prepared(mode, term, ignore_index=ignore_index)

    def _ratio(self, parts: Parts) -> Ratio:
        own = 1.0 - self.alpha - self.beta
        below = own * parts.inter + self.alpha * parts.pred + self.beta * parts.truth + self.smooth_dr
        return Ratio(parts.inter + self.smooth_nr, below, 1.0, own, float(self.alpha))

    def _reduce(self, loss: Tensor, axes: int) -> Tensor:
        return loss if self.reduction == "none" else super()._reduce(loss, axes)

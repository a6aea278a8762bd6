"""MONAI's focal loss in plain PyTorch, for what the kernels cannot take; its settings, checked as there."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._base import CompatLoss
from ._inputs import ignore_mask, labels_for_one_hot, one_hot, single

Weights = Sequence[float] | float | int | Tensor


class PlainFocal(CompatLoss):
    """Settings and plain arithmetic of `FocalLoss`."""

    library = "monai"
    include_background: bool
    to_onehot_y: bool
    use_softmax: bool
    gamma: float
    alpha: Any  # a number, a tensor or None
    class_weight: Any  # a tensor or None
    ignore_index: int | None

    def _softmax_alpha(self, channels: int) -> tuple[float, ...]:
        if isinstance(self.alpha, Tensor):
            self._check_alpha(channels)
            return self._floats("alpha")
        if self.alpha is None:
            return (1.0,) * channels
        if not self.include_background:
            self._warn_alpha()
            return (1.0,) * channels
        return (1.0 - self.alpha,) + (self.alpha,) * (channels - 1)

    def _warn_alpha(self) -> None:
        if not torch.compiler.is_compiling():
            warnings.warn("`include_background=False`, scalar `alpha` ignored when using softmax.", stacklevel=4)

    def _check_alpha(self, channels: int) -> None:
        if self.alpha.shape[0] != channels:
            raise ValueError(f"alpha must have one value for each of the {channels} classes, got {len(self.alpha)}.")

    def _class_weights(self, channels: int) -> tuple[float, ...]:
        """The checked class weights: none, one for all, or one for each channel."""
        if self.class_weight is None:
            return ()
        weights = self._floats("class_weight")
        if self.class_weight.ndim:
            if channels == 1:
                raise ValueError("weight must be a single number for an input of one channel, got several.")
            if len(weights) != channels:
                raise ValueError(f"weight must have one value for each of the {channels} classes, got {len(weights)}.")
        if min(weights) < 0:
            raise ValueError(f"weight must not be below 0, got {min(weights)}.")
        return weights

    def _plain(self, x: Tensor, y: Tensor) -> Tensor:
        channels, given = x.shape[1], y
        if self.to_onehot_y:
            if channels == 1:
                single("to_onehot_y=True")
            else:
                y = one_hot(labels_for_one_hot(y, self.ignore_index, channels), channels)
        if not self.include_background:
            if channels == 1:
                single("include_background=False")
            else:
                x, y = x[:, 1:], y[:, 1:]
        mask = ignore_mask(given, self.ignore_index)
        if y.shape != x.shape:
            raise ValueError(f"target must have the shape of input, {list(x.shape)}, got {list(y.shape)}.")
        if mask is not None:
            x, y = x * mask, y * mask
        x, y = x.float(), y.float()
        loss = self._plain_softmax(x, y) if self.use_softmax else self._plain_sigmoid(x, y)
        loss = loss if mask is None else loss * mask
        weights = self._class_weights(loss.shape[1])
        if weights:
            shape = (1, -1, *[1] * (loss.ndim - 2)) if self.class_weight.ndim else ()
            loss = loss * self.class_weight.to(loss).view(shape)
        return self._reduce(loss, mask)

    def _plain_sigmoid(self, x: Tensor, y: Tensor) -> Tensor:
        b = F.binary_cross_entropy_with_logits(x, y, reduction="none")
        loss = (F.logsigmoid(-x * (y * 2 - 1)) * self.gamma).exp() * b
        if self.alpha is None:
            return loss
        if not isinstance(self.alpha, Tensor):
            return loss * (y * self.alpha + (1 - y) * (1 - self.alpha))
        self._check_alpha(y.shape[1])
        alpha = self.alpha.to(x).view(-1, *[1] * (y.ndim - 2))
        return loss * torch.where(y == 1, alpha, torch.ones_like(alpha))

    def _plain_softmax(self, x: Tensor, y: Tensor) -> Tensor:
        log_p = x.log_softmax(1)
        loss = -((1 - log_p.exp()) ** self.gamma) * log_p * y
        if self.alpha is None:
            return loss
        by_class = torch.tensor(self._softmax_alpha(y.shape[1]), dtype=x.dtype, device=x.device)
        return loss * by_class.view(-1, *[1] * (y.ndim - 2))

    def _reduce(self, loss: Tensor, mask: Tensor | None) -> Tensor:
        if self.reduction == "none":
            return loss
        axes = list(range(2, loss.ndim))
        if self.reduction == "sum":
            if mask is None:
                return loss.mean(axes).sum()
            return (loss.sum(axes, keepdim=True) / mask.sum(axes, keepdim=True).clamp_min(1e-7)).sum()
        if mask is None:
            return loss.mean()
        return loss.sum() / (mask.sum() * (1 if self.strict else loss.shape[1])).clamp_min(1e-7)

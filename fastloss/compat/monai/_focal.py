"""What MONAI's focal loss does with its inputs and settings, and the loss in plain PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _fused
from .._base import CompatLoss
from ._inputs import check_class_indices, class_indices, ignore_mask, is_hard, labels_for_one_hot, one_hot, single

Weights = Sequence[float] | float | int | Tensor


class FittedFocal(NamedTuple):
    """Inputs as the kernels take them, without the background where it does not count. `voxels`: where the loss is
    divided by valid voxels, their mask [B, 1, *S]."""

    mode: str
    x: Tensor
    y: Tensor
    mask: Tensor | None
    ignore_index: int | None
    soft: bool = False


class PlainFocal(CompatLoss):
    """Inputs, settings and plain arithmetic of `FocalLoss`."""

    library = "monai"
    include_background: bool
    to_onehot_y: bool
    use_softmax: bool
    gamma: float
    alpha: Any  # a number, a tensor or None
    class_weight: Any  # a tensor or None
    ignore_index: int | None

    def _fit(self, x: Tensor, y: Tensor) -> FittedFocal | None:
        """None leaves the inputs to plain PyTorch, whose errors are the original's."""
        if not x.is_floating_point() or x.numel() == 0 or y.ndim != x.ndim:
            return None
        if not 3 <= x.ndim <= 5:
            return self._slow(f"input has {x.ndim} axes")
        if self._learns(y):
            return self._slow("target, alpha or weight requires a gradient")
        x = x.float() if x.dtype == torch.float64 else x
        channels = x.shape[1]
        if channels == 1:
            if self.use_softmax or y.shape != x.shape:
                return None
            if self.to_onehot_y:
                single("to_onehot_y=True")
            if not self.include_background:
                single("include_background=False")
            return FittedFocal("binary", x, y, None, self.ignore_index, y.is_floating_point())
        if self.to_onehot_y:
            return None if y.shape != x[:, :1].shape else self._fit_class_indices(x, class_indices(y), channels)
        if y.shape != x.shape:
            return None
        if (
            self.strict
            and y.dtype == torch.bool
            and 0 <= (-1 if self.ignore_index is None else self.ignore_index) < channels
        ):
            return None
        mask = None
        if self.ignore_index is not None:
            mask = y.sum(1, keepdim=True) > 0
            if 0 <= self.ignore_index < channels:
                ignored = y[:, self.ignore_index : self.ignore_index + 1]
                if y.is_floating_point() and not is_hard(ignored):  # a soft mask multiplies logits
                    return self._slow("the channel of ignore_index may be soft")
                mask = ignored == 0
        if not self.include_background:
            x, y = x[:, 1:], y[:, 1:]
        if not self.use_softmax:
            return FittedFocal("multilabel", x, y, mask, None, y.is_floating_point())
        if x.shape[1] < 2:
            return None
        return FittedFocal("multiclass", x, y if y.is_floating_point() else y.to(x.dtype), mask, None)

    def _fit_class_indices(self, x: Tensor, indices: Tensor, channels: int) -> FittedFocal | None:
        mask = None if self.ignore_index is None else indices != self.ignore_index
        if not self.use_softmax:
            check_class_indices(indices, mask, channels)
            y = _fused.one_hot(indices, channels)
            if not self.include_background:
                x, y = x[:, 1:], y[:, 1:]
            return FittedFocal("multilabel", x, y, mask, None)
        if self.include_background:
            return FittedFocal("multiclass", x, indices, None, self.ignore_index)
        if channels == 2:
            return None
        check_class_indices(indices, mask, channels)
        indices = indices.long() - 1  # the background is nobody's target: ignored by the kernel, counted by the mean
        if mask is not None:
            indices = indices.masked_fill(~mask, -1)
        return FittedFocal("multiclass", x[:, 1:], indices, mask, -1)

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

"""The overlap sums of MONAI's losses in plain PyTorch, for what the kernels cannot take."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._base import CompatLoss
from ._inputs import ignore_mask, labels_for_one_hot, one_hot, single


class Parts(NamedTuple):
    """Sums of each class: of p t, and of p and t (or their squares); [B, C], or [C] over the batch."""

    inter: Tensor
    pred: Tensor
    truth: Tensor


class PlainOverlap(CompatLoss):
    """Settings of the overlap losses, and their arithmetic on whole tensors."""

    library = "monai"
    _masks_first = False  # Tversky masks before it drops the background, and takes the target from 1
    include_background: bool
    to_onehot_y: bool
    sigmoid: bool
    softmax: bool
    other_act: Callable | None
    squared_pred: bool
    soft_label: bool
    batch: bool
    ignore_index: int | None

    def _activated(self, x: Tensor) -> Tensor:
        if self.sigmoid:
            x = x.sigmoid()
        if self.softmax:
            if x.shape[1] == 1:
                single("softmax=True")
            else:
                x = x.softmax(1)
        return x if self.other_act is None else self.other_act(x)

    def _plain_parts(self, p: Tensor, y: Tensor) -> Parts:
        """The same sums of probabilities and target in plain PyTorch."""
        channels, given = p.shape[1], y
        if self.to_onehot_y:
            if channels == 1:
                single("to_onehot_y=True")
            else:
                y = one_hot(labels_for_one_hot(y, self.ignore_index, channels), channels)
        mask = ignore_mask(given, self.ignore_index)
        if mask is not None and self._masks_first:
            p, y, mask = p * mask, y * mask, None
        if not self.include_background:
            if channels == 1:
                single("include_background=False")
            else:
                p, y = p[:, 1:], y[:, 1:]
        if y.shape != p.shape:
            raise AssertionError(f"target must have the shape of input, {list(p.shape)}, got {list(y.shape)}.")
        if mask is not None:
            p, y = p * mask, y * mask
        axes = list(range(0 if self.batch else 2, p.ndim))
        if self.batch:
            axes.remove(1)
        if not (self.squared_pred or self.soft_label):
            if y.dtype == torch.bool and self._masks_first and self.strict:
                raise NotImplementedError("target must hold numbers, got bool.")
            return Parts((p * y).sum(axes), p.sum(axes), y.sum(axes))
        if self.squared_pred:
            truth = torch.linalg.vector_norm(y, 2, axes) ** 2
            return Parts((p * y).sum(axes), (p * p).sum(axes), truth)
        pred, truth, apart = [torch.linalg.vector_norm(t, 1, axes) for t in (p, y, p - y)]
        return Parts((pred + truth - apart) * 0.5, pred, truth)

    def _reduce(self, loss: Tensor, axes: int) -> Tensor:
        if self.reduction == "mean":
            return loss.mean()
        if self.reduction == "sum":
            return loss.sum()
        return loss.view(*loss.shape[:2], *[1] * (axes - 2))

"""MONAI's asymmetric unified focal loss: it takes probabilities, so there is nothing to fuse; plain PyTorch with fewer
passes than the original."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..._modes import unknown
from .._base import CompatLoss
from ._inputs import check_reduction, ignore_mask, labels_for_one_hot, one_hot, plain_tensor

EPSILON = 1e-7


class AsymmetricUnifiedFocalLoss(CompatLoss):
    """`monai.losses.AsymmetricUnifiedFocalLoss` (Yeung et al. 2022), binary, of probabilities p (not logits, whatever
    the original's docstring says), clamped to [1e-7, 1 - 1e-7]: weight F + (1 - weight) T, with

        F = mean of (1 - delta)(1 - p_0)^gamma (-t_0 log p_0) and delta (-t_1 log p_1) over both channels,
        T = mean over samples of 1 - d_0 and (1 - d_1)^(1 - gamma),
            d = (TP + e) / (TP + delta FN + (1 - delta) FP + e).

    Ignored voxels count in F's mean, and as p = 1e-7 against t = 0 in T; `strict=False` leaves them out. Arguments
    as there.
    """

    original = "monai.losses.unified_focal_loss.AsymmetricUnifiedFocalLoss"
    library = "monai"

    def __init__(
        self,
        to_onehot_y: bool = False,
        num_classes: int = 2,
        weight: float = 0.5,
        gamma: float = 0.5,
        delta: float = 0.7,
        reduction: str = "mean",
        ignore_index: int | None = None,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(check_reduction(reduction), strict=strict)
        self.to_onehot_y = to_onehot_y
        self.num_classes = num_classes
        self.weight = weight
        self.gamma = gamma
        self.delta = delta
        self.ignore_index = ignore_index

    @property
    def why_not_fused(self) -> str | None:
        return "it takes probabilities: there is no activation"

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """y_pred [B, 1 or 2, *S] probabilities with two or three spatial axes; y_true of the same shape, or class
        indices [B, 1, *S]. Returns a scalar whatever the reduction."""
        p, y = plain_tensor(y_pred), plain_tensor(y_true)
        self._check(p, y)
        given, channels = y, p.shape[1]
        if channels == 1:
            p = torch.cat([1 - p, p], dim=1)
        if self.to_onehot_y and channels != 1:
            y = one_hot(labels_for_one_hot(y, self.ignore_index, self.num_classes), self.num_classes)
        elif y.shape[1] == 1 and p.shape[1] == 2:
            y = torch.cat([1 - y, y], dim=1)
        if self.ignore_index is None and not unknown(y) and y.max() > self.num_classes - 1:
            raise ValueError(f"y_true must hold classes up to {self.num_classes - 1}, got {y.max().item()}.")
        mask = ignore_mask(given, self.ignore_index)
        if mask is not None:
            p, y = p * mask, y * mask
        if y.shape != p.shape:
            raise ValueError(f"y_true must have the shape of y_pred, {list(p.shape)}, got {list(y.shape)}.")
        p = p.clamp(EPSILON, 1.0 - EPSILON)
        if mask is not None and not self.strict:
            p = p * mask
        return self.weight * self._focal(p, y, mask) + (1 - self.weight) * self._tversky(p, y)

    def _check(self, p: Tensor, y: Tensor) -> None:
        if p.ndim not in (4, 5):
            raise ValueError(f"y_pred must have 4 or 5 axes, got the shape {list(p.shape)}.")
        if p.shape[1] == 1 and not torch.compiler.is_compiling():
            if self.to_onehot_y:
                warnings.warn("single channel prediction, `to_onehot_y=True` ignored.", stacklevel=3)
            if self.ignore_index is not None:
                warnings.warn(
                    "single channel prediction, `ignore_index` is applied to label-encoded targets.", stacklevel=3
                )
        encoded = self.to_onehot_y and p.shape[1] != 1
        if not encoded and not (p.shape[1] == y.shape[1] == 1) and y.shape != p.shape:
            raise ValueError(f"y_true must have the shape of y_pred, {list(p.shape)}, got {list(y.shape)}.")

    def _focal(self, p: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        p0, p1, y0, y1 = p[:, 0], p[:, 1], y[:, 0], y[:, 1]
        if mask is not None and not self.strict:  # log 0 at ignored voxels, whose target is 0
            p0, p1 = p0.clamp_min(EPSILON), p1.clamp_min(EPSILON)
        back = torch.sum((1 - p0) ** self.gamma * y0 * torch.log(p0))
        front = torch.sum(y1 * torch.log(p1))
        total = (self.delta - 1) * back - self.delta * front
        if mask is None or self.strict:
            return total / (2 * p0.numel())
        return total / (2 * mask.sum()).clamp_min(1)

    def _tversky(self, p: Tensor, y: Tensor) -> Tensor:
        axes = list(range(2, p.ndim))
        tp, pred, truth = (p * y).sum(axes), p.sum(axes), y.sum(axes)
        below = tp + self.delta * (truth - tp) + (1 - self.delta) * (pred - tp) + EPSILON
        loss = 1 - (tp + EPSILON) / below
        return (loss[:, 0] + loss[:, 1] ** (1 - self.gamma)).mean() / 2

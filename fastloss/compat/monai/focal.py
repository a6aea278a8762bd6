"""MONAI's focal loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ...plan import Plan
from ...spec import FIXED_SUMS, SumColumn, Term
from .. import _fused
from .._linear import Call, Linear
from ._focal import FittedFocal, PlainFocal, Weights
from ._inputs import check_reduction, plain_tensor
from ._overlap import OverlapLoss


class FocalLoss(PlainFocal):
    """`monai.losses.FocalLoss`, computed in float32.

    Sigmoid: sigmoid(-x (2 t - 1))^gamma BCE, which for soft labels is not smp's (1 - exp(-BCE))^gamma; alpha is
    alpha t + (1 - alpha)(1 - t), a vector weighs each class's positives and leaves negatives alone. Softmax: -(1 -
    p)^gamma log(p) t; alpha is 1 - alpha for the background and alpha for the others, a vector one for each class.
    include_background=False drops channel 0 before the softmax. The mean divides by all elements, also of softmax,
    whose other channels are 0. Arguments as there; `strict`: see the module.
    """

    original = "monai.losses.focal_loss.FocalLoss"
    _paths: ClassVar = {"weight": "class_weight"}
    _tensors = ("class_weight", "alpha")

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        weight: Weights | None = None,
        reduction: str = "mean",
        use_softmax: bool = False,
        ignore_index: int | None = None,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(check_reduction(reduction), strict=strict)
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        self.gamma = gamma
        self.weight = weight
        self.use_softmax = use_softmax
        if alpha is None or isinstance(alpha, float | int):
            self.alpha = None if alpha is None else float(alpha)
        else:
            self.alpha = torch.as_tensor(alpha)
        self.register_buffer("class_weight", None if weight is None else torch.as_tensor(weight))
        self.ignore_index = ignore_index
        self._read()

    @property
    def why_not_fused(self) -> str | None:
        if self.use_softmax and self.reduction == "none":
            return "use_softmax=True with reduction='none': the original returns the other channels' zeros too"
        return None

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """input [B, C, *S]; target of the same shape, or class indices [B, 1, *S] with to_onehot_y=True. Returns a
        float32 scalar; with reduction "none" the shape of the input (without channel 0 if it does not count)."""
        x, y = plain_tensor(input), plain_tensor(target)
        fitted = self._fit(x, y) if self.why_not_fused is None else None
        if fitted is None:
            return self._plain(x, y)
        call = self._call(fitted)
        if call is not None:
            return _fused.run(call)
        weights = self._class_weights(fitted.x.shape[1])
        if fitted.mode == "multiclass":
            return self._softmax_in_steps(fitted, weights)
        if self.reduction == "none" or (fitted.soft and isinstance(self.alpha, Tensor)):
            return self._unreduced(fitted, weights)
        return self._from_sums(fitted, weights)

    def as_call(self, input: Tensor, target: Tensor) -> Call | None:
        fitted = self._fit(plain_tensor(input), plain_tensor(target)) if self.why_not_fused is None else None
        return None if fitted is None else self._call(fitted)

    def _call(self, fitted: FittedFocal) -> Call | None:
        """One pass, where that is all it takes."""
        x, channels = fitted.x, fitted.x.shape[1]
        weights = self._class_weights(channels)
        if fitted.mode == "multiclass":
            whole = self._own_mean or self.ignore_index is None or self.reduction == "sum"
            if self._by_sample or not whole:
                return None
            loss = self._cached(self._softmax_key(fitted, weights), self._prepare_softmax)
            return Call(loss, x, fitted.y, fitted.mask)
        if self.reduction == "none" or isinstance(self.alpha, Tensor) or len(weights) > 1 or self._by_sample:
            return None
        weight = weights[0] if weights else 1.0
        key = (fitted.mode, channels, x[0, 0].numel(), fitted.ignore_index, fitted.soft, weight)
        return Call(self._cached(key, self._prepare), x, fitted.y, fitted.mask)

    @property
    def _by_sample(self) -> bool:
        """Whether each sample is divided by its own number of valid voxels."""
        return self.reduction == "sum" and self.ignore_index is not None

    @property
    def _own_mean(self) -> bool:
        """Whether softmax's mean is the kernels': labels without the background are ignored there, and not counted."""
        return self.reduction == "mean" and not (self.to_onehot_y and not self.include_background)

    def fits_one_pass(self, overlap: OverlapLoss) -> bool:
        """Whether it and an overlap loss take the sigmoid of the same channels, and the target alike."""
        plain = self.class_weight is None and not isinstance(self.alpha, Tensor) and not self.use_softmax
        plain = plain and getattr(overlap, "class_weight", None) is None and self.ignore_index is None
        alike = (overlap.include_background, overlap.to_onehot_y, overlap.ignore_index)
        alike = plain and alike == (self.include_background, self.to_onehot_y, None)
        return alike and overlap.sigmoid and overlap.why_not_fused is None and self.reduction != "none"

    def _factor(self, channels: int, voxels: int) -> float:
        """What the kernels' mean or sum over elements is multiplied by."""
        if self.reduction == "sum":
            return 1.0 / voxels
        return float(channels) if self.strict and self.ignore_index is not None else 1.0

    def _prepare(self, key: tuple[str, int, int, int | None, bool, float]) -> Linear:
        mode, channels, voxels, ignore_index, soft, weight = key
        term = self._term(soft, weight * self._factor(channels, voxels))
        return _fused.make_linear(mode, term, ignore_index=ignore_index)

    def _term(self, soft: bool, weight: float = 1.0, alpha: float | None = None) -> Term:
        """The sigmoid term; an alpha for each class is two of them, of the positives and of the negatives."""
        alpha = alpha if isinstance(self.alpha, Tensor) else self.alpha
        vector = () if alpha is None else (float(alpha),)
        reduction = "sum" if self.reduction == "sum" else "mean"
        return Term(
            "focal", gamma=float(self.gamma), vector=vector, weight=weight, reduction=reduction, margin=soft
        )  # fmt: skip

    def _from_sums(self, fitted: FittedFocal, weights: tuple[float, ...]) -> Tensor:
        x, channels, by_sample = fitted.x, fitted.x.shape[1], self._by_sample
        ready = self._cached(("sums", fitted.mode, fitted.ignore_index, fitted.soft, by_sample), self._prepare_sums)
        if isinstance(self.alpha, Tensor):
            self._check_alpha(channels)

        def finalize(table: Tensor) -> Tensor:
            columns = table.unbind(-1)
            losses, counts = columns[FIXED_SUMS], columns[SumColumn.VALID].detach()
            if isinstance(self.alpha, Tensor):
                losses = losses * self.alpha.to(losses) + columns[FIXED_SUMS + 1]
            if weights:
                losses = losses * self.class_weight.to(losses)
            if by_sample:
                return (losses / counts[:, :1].clamp_min(1.0)).sum().float()
            if self.reduction == "sum":
                return (losses.sum() / x[0, 0].numel()).float()
            per_voxel = self.strict and self.ignore_index is not None
            total = counts[:, 0].sum() if per_voxel else counts.sum()
            return (losses.sum() / total.clamp_min(1.0)).float()

        return _fused.run_sums(ready, x, fitted.y, fitted.mask, finalize)

    def _prepare_sums(self, key: tuple) -> Plan:
        _, mode, ignore_index, soft, by_sample = key
        several = isinstance(self.alpha, Tensor)
        terms = [self._term(soft, alpha=1.0), self._term(soft, alpha=0.0)] if several else [self._term(soft)]
        if by_sample:
            terms.append(Term("tversky", batch=False))
        return _fused.make_plan(mode, *terms, ignore_index=ignore_index)

    def _unreduced(self, fitted: FittedFocal, weights: tuple[float, ...]) -> Tensor:
        """Elementwise; reduced in PyTorch where soft labels meet an alpha for each class."""
        key = ("elements", fitted.mode, fitted.ignore_index, fitted.soft)
        loss = _fused.run_plan(self._cached(key, self._prepare_elements), fitted.x, fitted.y, fitted.mask)
        axes = [1] * (loss.ndim - 2)
        if isinstance(self.alpha, Tensor):
            self._check_alpha(loss.shape[1])
            alpha = self.alpha.to(loss).view(-1, *axes)
            loss = loss * torch.where(fitted.y == 1, alpha, torch.ones_like(alpha))
        if weights:
            weight = self.class_weight.to(loss)
            loss = loss * (weight if len(weights) == 1 else weight.view(-1, *axes))
        mask = fitted.mask
        if mask is None and fitted.ignore_index is not None:
            mask = fitted.y != fitted.ignore_index
        return self._reduce(loss, None if mask is None else mask.float())

    def _prepare_elements(self, key: tuple) -> Plan:
        _, mode, ignore_index, soft = key
        alpha = () if self.alpha is None or isinstance(self.alpha, Tensor) else (float(self.alpha),)
        term = Term("focal", gamma=float(self.gamma), vector=alpha, reduction="none", margin=soft)
        return _fused.make_plan(mode, term, ignore_index=ignore_index)

    def _softmax_key(self, fitted: FittedFocal, weights: tuple[float, ...]) -> tuple:
        channels = fitted.x.shape[1]
        by_class = self._softmax_alpha(channels)
        if weights:
            by_class = tuple([w * a for w, a in zip(weights * (channels if len(weights) == 1 else 1), by_class)])
        voxels = fitted.x[0, 0].numel() * (1 if self.reduction == "sum" else fitted.x.shape[0])
        return "softmax", fitted.ignore_index, by_class, self._by_sample, self._own_mean, voxels

    def _softmax_in_steps(self, fitted: FittedFocal, weights: tuple[float, ...]) -> Tensor:
        x = fitted.x
        ready = self._cached(self._softmax_key(fitted, weights), self._prepare_softmax).plan
        if self._by_sample:
            valid = self._valid(fitted).flatten(1).sum(1).clamp_min(1)

            def finalize(table: Tensor) -> Tensor:
                return (table[..., FIXED_SUMS].sum(1) / valid).sum().float()

            return _fused.run_sums(ready, x, fitted.y, fitted.mask, finalize)
        loss = _fused.run_plan(ready, x, fitted.y, fitted.mask)
        return loss / (self._valid(fitted).sum() * (1 if self.strict else x.shape[1])).clamp_min(1)

    def _valid(self, fitted: FittedFocal) -> Tensor:
        return fitted.mask if fitted.mask is not None else fitted.y != fitted.ignore_index

    def _prepare_softmax(self, key: tuple) -> Linear:
        _, ignore_index, by_class, by_sample, own_mean, voxels = key
        if by_sample:
            scale = 1.0
        elif own_mean:
            scale = 1.0 if self.strict and self.ignore_index is not None else 1.0 / len(by_class)
        elif self.reduction == "sum":
            scale = 1.0 / voxels
        else:
            scale = 1.0 if self.ignore_index is not None else 1.0 / (voxels * len(by_class))
        vector = () if min(by_class) == max(by_class) == 1.0 else by_class
        reduction = "mean" if own_mean else "sum"
        terms = [Term("focal", gamma=float(self.gamma), vector=vector, reduction=reduction, weight=scale)]
        if by_sample:
            terms.append(Term("tversky", batch=False))
        return _fused.make_linear("multiclass", *terms, ignore_index=ignore_index)

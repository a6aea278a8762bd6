"""MONAI's Dice and masked Dice losses."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..._modes import unknown
from ...plan import Plan
from ...spec import SumColumn, Term
from .. import _fused
from .._fused import TINY
from .._linear import Call, Linear
from ._declared import Activation, Smoothing, Squares
from ._inputs import plain_tensor
from ._overlap import Fitted, OverlapLoss, Parts, Ratio

Weights = Sequence[float] | float | int | Tensor


class DiceLoss(OverlapLoss, Smoothing, Squares, Activation):
    """`monai.losses.DiceLoss`: 1 - (2 I + smooth_nr) / (P + T + smooth_dr) of each sample (batch=True: of the batch)
    and class; jaccard: 2 (P + T - I) below the line; squared_pred: sums of squares for P and T; soft_label: I = (P + T
    - sum |p - t|) / 2. An absent class is scored as the formula says. Reduction "none" gives [B, C, 1 …], or [C, 1 …]
    with batch=True. Arguments as there; `strict`: see the module.
    """

    original = "monai.losses.dice.DiceLoss"
    _paths: ClassVar = {"weight": "class_weight"}
    _tensors = ("class_weight",)

    weight: Weights | None = None
    soft_label: bool = False
    ignore_index: int | None = None

    def _set(self, *, weight: Weights | None, **settings: Any) -> None:
        super()._set(**settings)
        self.register_buffer("class_weight", None if weight is None else torch.as_tensor(weight))
        self._read()

    def _call(self, fitted: Fitted) -> Call | None:
        if not self._linear:
            return None
        x, channels = fitted.x, fitted.x.shape[1]
        key = (fitted.mode, channels, self._samples(x), fitted.ignore_index, self._class_weights(channels))
        return Call(self._cached(key, self._prepare), x, fitted.y, fitted.mask)

    @property
    def _linear(self) -> bool:
        """Whether it is one term of the kernels."""
        return self.reduction != "none" and self.smooth_nr == self.smooth_dr

    def _samples(self, x: Tensor) -> int:
        """What a sum adds up, of what a mean divides by."""
        return x.shape[0] if self.reduction == "sum" and not self.batch else 1

    def _prepare(self, key: tuple[str, int, int, int | None, tuple[float, ...]]) -> Linear:
        mode, channels, samples, ignore_index, weights = key
        return _fused.make_linear(mode, self._region(channels, samples, weights), ignore_index=ignore_index)

    def _region(
        self, channels: int, samples: int, weights: tuple[float, ...], factor: float = 1.0, dropped: bool = False
    ) -> Term:
        """The loss as one term, times `factor`; `dropped`: the background is not among the channels."""
        classes = channels if dropped else self._classes(channels)
        total = sum(weights) if weights else float(classes)
        vector = weights or (1.0,) * classes
        if classes < channels:
            vector = (0.0, *vector)
        elif not weights:
            vector = ()
        scale = factor * (total / classes if self.reduction == "mean" else total * samples)
        form = 1.0 if self.jaccard else 0.5
        smooth = self.smooth_nr / 2.0
        return self._term(alpha=form, beta=form, smooth=smooth, eps=TINY, empty="score", vector=vector, weight=scale)

    def _class_weights(self, channels: int) -> tuple[float, ...]:
        """The weights of the classes that count, checked; a single number is spread over them, once and for all."""
        classes = self._classes(channels)
        if self.class_weight is None or classes == 1:
            return ()
        if self.class_weight.ndim == 0:
            self.class_weight = torch.as_tensor([self.class_weight] * classes)
        weights = self._floats("class_weight")
        if len(weights) != classes or self.class_weight.ndim != 1:
            raise ValueError(
                f"weight must have one value for each of the {classes} classes (without the background if "
                f"include_background=False), got {len(weights)}."
            )
        if min(weights) < 0:
            raise ValueError(f"weight must not be below 0, got {min(weights)}.")
        return weights

    def _ratio(self, parts: Parts) -> Ratio:
        above = 2.0 * parts.inter + self.smooth_nr
        if self.jaccard:
            return Ratio(above, 2.0 * (parts.pred + parts.truth - parts.inter) + self.smooth_dr, 2.0, -2.0, 2.0)
        return Ratio(above, parts.pred + parts.truth + self.smooth_dr, 2.0, 0.0, 1.0)

    def _class_vector(self, loss: Tensor) -> Tensor | None:
        channels = loss.shape[-1] + (not self.include_background)
        return self.class_weight.to(loss) if self._class_weights(channels) else None


class MaskedDiceLoss(DiceLoss):
    """`monai.losses.MaskedDiceLoss`: `DiceLoss` of p and target both multiplied by a mask. With to_onehot_y=True the
    labels are masked before they are encoded, so that what lies outside counts as target of class 0."""

    original = "monai.losses.dice.MaskedDiceLoss"
    _paths: ClassVar = {
        **DiceLoss._paths,
        "sigmoid": "pre_sigmoid",
        "softmax": "pre_softmax",
        "other_act": "pre_other_act",
    }

    ignore_index: int | None = field(default=None, init=False)

    @property
    def pre_sigmoid(self) -> bool:
        return self.sigmoid

    @pre_sigmoid.setter
    def pre_sigmoid(self, value: bool) -> None:
        self.sigmoid = value

    @property
    def pre_softmax(self) -> bool:
        return self.softmax

    @pre_softmax.setter
    def pre_softmax(self, value: bool) -> None:
        self.softmax = value

    @property
    def pre_other_act(self) -> Callable | None:
        return self.other_act

    @pre_other_act.setter
    def pre_other_act(self, value: Callable | None) -> None:
        self.other_act = value

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `DiceLoss.forward`; mask [B, 1, *S] or [1, 1, *S] of 0 and 1."""
        if mask is None:
            self._warn_no_mask()
            return super().forward(input, target)
        x, y, mask = plain_tensor(input), plain_tensor(target), plain_tensor(mask)
        self._check_mask(x, y, mask)
        if self.why_not_fused is None and mask.shape[1:] == (1, *x.shape[2:]):
            selected = self._bool(mask)
            typed = mask if mask.is_floating_point() else y  # a product with a float mask is one of floats
            fits = selected is not None and not self._refused(typed)
            fitted = self._fit(x, y) if fits else None
            if fitted is not None and selected is not None:
                return self._fused_masked(fitted._replace(mask=selected.expand(x.shape[0], *selected.shape[1:])))
        return self._reduced(self._plain_parts(self._activated(x) * mask, y * mask), x.ndim)

    def as_call(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Call | None:
        if mask is not None:
            return None
        self._warn_no_mask()
        return super().as_call(input, target)

    def _warn_no_mask(self) -> None:
        if not torch.compiler.is_compiling():
            warnings.warn("No mask value specified for the MaskedLoss.", stacklevel=3)

    def _check_mask(self, x: Tensor, y: Tensor, mask: Tensor) -> None:
        if x.dim() != mask.dim():
            warnings.warn(f"Dim of input ({x.shape}) is different from mask ({mask.shape}).", stacklevel=3)
        if x.shape[0] != mask.shape[0] and mask.shape[0] != 1:
            raise ValueError(f"mask must have a batch size of 1 or {x.shape[0]}, got {mask.shape[0]}.")
        if y.dim() > 1:
            if mask.shape[1] != 1:
                raise ValueError(f"mask must have one channel, got {mask.shape[1]}.")
            if x.shape[2:] != mask.shape[2:]:
                warnings.warn(f"Spatial size of input ({x.shape}) is different from mask ({mask.shape}).", stacklevel=3)

    def _bool(self, mask: Tensor) -> Tensor | None:
        if mask.dtype == torch.bool:
            return mask
        if mask.requires_grad:
            return self._slow("mask requires a gradient")
        if unknown(mask):
            return None  # whether it is one of 0 and 1 cannot be known
        selected = mask != 0
        return selected if torch.equal(selected.to(mask.dtype), mask) else self._slow("mask holds weights")

    def _fused_masked(self, fitted: Fitted) -> Tensor:
        if not (self.strict and self.to_onehot_y and fitted.x.shape[1] > 1):
            return self._of(fitted)
        ready, x = self._cached(("masked", fitted.mode), self._prepare_masked), fitted.x

        def finalize(table: Tensor) -> Tensor:
            outside = x[0, 0].numel() - table[:, :1, SumColumn.VALID, None].detach()
            places = torch.zeros(table.shape[1:], dtype=table.dtype, device=table.device)
            for column in (SumColumn.TARGET, SumColumn.TARGET_SQ, SumColumn.ABS_DIFF):
                places[0, column] = 1.0
            table = table + outside * places
            table = table.sum(0, keepdim=True) if self.batch else table
            return _fused.value_of(self._reduced(self._parts(table), x.ndim), x)

        return _fused.run_sums(ready, x, fitted.y, fitted.mask, finalize)

    def _prepare_masked(self, key: tuple[str, str]) -> Plan:
        soft = bool(self.soft_label) and not self.squared_pred
        return _fused.make_plan(key[1], Term("tversky", squared=bool(self.squared_pred), l1=soft, batch=False))

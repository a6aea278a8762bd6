"""What MONAI's Dice, generalised Dice and Tversky losses share: activation, target, background, ignore mask, sums."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...spec import SumColumn, Term
from .. import _fused
from .._base import CompatLoss
from .._linear import Call
from ._inputs import (
    check_activation,
    check_class_indices,
    check_reduction,
    class_indices,
    is_hard,
    plain_tensor,
    single,
)
from ._plain import Parts, PlainOverlap

ABSENT = {"squared_pred": False, "soft_label": False, "ignore_index": None}  # values of what a loss has no argument for


class Ratio(NamedTuple):
    """A loss is 1 - above / below, of each class or of all together; and the derivatives of both by the sums."""

    above: Tensor
    below: Tensor
    above_by_inter: Tensor | float
    below_by_inter: float
    below_by_pred: Tensor | float


class Fitted(NamedTuple):
    """Inputs as the kernels take them."""

    mode: str
    x: Tensor
    y: Tensor
    mask: Tensor | None
    ignore_index: int | None


class OverlapLoss(PlainOverlap):
    """Base of the losses that are functions of the overlap sums of each class."""

    def _set(self, *, reduction: str, strict: bool, **settings: Any) -> None:
        CompatLoss.__init__(self, check_reduction(reduction), strict=strict)
        check_activation(settings["sigmoid"], settings["softmax"], settings["other_act"])
        for name, value in {**ABSENT, **settings}.items():
            setattr(self, name, float(value) if name in ("smooth_nr", "smooth_dr") else value)

    @property
    def why_not_fused(self) -> str | None:
        if self.other_act is not None:
            return "other_act"
        if self.sigmoid and self.softmax:
            return "sigmoid and softmax, one after the other"
        return None if self.sigmoid or self.softmax else "neither sigmoid nor softmax: there is no activation"

    def _classes(self, channels: int) -> int:
        """How many channels count."""
        return channels if self.include_background or channels == 1 else channels - 1

    def _term(self, **kwargs: Any) -> Term:
        """The overlap term; as it stands it only makes the sums."""
        soft = bool(self.soft_label) and not self.squared_pred
        return Term("tversky", squared=bool(self.squared_pred), l1=soft, batch=bool(self.batch), **kwargs)

    def _fit(self, x: Tensor, y: Tensor) -> Fitted | None:
        """None leaves the inputs to plain PyTorch, whose errors are the original's."""
        if not x.is_floating_point() or x.numel() == 0 or y.ndim != x.ndim:
            return None
        if not 3 <= x.ndim <= 5:
            return self._slow(f"input has {x.ndim} axes")
        if y.requires_grad:
            return self._slow("target requires a gradient")
        channels = x.shape[1]
        if not (self.to_onehot_y and channels > 1) and self._refused(y):
            return None
        if channels == 1:
            if self.softmax or y.shape != x.shape:
                return None
            if self.to_onehot_y:
                single("to_onehot_y=True")
            if not self.include_background:
                single("include_background=False")
            return Fitted("binary", x, y, None, self.ignore_index)
        if self.to_onehot_y:
            if y.shape != x[:, :1].shape:
                return None
            indices = class_indices(y)
            if self.softmax:
                return Fitted("multiclass", x, indices, None, self.ignore_index)
            mask = None if self.ignore_index is None else indices != self.ignore_index
            check_class_indices(indices, mask, channels)
            return Fitted("multilabel", x, _fused.one_hot(indices, channels), mask, None)
        if y.shape != x.shape:
            return None
        mask = None
        if self.ignore_index is not None:
            mask = self._hard_mask(y)
            if mask is None:
                return None
        if self.softmax:
            return Fitted("multiclass", x, y if y.is_floating_point() else y.to(x.dtype), mask, None)
        return Fitted("multilabel", x, y, mask, None)

    def _refused(self, y: Tensor) -> bool:
        """Whether the original cannot take a target of this type that is not encoded by it."""
        if not self.strict or y.is_floating_point():
            return False
        if y.dtype == torch.bool and self.ignore_index is not None and 0 <= self.ignore_index < y.shape[1] != 1:
            return True
        if self.ignore_index is not None:
            return False  # its mask makes it floating-point
        return bool(self.squared_pred or self.soft_label) or (y.dtype == torch.bool and self._masks_first)

    def _hard_mask(self, y: Tensor) -> Tensor | None:
        """The ignore mask of a one-hot target as bool, or None: it is soft, and masking multiplies."""
        label: Any = self.ignore_index
        if not 0 <= label < y.shape[1]:
            return y.sum(1, keepdim=True) > 0
        ignored = y[:, label : label + 1]
        if y.is_floating_point() and not is_hard(ignored):
            return self._slow("the channel of ignore_index may be soft")
        return ignored == 0

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """input [B, C, *S]; target of the same shape, or class indices [B, 1, *S] with to_onehot_y=True. Returns a
        scalar, or the shape that the class names for reduction "none"."""
        x, y = plain_tensor(input), plain_tensor(target)
        fitted = self._fit(x, y) if self.why_not_fused is None else None
        if fitted is None:
            return self._reduced(self._plain_parts(self._activated(x), y), x.ndim)
        return self._of(fitted)

    def as_call(self, input: Tensor, target: Tensor) -> Call | None:
        fitted = self._fit(plain_tensor(input), plain_tensor(target)) if self.why_not_fused is None else None
        return None if fitted is None else self._call(fitted)

    def _of(self, fitted: Fitted) -> Tensor:
        call = self._call(fitted)
        return self._from_sums(fitted) if call is None else _fused.run(call)

    def _call(self, fitted: Fitted) -> Call | None:
        """The loss as one term of the kernels, or None where it takes the sums."""
        return None

    def _from_sums(self, fitted: Fitted) -> Tensor:
        """The loss by way of the sums."""
        x = fitted.x
        ready = self._cached(("sums", fitted.mode, fitted.ignore_index), self._prepare_sums)

        def finalize(table: Tensor) -> Tensor:
            return _fused.value_of(self._reduced(self._parts(table), x.ndim), x)

        def with_grads(table: Tensor, grad_sums: Tensor) -> Tensor:
            return _fused.value_of(self._loss_and_grads(table, grad_sums, x.ndim), x)

        return _fused.run_sums(ready, x, fitted.y, fitted.mask, finalize, with_grads, self._counted)

    def _ratio(self, parts: Parts) -> Ratio:
        raise NotImplementedError

    def _class_vector(self, loss: Tensor) -> Tensor | None:
        """What multiplies the losses of the classes."""
        return None

    def _reduced(self, parts: Parts, axes: int) -> Tensor:
        ratio = self._ratio(parts)
        loss = 1.0 - ratio.above / ratio.below
        vector = self._class_vector(loss)
        return self._reduce(loss if vector is None else loss * vector, axes)

    def _loss_and_grads(self, table: Tensor, grad_sums: Tensor, axes: int) -> Tensor:
        """Return the loss, and write its derivatives by the sums into `grad_sums` (reduction "none": of each value by
        its own sums)."""
        ratio = self._ratio(self._parts(table))
        share = ratio.above / ratio.below
        loss, scale = 1.0 - share, ratio.below.reciprocal()
        if self.reduction == "mean":
            scale = scale * (1.0 / loss.numel())
        vector = self._class_vector(loss)
        if vector is not None:
            loss, scale = loss * vector, scale * vector
        by_below = share * scale
        neg_by_inter, by_pred = scale * ratio.above_by_inter, by_below * ratio.below_by_pred
        if ratio.below_by_inter:
            neg_by_inter = neg_by_inter - by_below * ratio.below_by_inter
        classes = self._counted(grad_sums)
        if self.soft_label and not self.squared_pred:
            neg_by_inter = 0.5 * neg_by_inter
            by_pred = by_pred - neg_by_inter
            classes.select(-1, SumColumn.ABS_DIFF).copy_(neg_by_inter)
        else:
            torch.neg(neg_by_inter, out=classes.select(-1, SumColumn.INTER))
        classes.select(-1, SumColumn.PRED_SQ if self.squared_pred else SumColumn.PRED).copy_(by_pred)
        return self._reduce(loss, axes)

    def _counted(self, table: Tensor) -> Tensor:
        """The sums of the classes that count: [N, C, FIXED_SUMS + T], or [C, FIXED_SUMS + T] over the batch."""
        table = table[0] if self.batch else table
        return table[..., 1:, :] if self._classes(table.shape[-2]) < table.shape[-2] else table

    def _prepare_sums(self, key: tuple) -> Any:
        return _fused.make_plan(key[1], self._term(), ignore_index=key[2])

    def _parts(self, table: Tensor, with_background: bool = True) -> Parts:
        """From the sums of the kernels [N or 1, C, *]."""
        if with_background:
            table = self._counted(table)
        elif self.batch:
            table = table[0]
        if self.squared_pred:
            columns = SumColumn.INTER, SumColumn.PRED_SQ, SumColumn.TARGET_SQ
            return Parts(*[table.select(-1, column) for column in columns])
        pred, truth = table.select(-1, SumColumn.PRED), table.select(-1, SumColumn.TARGET)
        if self.soft_label:
            inter = (pred + truth - table.select(-1, SumColumn.ABS_DIFF)) * 0.5
        else:
            inter = table.select(-1, SumColumn.INTER)
        return Parts(inter, pred, truth)

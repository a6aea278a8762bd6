"""smp's BCE and cross-entropy losses."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...spec import Term
from .. import _fused
from .._base import CompatLoss
from .._linear import Call, Linear
from ._common import labels


class SoftBCEWithLogitsLoss(CompatLoss):
    """`segmentation_models_pytorch.losses.SoftBCEWithLogitsLoss`: torch's BCE of logits with t' = (1 - t) s + t
    (1 - s), 0 where the target is ignored; the mean divides by all elements. Arguments as there; `strict`: see the
    module."""

    weight: Any
    pos_weight: Any

    original = "segmentation_models_pytorch.losses.soft_bce.SoftBCEWithLogitsLoss"
    library = "smp"
    _tensors = ("pos_weight",)

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
        reduction: str = "mean",
        smooth_factor: float | None = None,
        pos_weight: Tensor | None = None,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(reduction, strict=strict)
        self.ignore_index = ignore_index
        self.smooth_factor = smooth_factor
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)
        self._read()

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """y_pred and y_true of the same shape; returns a scalar, or that shape with reduction neither mean nor sum."""
        call = self._call(y_pred, y_true)
        if call is None:
            return self._plain(y_pred, y_true)
        loss = _fused.run(call)
        if loss.ndim:
            return loss.reshape(y_pred.shape)
        return loss / y_pred.numel() if self._over_all else loss

    def as_call(self, y_pred: Tensor, y_true: Tensor) -> Call | None:
        return None if self._over_all else self._call(y_pred, y_true)

    def _call(self, x: Tensor, y: Tensor) -> Call | None:
        loss = self._fit(x, y)
        if loss is None:
            return None
        weight = None if self.weight is None else self.weight.expand(x.shape)
        if not 3 <= x.ndim <= 5:
            x, y = x.reshape(1, 1, -1), y.reshape(1, 1, -1)
            weight = None if weight is None else weight.reshape(1, 1, -1)
        return Call(loss, x, y, None, weight)

    @property
    def _over_all(self) -> bool:
        """Whether the sum is divided by all elements."""
        return self.strict and self.reduction == "mean" and self.ignore_index is not None

    def _fit(self, x: Tensor, y: Tensor) -> Linear | None:
        """None leaves the inputs to plain PyTorch, whose errors are the original's."""
        if x.shape != y.shape or not x.is_floating_point() or x.numel() == 0:
            return None
        if self._learns(y, self.weight):
            return self._slow("y_true, weight or pos_weight requires a gradient")
        refused = y.dtype == torch.bool if self.smooth_factor is not None else not y.is_floating_point()
        if self.strict and refused:  # an error there
            return None
        if self.weight is not None and not self.weight.is_floating_point():
            return None
        loss = self._cached((x.shape[1:2], x.ndim, self._floats("pos_weight")), self._prepare)
        return self._slow("pos_weight varies along another axis than the channels") if loss is False else loss

    def _prepare(self, key: tuple[torch.Size, int, tuple[float, ...]]) -> Linear | bool:
        sizes, axes, vector = key
        if self.pos_weight is not None:
            channels = sizes[0] if sizes else 1
            shape = (1,) * (axes - self.pos_weight.ndim) + tuple(self.pos_weight.shape)
            per_channel = len(shape) == axes and 3 <= axes <= 5 and shape[1] == channels == len(vector)
            if len(vector) != 1 and not per_channel:
                return False
        term = Term(
            "bce",
            reduction="sum" if self._over_all else self.reduction if self.reduction in ("mean", "sum") else "none",
            label_smoothing=2.0 * (self.smooth_factor or 0.0),
            vector=vector,
        )
        return _fused.make_linear("multilabel", term, ignore_index=self.ignore_index)

    def _plain(self, x: Tensor, y: Tensor) -> Tensor:
        s = self.smooth_factor
        target = y if s is None else (1 - y) * s + y * (1 - s)
        loss = F.binary_cross_entropy_with_logits(x, target, self.weight, pos_weight=self.pos_weight, reduction="none")
        valid = None if self.ignore_index is None else y != self.ignore_index
        if valid is not None:
            loss = loss * valid
        if self.reduction == "mean":
            return loss.mean() if self.strict or valid is None else loss.sum() / valid.sum().clamp_min(1)
        return loss.sum() if self.reduction == "sum" else loss


class SoftCrossEntropyLoss(CompatLoss):
    """`segmentation_models_pytorch.losses.SoftCrossEntropyLoss`: (1 - e) (-log p_y) + e / C sum(-log p), 0 where
    ignored; the mean divides by all pixels. Arguments as there (smooth_factor must be given); `strict`: see the
    module."""

    original = "segmentation_models_pytorch.losses.soft_ce.SoftCrossEntropyLoss"
    library = "smp"

    def __init__(
        self,
        reduction: str = "mean",
        smooth_factor: float | None = None,
        ignore_index: int | None = -100,
        dim: int = 1,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(reduction, strict=strict)
        self.smooth_factor = smooth_factor
        self.ignore_index = ignore_index
        self.dim = dim

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """y_pred [N, C, *] with the classes on axis `dim`, y_true class indices without that axis (or with it of size
        1). Returns a scalar; with reduction neither mean nor sum the pixels, with the axis of size 1 unless
        ignore_index is None."""
        call = self._call(y_pred, y_true)
        if call is None:
            return self._plain(y_pred, y_true, self.smooth_factor or 0.0)
        loss, shape = _fused.run(call), y_pred.select(self.dim, 0).shape
        if loss.ndim:
            loss = loss.reshape(shape)
            return loss if self.ignore_index is None else loss.unsqueeze(self.dim)
        return loss / shape.numel() if self._over_all else loss

    def as_call(self, y_pred: Tensor, y_true: Tensor) -> Call | None:
        return None if self._over_all else self._call(y_pred, y_true)

    def _call(self, x: Tensor, y: Tensor) -> Call | None:
        if self.smooth_factor is None and self.strict:
            raise TypeError("smooth_factor must be a number, got None (strict=False reads it as 0).")
        several = x.ndim > 1
        y = y.movedim(self.dim, 1) if several and y.ndim == x.ndim else y
        x = x.movedim(self.dim, 1) if several else x
        if not self._fits(x, y):
            return None
        x, y = _fused.volume(x), y if self.strict else labels(y)
        if y.ndim != x.ndim:
            y = y.reshape(x[:, 0].shape)
        return Call(self._cached((), self._prepare), x, y)

    @property
    def _over_all(self) -> bool:
        return self.strict and self.reduction == "mean" and self.ignore_index is not None

    def _fits(self, x: Tensor, y: Tensor) -> bool:
        if x.ndim < 2 or x.numel() == 0 or x.shape[1] < 2 or not x.is_floating_point():
            return False
        if y.shape != x[:, 0].shape and y.shape != x[:, :1].shape:
            return False
        return y.dtype == torch.int64 or not self.strict

    def _prepare(self, _: tuple) -> Linear:
        term = Term(
            "ce",
            reduction="sum" if self._over_all else self.reduction if self.reduction in ("mean", "sum") else "none",
            label_smoothing=float(self.smooth_factor or 0.0),
        )
        return _fused.make_linear("multiclass", term, ignore_index=self.ignore_index)

    def _plain(self, x: Tensor, y: Tensor, e: float) -> Tensor:
        log_p = x.log_softmax(self.dim)
        y = y.unsqueeze(self.dim) if y.ndim == x.ndim - 1 else y
        ignored = None if self.ignore_index is None else y == self.ignore_index
        y = y if ignored is None else y.masked_fill(ignored, 0)
        picked, every = log_p.gather(self.dim, y), log_p.sum(self.dim, keepdim=True)
        if ignored is None:
            picked, every = picked.squeeze(self.dim), every.squeeze(self.dim)
        else:
            picked, every = picked.masked_fill(ignored, 0.0), every.masked_fill(ignored, 0.0)
        if self.reduction == "mean" and not (self.strict or ignored is None):
            n = (~ignored).sum().clamp_min(1)
            picked, every = picked.sum() / n, every.sum() / n
        elif self.reduction in ("mean", "sum"):  # each by itself: gather takes a target of fewer samples
            picked, every = getattr(picked, self.reduction)(), getattr(every, self.reduction)()
        return (e - 1.0) * picked - e / x.size(self.dim) * every

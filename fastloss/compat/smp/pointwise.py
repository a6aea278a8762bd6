"""smp's focal, BCE and cross-entropy losses."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...plan import Plan
from ...spec import Term
from .. import _fused
from .._base import CompatLoss
from ._common import Vector, check_mode, labels, tensor

REDUCED = {"mean": "mean", "sum": "sum", "batchwise_mean": "sum"}


class FocalLoss(CompatLoss):
    """`segmentation_models_pytorch.losses.FocalLoss`: alpha_t (1 - exp(-b))^gamma b, b the BCE of each element.

    Multiclass is one-vs-rest sigmoids of class ids [N, *S] (never softmax); classes are averaged, whatever the
    reduction. Binary flattens: reduction "none" gives the valid elements in one row. Arguments as there; `strict`: see
    the module.
    """

    original = "segmentation_models_pytorch.losses.focal.FocalLoss"
    library = "smp"

    def __init__(
        self,
        mode: str,
        alpha: float | None = None,
        gamma: float | None = 2.0,
        ignore_index: int | None = None,
        from_logits: bool = True,
        eps: float = 1e-7,
        reduction: str | None = "mean",
        normalized: bool = False,
        reduced_threshold: float | None = None,
        class_weights: Vector | None = None,
        *,
        strict: bool = True,
    ) -> None:
        check_mode(mode)
        super().__init__(strict=strict)
        if mode == "binary" and class_weights is not None:
            raise ValueError("class_weights needs mode 'multilabel' or 'multiclass', got 'binary'.")
        self.mode = mode
        self.alpha = alpha
        self.gamma = gamma
        self.ignore_index = ignore_index
        self.from_logits = from_logits
        self.eps = eps
        self.reduction = reduction
        self.normalized = normalized
        self.reduced_threshold = reduced_threshold
        self.class_weights = tensor(class_weights, torch.float)

    @classmethod
    def arguments(cls, loss: Any) -> dict[str, Any]:
        if isinstance(loss, cls):
            return super().arguments(loss)
        own = {name: getattr(loss, name) for name in ("mode", "ignore_index", "from_logits", "eps", "class_weights")}
        return own | loss.focal_loss_fn.keywords

    @property
    def why_not_fused(self) -> str | None:
        if not self.from_logits:
            return "from_logits=False: there is no activation"
        if self.normalized:
            return "normalized=True: no sum of focal weights"
        if self.reduced_threshold is not None:
            return "reduced_threshold"
        if self.class_weights is not None and self.reduction not in ("mean", "sum"):
            return f"class_weights with reduction={self.reduction!r}"
        return None

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """y_pred [N, C, *]; y_true of the same shape (binary: of the same number of elements) or class ids [N, *].
        Returns a scalar, or one value for each valid element (binary, reduction neither mean nor sum)."""
        if self.why_not_fused is None and self._fits(y_pred, y_true):
            return self._fused(y_pred, y_true)
        return self._plain(y_pred, y_true)

    def _fits(self, x: Tensor, y: Tensor) -> bool:
        if not x.is_floating_point() or x.numel() == 0:
            return False
        if y.requires_grad:
            return bool(self._slow("y_true requires a gradient"))
        if self.mode == "binary":
            return y.numel() == x.numel()
        if self.mode == "multiclass":
            return x.ndim >= 3 and y.shape == x[:, 0].shape
        return x.ndim >= 3 and y.shape == x.shape and (self.ignore_index is None or not self.strict)

    def _fused(self, x: Tensor, y: Tensor) -> Tensor:
        mask = None
        if self.mode == "binary":
            if not (3 <= x.ndim <= 5 and x.shape[1] == 1 and (y.shape == x.shape or y.shape == x[:, 0].shape)):
                x, y = x.reshape(1, 1, -1), y.reshape(1, 1, -1)
        else:
            x = _fused.volume(x)
        if self.mode == "multiclass":
            y = y.unsqueeze(1) if x.ndim == y.ndim + 1 else y.reshape(x.shape[0], 1, -1)
            mask = None if self.ignore_index is None else y != self.ignore_index
            y = _fused.one_hot(y, x.shape[1])
        ready, scale = self._cached((x.shape[1], x[0, 0].numel(), x.shape[0]), self._prepare)
        if self.class_weights is not None:
            return self._weighted(ready, x, y, mask)
        loss = _fused.call(ready, x, y, mask)
        if loss.ndim:
            loss = loss.reshape(-1)
            return loss if self.ignore_index is None else loss[y.reshape(-1) != self.ignore_index]
        return loss if scale == 1.0 else loss * scale

    def _prepare(self, key: tuple[int, int, int]) -> tuple[Plan, float]:
        channels, pixels, _ = key
        several = self.mode != "binary"
        reduction = REDUCED.get(self.reduction, "mean" if several else "none")
        scale = 1.0
        if reduction == "sum" and several:  # of the pixels; the classes are averaged
            keeps_pixels = self.reduction == "batchwise_mean" and self.ignore_index is None
            scale = 1.0 / (channels * (pixels if keeps_pixels else 1))
        term = Term(
            "focal",
            reduction=reduction,
            gamma=float(self.gamma),
            vector=() if self.alpha is None else (float(self.alpha),),
        )
        ignore = None if self.mode == "multiclass" else self.ignore_index
        return _fused.prepared("multilabel" if several else "binary", term, ignore_index=ignore), scale

    def _weighted(self, ready: Plan, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        table = _fused.sums(ready, x, y, mask)[0]
        classes = table[:, _fused.FIRST]
        if self.reduction == "mean":
            classes = classes / table[:, _fused.VALID].detach().clamp_min(1.0)
        weights = self.class_weights.to(classes)
        return _fused.value_of((classes * weights).sum() / weights.sum(), x)

    def _plain(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.from_logits:
            x = x.clamp(self.eps, 1 - self.eps)
            x = torch.log(x) if self.mode == "multiclass" else torch.logit(x)
        if self.mode == "binary":
            x, y = x.reshape(-1), y.reshape(-1)
            if self.ignore_index is not None:
                valid = y != self.ignore_index
                x, y = x[valid], y[valid]
            return self._reduced(*self._elements(x, y))
        valid = None if self.ignore_index is None else y != self.ignore_index
        losses = []
        for c in range(x.size(1)):
            xc, yc = x[:, c], y == c if self.mode == "multiclass" else y[:, c]
            if valid is not None:
                keep = valid if self.strict or self.mode == "multiclass" else valid[:, c]
                xc, yc = xc[keep], yc[keep]
            losses.append(self._reduced(*self._elements(xc, yc)))
        loss = torch.stack(losses)
        if self.class_weights is None:
            return loss.mean()
        weights = self.class_weights.to(loss.device)
        return (loss * weights).sum() / weights.sum()

    def _elements(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, focal weight) of each element."""
        y = y.to(dtype=x.dtype, device=x.device)
        b = F.binary_cross_entropy_with_logits(x, y, reduction="none")
        miss = -torch.expm1(-b)
        r = self.reduced_threshold
        if r is None:
            focus = miss**self.gamma
        else:
            focus = torch.where(1.0 - miss < r, torch.ones_like(miss), (miss / r) ** self.gamma)
        loss = focus * b
        if self.alpha is not None:
            loss = loss * (self.alpha * y + (1 - self.alpha) * (1 - y))
        return loss, focus

    def _reduced(self, loss: Tensor, focus: Tensor) -> Tensor:
        if self.normalized:
            loss = loss / focus.sum().clamp_min(1e-6)
        if self.reduction == "mean":
            return loss.mean()
        if self.reduction == "sum":
            return loss.sum()
        return loss.sum(0) if self.reduction == "batchwise_mean" else loss


class SoftBCEWithLogitsLoss(CompatLoss):
    """`segmentation_models_pytorch.losses.SoftBCEWithLogitsLoss`: torch's BCE of logits with t' = (1 - t) s + t
    (1 - s), 0 where the target is ignored; the mean divides by all elements. Arguments as there; `strict`: see the
    module."""

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
        ready = self._fit(y_pred, y_true)
        if ready is None:
            return self._plain(y_pred, y_true)
        x, y, weight = y_pred, y_true, self.weight
        if weight is not None:
            weight = weight.expand(x.shape)
        if not 3 <= x.ndim <= 5:
            x, y = x.reshape(1, 1, -1), y.reshape(1, 1, -1)
            weight = weight if weight is None else weight.reshape(1, 1, -1)
        loss = _fused.call(ready, x, y, None, weight)
        if loss.ndim:
            return loss.reshape(y_pred.shape)
        return loss / x.numel() if self._over_all else loss

    @property
    def _over_all(self) -> bool:
        """Whether the sum is divided by all elements."""
        return self.strict and self.reduction == "mean" and self.ignore_index is not None

    def _fit(self, x: Tensor, y: Tensor) -> Plan | None:
        """None leaves the inputs to plain PyTorch, whose errors are the original's."""
        if x.shape != y.shape or not x.is_floating_point() or x.numel() == 0:
            return None
        if y.requires_grad or (self.weight is not None and self.weight.requires_grad):
            return self._slow("y_true or weight requires a gradient")
        refused = y.dtype == torch.bool if self.smooth_factor is not None else not y.is_floating_point()
        if self.strict and refused:  # an error there
            return None
        if self.weight is not None and not self.weight.is_floating_point():
            return None
        ready = self._cached((x.shape[1:2], x.ndim, self._floats("pos_weight")), self._prepare)
        return self._slow("pos_weight varies along another axis than the channels") if ready is False else ready

    def _prepare(self, key: tuple[torch.Size, int, tuple[float, ...]]) -> Plan | bool:
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
        return _fused.prepared("multilabel", term, ignore_index=self.ignore_index)

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
        """y_pred [N, C, *] with the classes on axis `dim`, y_true class ids without that axis (or with it of size 1).
        Returns a scalar; with reduction neither mean nor sum the pixels, with the axis of size 1 unless ignore_index is
        None."""
        e = self.smooth_factor
        if e is None and self.strict:
            raise TypeError("smooth_factor must be a number, got None (strict=False reads it as 0).")
        x = y_pred.movedim(self.dim, 1) if y_pred.ndim > 1 else y_pred
        y = y_true.movedim(self.dim, 1) if y_true.ndim == y_pred.ndim > 1 else y_true
        if not self._fits(x, y):
            return self._plain(y_pred, y_true, e or 0.0)
        shape = x[:, 0].shape
        x, y = _fused.volume(x), y if self.strict else labels(y)
        if y.ndim != x.ndim:
            y = y.reshape(x[:, 0].shape)
        loss = _fused.call(self._cached((), self._prepare), x, y)
        if loss.ndim:
            loss = loss.reshape(shape)
            return loss if self.ignore_index is None else loss.unsqueeze(self.dim)
        return loss / shape.numel() if self._over_all else loss

    @property
    def _over_all(self) -> bool:
        return self.strict and self.reduction == "mean" and self.ignore_index is not None

    def _fits(self, x: Tensor, y: Tensor) -> bool:
        if x.ndim < 2 or x.numel() == 0 or x.shape[1] < 2 or not x.is_floating_point():
            return False
        if y.shape != x[:, 0].shape and y.shape != x[:, :1].shape:
            return False
        return y.dtype == torch.int64 or not self.strict

    def _prepare(self, _: tuple) -> Plan:
        term = Term(
            "ce",
            reduction="sum" if self._over_all else self.reduction if self.reduction in ("mean", "sum") else "none",
            label_smoothing=float(self.smooth_factor or 0.0),
        )
        return _fused.prepared("multiclass", term, ignore_index=self.ignore_index)

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

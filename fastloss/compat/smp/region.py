"""smp's Dice, Jaccard and Tversky losses: `fastloss.TverskyLoss` with empty="zero" and, for float labels, soft="l1"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...spec import Term
from .. import _fused
from .._base import CompatLoss
from .._linear import Call, Linear
from ._common import Vector, check_mode, labels, tensor
from ._probabilities import Score


class _RegionLoss(CompatLoss):
    library = "smp"
    _tensors = ("classes", "class_weights")
    _weights: ClassVar[tuple[float, float]]  # of false positives and false negatives

    def __init__(
        self,
        mode: str,
        classes: Sequence[int] | Tensor | None,
        log_loss: bool,
        from_logits: bool,
        smooth: float,
        ignore_index: int | None,
        eps: float,
        class_weights: Vector | None,
        strict: bool,
    ) -> None:
        check_mode(mode)
        super().__init__(strict=strict)
        if mode == "binary" and class_weights is not None:
            raise ValueError("class_weights needs mode 'multilabel' or 'multiclass', got 'binary'.")
        if mode == "binary" and classes is not None:
            raise AssertionError("classes needs mode 'multilabel' or 'multiclass', got 'binary'.")
        self.mode = mode
        self.classes = tensor("classes", classes, torch.long, strict)
        self.from_logits = from_logits
        self.smooth = smooth
        self.eps = eps
        self.log_loss = log_loss
        self.ignore_index = ignore_index
        self.class_weights = tensor("class_weights", class_weights, torch.float, strict)

    @property
    def why_not_fused(self) -> str | None:
        if not self.from_logits:
            return "from_logits=False: there is no activation"
        if self.class_weights is not None and min(self._floats("class_weights"), default=0.0) < 0.0:
            return "class_weights below 0"
        return None

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """y_pred [N, C, *]; y_true as y_pred, without its channel axis, or class indices [N, *] or [N, 1, *]
        (multiclass). Returns a scalar."""
        call = self._call(y_pred, y_true)
        return self._plain(y_pred, y_true) if call is None else _fused.run(call)

    def as_call(self, y_pred: Tensor, y_true: Tensor) -> Call | None:
        return self._call(y_pred, y_true)

    def _call(self, x: Tensor, y: Tensor) -> Call | None:
        fitted = self._fit(x, y) if self.why_not_fused is None else None
        if fitted is None:
            return None
        x, y = fitted
        key = (x.shape[1], y.is_floating_point(), self._floats("class_weights"), self._floats("classes"))
        loss, scale = self._cached(key, self._prepare)
        return Call(loss, x, y, factor=scale)

    def _fit(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
        """The inputs as the kernels take them; None leaves them to plain PyTorch, whose errors are the original's."""
        if x.ndim < 2 or x.numel() == 0 or y.ndim == 0 or y.shape[0] != x.shape[0] or not x.is_floating_point():
            return None
        if y.requires_grad:
            return self._slow("y_true requires a gradient")
        if self.mode == "multiclass":
            return self._fit_class_indices(x, y)
        if y.numel() != x.numel():
            return None
        binary = self.mode == "binary"
        alike = x.shape == y.shape or (x.shape[1] == 1 and y.shape == x[:, 0].shape)
        if 3 <= x.ndim <= 5 and alike and (x.shape[1] == 1 or not binary):
            return x, y
        rows = (x.shape[0], 1 if binary else x.shape[1], -1)
        return x.reshape(rows), y.reshape(rows)

    def _fit_class_indices(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
        if x.shape[1] < 2 or y.numel() * x.shape[1] != x.numel():
            return None
        if y.dtype != torch.int64:
            if self.strict and self.ignore_index is None:
                return None
            y = labels(y)
        if 3 <= x.ndim <= 5 and (y.shape == x[:, 0].shape or y.shape == x[:, :1].shape):
            return x, y
        return x.reshape(x.shape[0], x.shape[1], -1), y.reshape(y.shape[0], -1)

    def _prepare(self, key: tuple[int, bool, tuple, tuple]) -> tuple[Linear, float]:
        channels, soft, *_ = key
        shares, scale = self._shares(channels)
        term = Term(
            "tversky",
            alpha=self._weights[0],
            beta=self._weights[1],
            smooth=float(self.smooth),
            eps=float(self.eps),
            curve="log" if self.log_loss else "power",
            l1=soft and self.mode != "multiclass",
            vector=shares,
        )
        return _fused.make_linear(self.mode, term, ignore_index=self.ignore_index), scale

    def _shares(self, channels: int) -> tuple[tuple[float, ...], float]:
        """(w, s) such that the loss is s times the w-weighted mean over classes; errors are those of the indexing."""
        if self.classes is None and self.class_weights is None:
            return (), 1.0
        picked = list(range(channels))
        weights = list(self._floats("class_weights")) or [1.0] * channels
        if self.classes is not None:
            classes = [int(k) for k in self._floats("classes")]
            picked, weights = [picked[k] for k in classes], [weights[k] for k in classes]
        total = sum(weights)
        if total == 0:
            return (), float("nan")  # 0/0, as in the original
        if len(weights) == 1:
            weights = weights * len(picked)
        elif len(picked) == 1:
            picked = picked * len(weights)
        elif len(weights) != len(picked):
            raise RuntimeError(f"class_weights has {len(weights)} values, but {len(picked)} classes count.")
        shares = [0.0] * channels
        for k, weight in zip(picked, weights):
            shares[k] += weight / total
        scale = sum(shares)
        return tuple(shares), 1.0 if abs(scale - 1.0) < 1e-12 else scale

    def _plain(self, x: Tensor, y: Tensor) -> Tensor:
        if x.size(0) != y.size(0):
            raise AssertionError(f"y_true must have the batch size of y_pred, {x.size(0)}, got {y.size(0)}.")
        n, channels = x.size(0), x.size(1)
        p = x
        if self.from_logits:
            p = x.softmax(1) if self.mode == "multiclass" else x.sigmoid()
        rows = (n, 1 if self.mode == "binary" else channels, -1)
        p = p.reshape(rows)
        y = y.reshape(n, -1) if self.mode == "multiclass" else y.reshape(rows)
        valid = None if self.ignore_index is None else y != self.ignore_index
        if self.mode == "multiclass":
            y = y if valid is None else (y * valid).long()
            if y.dtype != torch.int64:
                raise RuntimeError(f"y_true must hold int64 class ids, got {str(y.dtype).removeprefix('torch.')}.")
            hot = y.new_zeros((n, channels, y.shape[1]), dtype=p.dtype)
            y = hot.scatter_(1, y.unsqueeze(1), 1)
            valid = valid if valid is None else valid.unsqueeze(1)
        if valid is not None:
            p, y = p * valid, y * valid
        if p.shape != y.shape:
            raise AssertionError(f"y_true must fit y_pred {list(x.shape)}, got {list(y.shape)} once flattened.")
        y = y.to(p.dtype)
        return self._cached(("score", p.shape[1]), self._score)(p, y)

    def _score(self, key: tuple[str, int]) -> Score:
        shares, scale = self._shares(key[1])
        shares = shares or (scale / key[1],) * key[1]
        alpha, beta = self._weights
        return Score(float(alpha), float(beta), float(self.smooth), float(self.eps), bool(self.log_loss), shares)


class DiceLoss(_RegionLoss):
    """`segmentation_models_pytorch.losses.DiceLoss`: 1 - (I + s) / max((P + T) / 2 + s, eps), or its -log, of each
    class over batch and space; 0 for a class without target pixels, which counts in the mean all the same.

    I = (P + T - sum |p - t|) / 2, as Wang et al. 2023 for soft labels. Arguments as there; `strict`: see the module.
    """

    original = "segmentation_models_pytorch.losses.dice.DiceLoss"
    _weights = (0.5, 0.5)

    def __init__(
        self,
        mode: str,
        classes: Sequence[int] | Tensor | None = None,
        log_loss: bool = False,
        from_logits: bool = True,
        smooth: float = 0.0,
        ignore_index: int | None = None,
        eps: float = 1e-7,
        class_weights: Vector | None = None,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(mode, classes, log_loss, from_logits, smooth, ignore_index, eps, class_weights, strict)


class JaccardLoss(_RegionLoss):
    """`segmentation_models_pytorch.losses.JaccardLoss`: as `DiceLoss` with max(P + T - I + s, eps) below the line."""

    original = "segmentation_models_pytorch.losses.jaccard.JaccardLoss"
    _weights = (1.0, 1.0)

    def __init__(
        self,
        mode: str,
        classes: Sequence[int] | Tensor | None = None,
        log_loss: bool = False,
        from_logits: bool = True,
        smooth: float = 0.0,
        ignore_index: int | None = None,
        eps: float = 1e-7,
        class_weights: Vector | None = None,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(mode, classes, log_loss, from_logits, smooth, ignore_index, eps, class_weights, strict)


class TverskyLoss(_RegionLoss):
    """`segmentation_models_pytorch.losses.TverskyLoss`: as `DiceLoss` with max(I + alpha FP + beta FN + s, eps) below
    the line; gamma is the exponent of the mean over classes, not of each class as in `fastloss.TverskyLoss`."""

    original = "segmentation_models_pytorch.losses.tversky.TverskyLoss"

    def __init__(
        self,
        mode: str,
        classes: Sequence[int] | Tensor | None = None,
        log_loss: bool = False,
        from_logits: bool = True,
        smooth: float = 0.0,
        ignore_index: int | None = None,
        eps: float = 1e-7,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        class_weights: Vector | None = None,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(mode, classes, log_loss, from_logits, smooth, ignore_index, eps, class_weights, strict)
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma

    @property
    def _weights(self) -> Any:
        return float(self.alpha), float(self.beta)

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        loss = super().forward(y_pred, y_true)
        if self.gamma == 1.0:
            return loss
        if self.strict:
            return loss**self.gamma
        above = loss > 0
        return torch.where(above, torch.where(above, loss, torch.ones_like(loss)) ** self.gamma, loss * 0.0)

    def as_call(self, y_pred: Tensor, y_true: Tensor) -> Call | None:
        return self._call(y_pred, y_true) if self.gamma == 1.0 else None

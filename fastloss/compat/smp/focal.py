"""smp's focal loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...spec import FIXED_SUMS, SumColumn, Term
from .. import _fused
from .._base import CompatLoss
from .._linear import Call, Linear
from ._common import Vector, bce, check_mode, tensor

REDUCED = {"mean": "mean", "sum": "sum", "batchwise_mean": "sum"}


class FocalLoss(CompatLoss):
    """`segmentation_models_pytorch.losses.FocalLoss`: alpha_t (1 - exp(-b))^gamma b, b the BCE of each element.

    Multiclass is one-vs-rest sigmoids of class indices [N, *S] (never softmax); classes are averaged, whatever the
    reduction. Binary flattens: reduction "none" gives the valid elements in one row. Arguments as there; `strict`: see
    the module.
    """

    gamma: Any
    class_weights: Any

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
        self.reduction: Any = reduction
        self.normalized = normalized
        self.reduced_threshold = reduced_threshold
        self.class_weights = tensor("class_weights", class_weights, torch.float, strict)

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
        """y_pred [N, C, *]; y_true of the same shape (binary: of the same number of elements) or class indices [N, *].
        Returns a scalar, or one value for each valid element (binary, reduction neither mean nor sum)."""
        call = self._call(y_pred, y_true)
        if call is None:
            return self._plain(y_pred, y_true)
        if self.class_weights is not None:
            return self._weighted(call)
        loss = _fused.run(call)
        if loss.ndim:
            loss = loss.reshape(-1)
            return loss if self.ignore_index is None else loss[call.y.reshape(-1) != self.ignore_index]
        return loss

    def as_call(self, y_pred: Tensor, y_true: Tensor) -> Call | None:
        return self._call(y_pred, y_true) if self.class_weights is None else None

    def _fits(self, x: Tensor, y: Tensor) -> bool:
        if not x.is_floating_point() or x.numel() == 0:
            return False
        if self._learns(y, self.class_weights):
            return bool(self._slow("y_true or class_weights requires a gradient"))
        if self.mode == "binary":
            return y.numel() == x.numel()
        if self.mode == "multiclass":
            return x.ndim >= 3 and y.shape == x[:, 0].shape
        return x.ndim >= 3 and y.shape == x.shape and (self.ignore_index is None or not self.strict)

    def _call(self, x: Tensor, y: Tensor) -> Call | None:
        if self.why_not_fused is not None or not self._fits(x, y):
            return None
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
        loss, scale = self._cached((x.shape[1], x[0, 0].numel(), x.shape[0]), self._prepare)
        return Call(loss, x, y, mask, factor=scale)

    def _prepare(self, key: tuple[int, int, int]) -> tuple[Linear, float]:
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
        return _fused.make_linear("multilabel" if several else "binary", term, ignore_index=ignore), scale

    def _weighted(self, call: Call) -> Tensor:
        def finalize(table: Tensor) -> Tensor:
            columns = table[0].unbind(-1)
            classes = columns[FIXED_SUMS]
            if self.reduction == "mean":
                classes = classes / columns[SumColumn.VALID].detach().clamp_min(1.0)
            weights = self.class_weights.to(classes)
            return _fused.value_of((classes * weights).sum() / weights.sum(), call.x)

        return _fused.run_sums(call.loss.plan, call.x, call.y, call.mask, finalize)

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
        b = bce(x, y)
        pt = torch.exp(-b)
        r = self.reduced_threshold
        focus = (1.0 - pt if r is None else (1.0 - pt) / r) ** self.gamma
        if r is not None:
            focus = focus.masked_fill(pt < r, 1.0)
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

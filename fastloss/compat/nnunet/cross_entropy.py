"""nnU-Net's cross-entropies: labels of any dtype with a channel axis, and the top k percent of the pixels."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ... import _arguments as check
from ..._modes import unknown
from ...reference.inputs import equals_ignored
from ...spec import Term
from .._linear import Call, Linear, elementwise, may_ignore
from ..torch import CrossEntropyLoss
from .dice import as_class_indices


class RobustCrossEntropyLoss(CrossEntropyLoss):
    """nnU-Net's `RobustCrossEntropyLoss`: `torch.nn.CrossEntropyLoss` of labels [N, *S] or [N, 1, *S] of any dtype."""

    original = "nnunetv2.training.loss.robust_ce_loss.RobustCrossEntropyLoss"
    library = "nnunet"
    _channel_axis = True

    def _plain(self, input: Tensor, target: Tensor) -> Tensor:
        indices = self._class_indices(input, target)
        return super()._plain(input, indices.reshape(input.shape[0], *input.shape[2:]).long())

    def as_call(self, input: Tensor, target: Tensor) -> Call | None:
        return super().as_call(input, self._class_indices(input, target))

    def _class_indices(self, input: Tensor, target: Tensor) -> Tensor:
        if target.ndim == input.ndim and target.shape[1] != 1:
            raise ValueError(f"target must be labels [N, *S] or [N, 1, *S], got {list(target.shape)}.")
        return as_class_indices(target)


class TopKLoss(RobustCrossEntropyLoss):
    """nnU-Net's `TopKLoss`: the mean of the int(n k / 100) largest cross-entropies of the batch.

    n counts every pixel, also the ignored ones, whose cross-entropy is 0; where int(n k / 100) is 0 the loss is NaN.
    strict=False counts valid pixels only, and takes at least one. Equal elements share the last places (nnU-Net: some
    of them are taken), which changes no value. label_smoothing, and ignored labels outside of eager CPU code, sort the
    fused elements by `torch.topk`.

    Args:
        weight: one number for each class, multiplies the elements.
        ignore_index: pixels with this label give 0.
        k: percent.
        label_smoothing: as `torch.nn.CrossEntropyLoss`.
        strict: see above.
    """

    original = "nnunetv2.training.loss.robust_ce_loss.TopKLoss"

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        k: float = 10,
        label_smoothing: float = 0,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(weight, None, ignore_index, None, "none", label_smoothing, strict=strict)
        self.k = k
        check.number("k", k, 0.0, 100.0)

    @classmethod
    def arguments(cls, loss: Any) -> dict[str, Any]:
        return {name: getattr(loss, name) for name in ("weight", "ignore_index", "k", "label_smoothing")}

    def top(self, x: Tensor, y: Tensor, ignore_index: int | None) -> Linear | None:
        """The top-k term for labels y [N, 1, *S], or None if only `torch.topk` of the elements can do it."""
        if self.label_smoothing != 0 or self.reduction != "none":
            return None
        total = valid = y.numel()
        if self.strict and may_ignore(y, ignore_index):
            if unknown(y) or y.device.type != "cpu":
                return None  # counting would make the host wait
            valid -= int(torch.count_nonzero(equals_ignored(y, ignore_index or 0)))
        return self._cached((total, valid, ignore_index, self._floats("weight")), self._make_top)

    def _make_top(self, key: tuple[int, int, int | None, tuple[float, ...]]) -> Linear | None:
        total, valid, ignore_index, vector = key
        count, weight = self.count(total), 1.0
        if not self.strict:
            share = min(Fraction(str(self.k)) / 100, Fraction(1))
        elif count < 1:
            return None
        else:
            share = Fraction(min(count, valid), max(valid, 1))
            weight = min(count, valid) / count
        return Linear("multiclass", (Term("topk", weight=weight, k=share, vector=vector),), ignore_index)

    def count(self, pixels: int) -> int:
        """How many of so many pixels are the top."""
        return int(pixels * float(self.k) / 100)

    def forward(self, inp: Tensor, target: Tensor) -> Tensor:
        """inp: logits [N, C, *S]; target: labels [N, 1, *S] of any dtype. Returns 0-d."""
        return self._scaled(1.0, inp, target)

    def _scaled(self, scale: float, input: Tensor, target: Tensor) -> Tensor:
        call = self.as_call(input, target)
        if call is not None:
            return call.run(scale)
        y = as_class_indices(target if target.shape[1] == 1 else target[:, :1])
        single = self.reduction != "none"  # set later; nnU-Net takes the top of one number then
        elements = (self._plain(input, y) if single else elementwise(self.linear(), input, y)).flatten()
        count = self.count(elements.numel())
        if not self.strict:
            valid = int(torch.count_nonzero(~equals_ignored(y, self.ignore_index)))
            count = max(1, int(Fraction(str(self.k)) * valid / 100)) if valid else 0
            if count == 0:
                return 0.0 * elements.sum()
        return scale * torch.topk(elements, count, sorted=False).values.mean()

    def as_call(self, input: Tensor, target: Tensor) -> Call | None:
        if target.ndim != input.ndim:
            raise ValueError(f"target must be labels [N, 1, *S] to fit input, got {list(target.shape)}.")
        y = as_class_indices(target if target.shape[1] == 1 else target[:, :1])
        loss = self.top(input, y, self.ignore_index)
        return None if loss is None else Call(loss, input, y)

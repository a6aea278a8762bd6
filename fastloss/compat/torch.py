"""Drop-ins for PyTorch's own losses and torchvision's focal loss: `CrossEntropyLoss`, `BCEWithLogitsLoss` and
`sigmoid_focal_loss` (also as a module, `SigmoidFocalLoss`), with their arguments and numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..spec import REDUCTIONS, Term
from ._base import CompatLoss
from ._linear import Linear, elementwise

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "SigmoidFocalLoss", "sigmoid_focal_loss"]


class CrossEntropyLoss(CompatLoss, nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss`: the same arguments, shapes and numbers.

    Where nothing is valid the mean is NaN, as torch's; 0 with strict=False. The loss of half logits is float32.
    Raises ValueError where torch raises IndexError (class ids out of range) or RuntimeError (shapes).
    """

    original = "torch.nn.modules.loss.CrossEntropyLoss"
    library = "torch"

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        _check_reduction(self.reduction)
        self.strict = strict

    @classmethod
    def arguments(cls, loss: Any) -> dict[str, Any]:
        return {name: getattr(loss, name) for name in ("weight", "ignore_index", "reduction", "label_smoothing")}

    def linear(self, x: Tensor, probabilities: bool = False) -> Linear:
        """The one term, for targets that are class ids or probabilities."""
        vector = () if self.weight is None else numbers(self.weight)
        term = Term("ce", reduction=self.reduction, label_smoothing=self.label_smoothing, vector=vector)
        return Linear("multiclass", (term,), None if probabilities else self.ignore_index)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._scaled(1.0, input, target)

    def _scaled(self, scale: float, input: Tensor, target: Tensor) -> Tensor:
        x, y = input, target
        if x.ndim == 1:
            x, y = x[None], y[None]
        if x.ndim == 2:
            x, y = x[..., None], y[..., None]
        elif x.ndim > 5:
            x, y = x.flatten(4), y.flatten(4 if y.ndim == x.ndim else 3)
        classes = x.shape[1]
        probabilities = y.shape == x.shape
        if classes < 2 or x.numel() == 0:  # one class: nothing to tell apart
            return scale * nn.CrossEntropyLoss.forward(self, input, target)
        if probabilities and self.ignore_index >= 0:
            raise ValueError(f"ignore_index must be negative with probabilities as target, got {self.ignore_index}.")
        if not probabilities and y.ndim == x.ndim:
            raise ValueError(
                f"target must be class ids {[x.shape[0], *x.shape[2:]]} to fit input, got {list(y.shape)}."
            )
        loss = self.linear(x, probabilities).scaled(scale)
        if self.reduction == "none":
            return elementwise(loss, x, y).reshape((*input.shape[:1], *input.shape[2:]) if input.ndim > 1 else ())
        value = loss(x, y)
        if self.strict and self.reduction == "mean" and not probabilities:
            return nan_if_empty(value, x, y, self.ignore_index)
        return value


class BCEWithLogitsLoss(CompatLoss, nn.BCEWithLogitsLoss):
    """`torch.nn.BCEWithLogitsLoss`: the same arguments, shapes and numbers.

    Targets outside [0, 1] raise ValueError. A `pos_weight` that varies along another axis than the channels runs as
    plain PyTorch, with a warning. The loss of half logits is float32.
    """

    original = "torch.nn.modules.loss.BCEWithLogitsLoss"
    library = "torch"

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction, pos_weight)
        _check_reduction(self.reduction)
        self.strict = strict

    @classmethod
    def arguments(cls, loss: Any) -> dict[str, Any]:
        return {name: getattr(loss, name) for name in ("weight", "reduction", "pos_weight")}

    def linear(self, x: Tensor) -> Linear | None:
        """The one term, or None if `pos_weight` is not one number for each channel of x."""
        vector: tuple[float, ...] = ()
        if self.pos_weight is not None:
            own = self.pos_weight.shape
            padded = (1,) * (x.ndim - len(own)) + tuple(own)
            if self.pos_weight.numel() != 1 and padded != (1, x.shape[1], *(1,) * (x.ndim - 2)):
                return None
            vector = numbers(self.pos_weight.flatten())
        return Linear("multilabel", (Term("bce", reduction=self.reduction, vector=vector),))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._scaled(1.0, input, target)

    def _scaled(self, scale: float, input: Tensor, target: Tensor) -> Tensor:
        if input.shape != target.shape:
            raise ValueError(f"target must have the shape {list(input.shape)} of input, got {list(target.shape)}.")
        loss = self.linear(input)
        if loss is None or input.numel() == 0:
            if loss is None:
                self._slow("pos_weight is not one number for each channel")
            return scale * nn.BCEWithLogitsLoss.forward(self, input, target)
        weight = None if self.weight is None else spatial(self.weight.expand(input.shape))
        loss, x, y = loss.scaled(scale), spatial(input), spatial(target)
        if self.reduction == "none":
            return elementwise(loss, x, y, None, weight).reshape(input.shape)
        return loss(x, y, None, weight)


class SigmoidFocalLoss(CompatLoss):
    """`torchvision.ops.sigmoid_focal_loss` as a module, with its arguments: what `fuse` makes of a `functools.partial`
    of it.

    Targets outside [0, 1] raise ValueError; the gradient is finite where torchvision's is NaN (saturated logits with
    gamma below 1). The loss of half logits is float32.
    """

    library = "torchvision"

    def __init__(self, alpha: float = 0.25, gamma: float = 2, reduction: str = "none", *, strict: bool = True) -> None:
        super().__init__(reduction=reduction)
        _check_reduction(reduction)
        self.alpha, self.gamma, self.strict = alpha, gamma, strict

    def linear(self, x: Tensor) -> Linear:
        vector = (float(self.alpha),) if self.alpha >= 0 else ()
        return Linear("multilabel", (Term("focal", reduction=self.reduction, gamma=float(self.gamma), vector=vector),))

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._scaled(1.0, inputs, targets)

    def _scaled(self, scale: float, inputs: Tensor, targets: Tensor) -> Tensor:
        if inputs.shape != targets.shape:
            raise ValueError(f"targets must have the shape {list(inputs.shape)} of inputs, got {list(targets.shape)}.")
        loss, x, y = self.linear(inputs).scaled(scale), spatial(inputs), spatial(targets)
        if self.reduction == "none":
            return elementwise(loss, x, y).reshape(inputs.shape)
        value = loss(x, y)
        return value * torch.nan if self.reduction == "mean" and inputs.numel() == 0 else value


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """`torchvision.ops.sigmoid_focal_loss`, see `SigmoidFocalLoss`."""
    return SigmoidFocalLoss(alpha, gamma, reduction)(inputs, targets)


def spatial(t: Tensor) -> Tensor:
    """A tensor of any rank as [N, C, *S] with 1 to 3 spatial axes."""
    if t.ndim < 3:
        return t.reshape(t.shape[0] if t.ndim else 1, t.shape[1] if t.ndim == 2 else 1, 1)
    return t if t.ndim <= 5 else t.flatten(4)


def numbers(vector: Tensor) -> tuple[float, ...]:
    """The numbers of a tensor of weights."""
    return tuple(vector.tolist())


def nan_if_empty(value: Tensor, x: Tensor, y: Tensor, ignore_index: int) -> Tensor:
    """torch's mean over nothing: NaN if every class id is ignored (then the kernels give 0)."""
    if not y.dtype.is_signed and ignore_index < 0:
        return value
    if not torch.compiler.is_compiling() and x.device.type == "cpu" and value.item() != 0:
        return value
    empty = (y == ignore_index).all()
    return torch.where(empty, torch.full_like(value, torch.nan), value)


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}.")

"""Drop-ins for PyTorch's own losses and torchvision's focal loss: `CrossEntropyLoss`, `BCEWithLogitsLoss` and
`sigmoid_focal_loss` (also as a module, `SigmoidFocalLoss`), with their arguments and numbers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..spec import REDUCTIONS, Term
from ._base import CompatLoss
from ._linear import Call, Linear, elementwise

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "SigmoidFocalLoss", "sigmoid_focal_loss"]


class CrossEntropyLoss(CompatLoss, nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss`: the same arguments, shapes and numbers.

    Where every label is ignored the mean is NaN, as torch's; 0 with strict=False. Where the class weights of the valid
    pixels sum to 0 it is 0, not torch's 0/0. The loss of half logits is float32.
    Raises ValueError where torch raises IndexError (class indices out of range) or RuntimeError (shapes).
    """

    original = "torch.nn.modules.loss.CrossEntropyLoss"
    library = "torch"
    _tensors = ("weight",)
    _channel_axis: ClassVar[bool] = False  # class indices may be [N, 1, *S]

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
        CompatLoss.__init__(self, strict=strict)
        nn.CrossEntropyLoss.__init__(self, weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        _check_reduction(self.reduction)
        self._read()

    @classmethod
    def arguments(cls, loss: Any) -> dict[str, Any]:
        return {name: getattr(loss, name) for name in ("weight", "ignore_index", "reduction", "label_smoothing")}

    def linear(self, probabilities: bool = False) -> Linear:
        """The one term, for targets that are class indices or probabilities."""
        return self._cached((probabilities, self._floats("weight")), self._make)

    def _make(self, key: tuple[bool, tuple[float, ...]]) -> Linear:
        probabilities, vector = key
        smoothing = float(self.label_smoothing)
        term = Term("ce", reduction=self.reduction, label_smoothing=smoothing, vector=vector)
        undefined = self.strict and self.reduction == "mean"
        return Linear("multiclass", (term,), None if probabilities else self.ignore_index, undefined=undefined)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._scaled(1.0, input, target)

    def _scaled(self, scale: float, input: Tensor, target: Tensor) -> Tensor:
        call = self.as_call(input, target)
        if call is None:
            return scale * self._plain(input, target)
        if self.reduction != "none":
            return call.run(scale)
        value = elementwise(call.loss.scaled(scale), call.x, call.y)
        return value.reshape((*input.shape[:1], *input.shape[2:]) if input.ndim > 1 else ())

    def _plain(self, input: Tensor, target: Tensor) -> Tensor:
        return nn.CrossEntropyLoss.forward(self, input, target)

    def as_call(self, input: Tensor, target: Tensor) -> Call | None:
        """None for a single class: nothing to tell apart, and nothing for the kernels to do; and for what requires a
        gradient that torch's own loss gives."""
        x, y = input, target
        if self._learns(y):
            return self._slow("target or weight requires a gradient")
        if x.ndim == 1:
            x, y = x[None], y[None]
        if x.ndim == 2:
            x, y = x[..., None], y[..., None]
        elif x.ndim > 5:
            x, y = x.flatten(4), y.flatten(4 if y.ndim == x.ndim else 3)
        probabilities = y.shape == x.shape
        if x.shape[1] < 2 or x.numel() == 0:
            return None
        if probabilities and self.ignore_index >= 0:
            raise ValueError(f"ignore_index must be negative with probabilities as target, got {self.ignore_index}.")
        if not probabilities and y.ndim == x.ndim and not self._channel_axis:
            raise ValueError(
                f"target must be class ids {[x.shape[0], *x.shape[2:]]} to fit input, got {list(y.shape)}."
            )
        return Call(self.linear(probabilities), x, y)


class BCEWithLogitsLoss(CompatLoss, nn.BCEWithLogitsLoss):
    """`torch.nn.BCEWithLogitsLoss`: the same arguments, shapes and numbers.

    Targets outside [0, 1] raise ValueError. A `pos_weight` that varies along another axis than the channels runs as
    plain PyTorch, with a warning. The loss of half logits is float32.
    """

    original = "torch.nn.modules.loss.BCEWithLogitsLoss"
    library = "torch"
    _tensors = ("pos_weight",)

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
        CompatLoss.__init__(self, strict=strict)
        nn.BCEWithLogitsLoss.__init__(self, weight, size_average, reduce, reduction, pos_weight)
        _check_reduction(self.reduction)
        self._read()

    @classmethod
    def arguments(cls, loss: Any) -> dict[str, Any]:
        return {name: getattr(loss, name) for name in ("weight", "reduction", "pos_weight")}

    def linear(self, x: Tensor) -> Linear | None:
        """The one term, or None if `pos_weight` is not one number for each channel of x."""
        vector = self._floats("pos_weight")
        if self.pos_weight is not None:
            own = self.pos_weight.shape
            padded = (1,) * (x.ndim - len(own)) + tuple(own)
            if self.pos_weight.numel() != 1 and padded != (1, x.shape[1], *(1,) * (x.ndim - 2)):
                return None
        return Linear("multilabel", (Term("bce", reduction=self.reduction, vector=vector),))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._scaled(1.0, input, target)

    def _scaled(self, scale: float, input: Tensor, target: Tensor) -> Tensor:
        call = self.as_call(input, target)
        if call is None:
            return scale * nn.BCEWithLogitsLoss.forward(self, input, target)
        if self.reduction != "none":
            return call.run(scale)
        return elementwise(call.loss.scaled(scale), *call.inputs()).reshape(input.shape)

    def as_call(self, input: Tensor, target: Tensor) -> Call | None:
        if input.shape != target.shape:
            raise ValueError(f"target must have the shape {list(input.shape)} of input, got {list(target.shape)}.")
        if self._learns(target, self.weight):
            return self._slow("target, weight or pos_weight requires a gradient")
        if input.numel() == 0:
            return None
        loss = self.linear(input)
        if loss is None:
            return self._slow("pos_weight is not one number for each channel")
        weight = None if self.weight is None else spatial(self.weight.expand(input.shape))
        return Call(loss, spatial(input), spatial(target), None, weight)


class SigmoidFocalLoss(CompatLoss):
    """`torchvision.ops.sigmoid_focal_loss` as a module, with its arguments: what `fuse` makes of a `functools.partial`
    of it.

    Targets outside [0, 1] raise ValueError; the gradient is finite where torchvision's is NaN (saturated logits with
    gamma below 1). The loss of half logits is float32.
    """

    library = "torchvision"

    def __init__(self, alpha: float = 0.25, gamma: float = 2, reduction: str = "none", *, strict: bool = True) -> None:
        super().__init__(reduction, strict=strict)
        _check_reduction(reduction)
        self.alpha, self.gamma = alpha, gamma

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._scaled(1.0, inputs, targets)

    def _scaled(self, scale: float, inputs: Tensor, targets: Tensor) -> Tensor:
        call = self.as_call(inputs, targets)
        if call is None:
            return scale * _plain_focal(inputs, targets, self.alpha, self.gamma, self.reduction)
        return _focal(scale, call, inputs)

    def as_call(self, inputs: Tensor, targets: Tensor) -> Call | None:
        call = _focal_call(inputs, targets, self.alpha, self.gamma, self.reduction)
        return self._slow("targets requires a gradient") if self._learns(targets) else call


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """`torchvision.ops.sigmoid_focal_loss`, see `SigmoidFocalLoss`."""
    _check_reduction(reduction)
    call = _focal_call(inputs, targets, alpha, gamma, reduction)
    if targets.requires_grad and torch.is_grad_enabled():
        return _plain_focal(inputs, targets, alpha, gamma, reduction)
    return _focal(1.0, call, inputs)


def _focal_call(inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: str) -> Call:
    if inputs.shape != targets.shape:
        raise ValueError(f"targets must have the shape {list(inputs.shape)} of inputs, got {list(targets.shape)}.")
    vector = (float(alpha),) if alpha >= 0 else ()
    term = Term("focal", reduction=reduction, gamma=float(gamma), vector=vector)
    return Call(Linear("multilabel", (term,)), spatial(inputs), spatial(targets))


def _focal(scale: float, call: Call, inputs: Tensor) -> Tensor:
    (term,) = call.loss.terms
    if term.reduction == "none":
        return elementwise(call.loss.scaled(scale), call.x, call.y).reshape(inputs.shape)
    value = call.run(scale)
    return value * torch.nan if term.reduction == "mean" and inputs.numel() == 0 else value


def _plain_focal(x: Tensor, t: Tensor, alpha: float, gamma: float, reduction: str) -> Tensor:
    """The same in plain PyTorch, for targets that require a gradient: 1 - p_t = p + t - 2 p t."""
    p = x.sigmoid()
    loss = F.binary_cross_entropy_with_logits(x, t, reduction="none") * (p + t - 2.0 * p * t) ** gamma
    if alpha >= 0:
        loss = loss * (alpha * t + (1.0 - alpha) * (1.0 - t))
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


def spatial(t: Tensor) -> Tensor:
    """A tensor of any rank as [N, C, *S] with 1 to 3 spatial axes."""
    if t.ndim < 3:
        return t.reshape(t.shape[0] if t.ndim else 1, t.shape[1] if t.ndim == 2 else 1, 1)
    return t if t.ndim <= 5 else t.flatten(4)


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}.")

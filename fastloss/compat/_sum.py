"""Weighted sums of drop-in losses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import _arguments as check
from ..compound import Criterion
from ..deep import altered, scaled
from ..explanation import Explained
from ._base import CompatLoss
from ._linear import Call, Linear


class WeightedSum(Explained, nn.Module):
    """Sum of weight * loss over the same inputs: a wrapper for losses of any library, and what `fastloss.fuse` makes of
    one, or of a list of pairs.

    Losses whose terms belong to one activation, and whose targets the kernels read alike, share one pass over the
    inputs. The others take one each.
    """

    def __init__(self, pairs: Iterable[tuple[float, nn.Module]]) -> None:
        """Make the sum of weight * loss.

        Args:
            pairs: pairs (weight, loss); a weight is a finite number.

        Raises:
            ValueError: no pairs, or a weight that is not finite.
            TypeError: a weight that is no number, or a loss that is no module.
        """
        super().__init__()
        pairs = check.pairs("pairs", pairs, "(weight, loss)")
        for _, loss in pairs:
            if not isinstance(loss, nn.Module):
                raise TypeError(f"a loss of a sum must be a module, got {type(loss).__name__}.")
        self.losses = nn.ModuleList([loss for _, loss in pairs])
        self.weights: Any = [weight for weight, _ in pairs]

    def __setattr__(self, name: str, value: Any) -> None:
        """Weights can be changed at any time, and are checked as those of the constructor."""
        if name == "weights":
            value = check.vector("a weight", value, low=-math.inf)
            if len(value) != len(self.losses):
                raise ValueError(
                    f"weights must hold one number for each of the {len(self.losses)} losses, got {value}."
                )
        super().__setattr__(name, value)

    def forward(self, *inputs: Any) -> Tensor:
        """The sum for the inputs that each loss takes (logits and target)."""
        return self._scaled(1.0, *inputs)

    def _scaled(self, scale: float, *inputs: Any) -> Tensor:
        calls: list[Call] = []
        total: Any = 0.0
        for weight, loss in zip(self.weights, self.losses):
            if weight == 0:  # 0 * NaN is not 0
                continue
            call = call_of(loss, *inputs)
            if call is None:
                total = total + scaled(loss, scale * weight, *inputs)
            else:
                _add(calls, call.scaled(scale * weight))
        for call in calls:
            total = total + call.run(1.0)
        return total

    def passes(self, *inputs: Any) -> int:
        """How many passes over the inputs an eager call takes; a loss that is several by itself counts as one."""
        calls: list[Call] = []
        found = [call_of(loss, *inputs) for loss in self.losses]
        for call in found:
            if call is not None:
                _add(calls, call.scaled(1.0))
        return len(calls) + found.count(None)

    def extra_repr(self) -> str:
        return f"weights={list(self.weights)}"


def call_of(loss: nn.Module, *inputs: Any) -> Call | None:
    """The one call of the kernels that a loss of these inputs is, or None: it has to be computed by itself."""
    if altered(loss):
        return None
    call = None
    if isinstance(loss, Criterion):
        if loss.backend is None and loss.process_group is None and not loss._factors and len(inputs) == 2:
            call = Call(Linear(loss.mode, loss.spec.terms, loss.ignore_index), *inputs)
    elif isinstance(loss, CompatLoss):
        call = loss.as_call(*inputs)
    if call is None or any([term.reduction == "none" for term in call.loss.terms]):
        return None
    if call.loss.mode == "binary" and call.x.shape == call.y.shape:
        call = call._replace(loss=replace(call.loss, mode="multilabel"))
    return call


def _add(calls: list[Call], call: Call) -> None:
    """Joins a call of the same inputs, or comes last."""
    for index, other in enumerate(calls):
        same = [_alike(a, b) for a, b in zip(other.inputs(), call.inputs())]
        both = other.loss.plus(call.loss) if all(same) else None
        if both is not None:
            y = call.y if call.y.ndim < other.y.ndim else other.y
            calls[index] = other._replace(loss=both, y=y)
            return
    calls.append(call)


def _alike(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors hold the same numbers in the same places, but for a channel axis of length 1."""
    if a is None or b is None or a is b or torch.compiler.is_compiling():
        return a is b
    return _view(a) == _view(b)


def _view(t: Tensor) -> tuple:
    axes = [(size, step) for size, step in zip(t.shape, t.stride()) if size != 1]
    return t.dtype, t.requires_grad, t.untyped_storage().data_ptr(), t.storage_offset(), tuple(axes)

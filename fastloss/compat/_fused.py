"""The drop-in losses' way to the kernels: specs made for a number of channels, the call, and the sums for what no term
says. Nothing here checks settings: the originals take any number, and so do the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from ..plan import Plan, plan
from ..spec import Spec, Term
from ._base import TargetError

TINY = 1e-300  # smallest denominator where the original has none
VALID, PY, P, Y, PP, YY, L1, FIRST = range(8)  # columns of the sums; FIRST is the first pointwise term's


def prepared(mode: str, *terms: Term, ignore_index: int | None = None) -> Plan:
    return plan(Spec(mode, terms, ignore_index))


def call(ready: Plan, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None) -> Tensor:
    """The loss. Shapes have been fitted before, so what the kernels still refuse is a target out of range."""
    if torch.compiler.is_compiling():
        return ready.run(x, y, mask, pixel_weight)[0]
    try:
        return ready.run(x, y, mask, pixel_weight)[0]
    except ValueError as error:
        raise TargetError(str(error)) from None


def sums(ready: Plan, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """The sums [N or 1, C, 7 + T], float64, differentiable in x."""
    if torch.compiler.is_compiling():
        return ready.sums(x, y, mask)[0]
    try:
        return ready.sums(x, y, mask)[0]
    except ValueError as error:
        raise TargetError(str(error)) from None


def value_of(loss: Tensor, x: Tensor) -> Tensor:
    """What was made from float64 sums, in the type that fused losses have: float32, float64 for float64 logits."""
    return loss if x.dtype == torch.float64 else loss.float()


def volume(x: Tensor) -> Tensor:
    """x [N, C, *] with one to three spatial axes."""
    if 3 <= x.ndim <= 5:
        return x
    return x.unsqueeze(-1) if x.ndim == 2 else x.flatten(2)


def one_hot(ids: Tensor, channels: int) -> Tensor:
    """bool [N, C, *S] of ids [N, 1, *S]: a byte an element."""
    every = torch.arange(channels, device=ids.device).reshape(1, -1, *[1] * (ids.ndim - 2))
    return ids == every

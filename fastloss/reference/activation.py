"""Activations, stable for every logit: mirrors csrc/math/activation.h."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def sigmoid(x: Tensor) -> Tensor:
    """p = 1 / (1 + exp(-x)), elementwise."""
    return torch.sigmoid(x)


class _Shift(torch.autograd.Function):
    """x - max over dim 1, and 0 where x equals an infinite max (inf - inf would be NaN).

    What follows does not change when a constant is added to all channels, so the max has no part in the gradient.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        top = x.amax(1, keepdim=True)
        return torch.where(x == top, torch.zeros_like(x), x - top)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _EagerShift(_Shift):
    """With forward-mode differentiation, which torch.compile refuses to trace."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.clone()


def softmax(x: Tensor) -> tuple[Tensor, Tensor]:
    """(p, log p) over dim 1."""
    shift = _Shift if torch.compiler.is_compiling() else _EagerShift
    log_p = torch.log_softmax(shift.apply(x), 1)
    return torch.exp(log_p), log_p

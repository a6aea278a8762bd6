"""Activations, stable for every logit: mirrors csrc/math/activation.h."""

from __future__ import annotations

import torch
from torch import Tensor


def sigmoid(x: Tensor) -> Tensor:
    """p = 1 / (1 + exp(-x)), elementwise."""
    return torch.sigmoid(x)


def softmax(x: Tensor) -> tuple[Tensor, Tensor]:
    """(p, log p) over dim 1, with z = x - max taken as 0 where x equals an infinite max (inf - inf would be NaN)."""
    if x.numel() == 0:
        return torch.softmax(x, 1), torch.log_softmax(x, 1)
    top = x.detach().amax(1, keepdim=True)
    level = torch.where(torch.isinf(x.detach()) & (x.detach() == top), x.new_zeros(()), x)
    z = level - torch.where(torch.isinf(top) & (x.detach() == top), top.new_zeros(()), top)
    log_p = torch.log_softmax(z, 1)
    return torch.exp(log_p), log_p

"""The generic path: sums, all-reduced if wanted, then the loss in differentiable PyTorch.

It runs for `process_group=` and for weight tensors that require a gradient; everything else stays in one fused op.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import reference
from .spec import Spec


class _Total(torch.autograd.Function):
    """Sum over the processes. Each process gets the gradient of its own part times their number, so that the mean over
    processes that DDP takes is the gradient on the concatenated batch."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Any) -> Tensor:
        ctx.processes = dist.get_world_size(group)
        total = part.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.processes, None


def total(part: Tensor, group: Any) -> Tensor:
    """The sum of `part` over the processes of `group` (True: the default group)."""
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("process_group needs torch.distributed.init_process_group() first, which was not called.")
    return _Total.apply(part, None if group is True else group)


def finish(
    spec: Spec, x: Tensor, sums: Tensor, aux: Tensor, weights: list[Tensor], group: Any = None
) -> tuple[Tensor, Tensor]:
    """(loss, values [T]) from the sums of this process; the loss is that of all processes of `group`."""
    reduce = None if group is None else partial(total, group=group)
    loss, values = reference.finalise(spec, sums, aux, weights, reduce)
    return loss.to(torch.float64 if x.dtype == torch.float64 else torch.float32), values

"""What makes a training on several processes the one that a single process would do, up to rounding.

Region losses and top-k see the global batch by their process_group. Here the network does: batch norm takes its
statistics over all processes, and what is drawn for each image (stochastic depth) is drawn for the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def shared_batch_norm(net: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with batch norm over all processes: torch's on a GPU, which it needs, else ours."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(net)
    for module in net.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            module.__class__ = _SharedBatchNorm  # the same state, another forward
    return net


class _SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """For gloo. Every process must bring as many elements."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(input.dim())]
        n = input.numel() // input.shape[1] * dist.get_world_size()
        x = input.double()
        mean = _Sum.apply(x.sum(axes)) / n
        x = x - mean.reshape(shape)
        variance = _Sum.apply((x * x).sum(axes)) / n
        self.num_batches_tracked.add_(1)
        for mine, found in ((self.running_mean, mean), (self.running_var, variance * (n / max(n - 1, 1)))):
            mine.lerp_(found.detach().to(mine.dtype), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (x * scale.reshape(shape) + self.bias.reshape(shape)).to(input.dtype)


class _Sum(torch.autograd.Function):
    """Over all processes, forward and backward: what one process computes, the losses of all depend on."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


class SharedDraws(TorchFunctionMode):
    """Random numbers of the whole batch, of which this process keeps those of its images: place r, r + W, …

    For processes that draw from the same seed; the functions are those by which smp's and timm's networks drop paths.
    """

    def __init__(self, rank: int, world: int, images: int) -> None:
        super().__init__()
        self.rank, self.world, self.images = rank, world, images

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.rand and isinstance(args[0], list | tuple) and args[0][0] == self.images:
            return func([self.images * self.world, *args[0][1:]], *args[1:], **kwargs)[self.rank :: self.world]
        if func is Tensor.bernoulli_ and args[0].dim() and len(args[0]) == self.images:
            whole = args[0].new_empty((self.images * self.world, *args[0].shape[1:]))
            return args[0].copy_(func(whole, *args[1:], **kwargs)[self.rank :: self.world])
        return func(*args, **kwargs)

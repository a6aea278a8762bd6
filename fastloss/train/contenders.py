"""The same loss by fastloss and by other libraries inside a training."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastloss import DeepSupervisionLoss
from fastloss.compound import Criterion
from fastloss.measure import memory
from fastloss.measure.cases import Case
from fastloss.measure.contenders import OURS, Contender, make_peer
from fastloss.measure.peers import NotOffered

Loss = Callable[[Tensor, Tensor], Tensor]


def contenders(criterion: Criterion, shape: tuple[int, ...], peers: list[str]) -> tuple[list[Contender], list[str]]:
    """Return them, fastloss first; and in words which peers have no such loss. "compiled" adds torch.compile of each
    peer, or of plain torch if no library is named."""
    case = Case(repr(criterion), "training", shape, criterion.mode, criterion.spec.terms)
    found, missing = [Contender(OURS, "ours", criterion)], []
    libraries = [name for name in peers if name != "compiled"]
    compilers = [""] * bool(libraries) + ["inductor"] * ("compiled" in peers)
    for library in libraries or ["torch"]:
        try:
            found += [make_peer(case, library, compiler) for compiler in compilers]
        except NotOffered as error:
            missing.append(f"{library}: {error}")
    return found, missing


def deep(found: list[Contender], weights: tuple[float, ...]) -> list[Contender]:
    """Return the contenders for a network with several outputs, stacked in axis 1, all of full size (MONAI's DynUNet):
    fastloss's DeepSupervisionLoss, and for the others what MONAI's does, the weighted sum of a call for each."""

    def summed(loss: Loss) -> Loss:
        def call(x: Tensor, y: Tensor) -> Tensor:
            values = [weight * loss(level, y) for weight, level in zip(weights, x.unbind(1))]
            return sum(values[1:], values[0])

        return call

    def unbound(pyramid: DeepSupervisionLoss) -> Loss:
        return lambda x, y: pyramid(list(x.unbind(1)), y)

    return [
        replace(c, loss=unbound(DeepSupervisionLoss(c.loss, weights)) if c.key == OURS else summed(c.loss))
        for c in found
    ]


def split(loss: Loss, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return (value, gradient): forward, and backward no further than the logits."""
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, target)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def time_call(device: torch.device, work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and its seconds: between two CUDA events, launch gaps included, or of the clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        result = work()
        return result, time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    result = work()
    end.record()
    end.synchronize()
    return result, start.elapsed_time(end) / 1e3


def measure_memory(each: Contender, logits: Tensor, y: Tensor) -> dict[str, int]:
    """Count bytes beyond logits and target: the most during forward and backward, and what lives between them."""
    found = memory.measure(each.on(y), logits.detach().clone().requires_grad_())
    return {"loss_peak_bytes": found.peak, "kept_bytes": found.kept}

"""Bytes a loss keeps for backward, and the most it holds at once, beyond its inputs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .cases import Case
from .contenders import Contender


@dataclass
class Memory:
    """Bytes beyond logits and target: what lives between forward and backward, and the most at once."""

    kept: int
    peak: int


def allocations(work: Callable[[], object]) -> tuple[object, list[int]]:
    """Run `work` and list what torch's CPU allocator did, in order: positive bytes allocated, negative freed."""
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    return result, [e.nbytes() for e in events]


def live_and_peak(changes: list[int]) -> tuple[int, int]:
    live = peak = 0
    for change in changes:
        live += change
        peak = max(peak, live)
    return live, peak


def measure(contender: Contender, x: Any) -> Memory:
    """Count a forward (loss alive: what training keeps), then a forward and backward, after a warm call.

    The allocator sees everything: what a node keeps outside `save_for_backward` (a gradient from forward) counts too.
    """
    contender.step(x)
    if (x[0] if isinstance(x, list) else x).is_cuda:
        return _measure_cuda(contender, x)
    loss, forward = allocations(lambda: contender.loss(x, contender.y))
    del loss
    _, both = allocations(lambda: contender.step(x))
    return Memory(live_and_peak(forward)[0], live_and_peak(both)[1])


def _measure_cuda(contender: Contender, x: Any) -> Memory:
    """Count the same by the counters of torch's CUDA allocator."""
    tiny = torch.zeros((), device="cuda", requires_grad=True)
    torch.autograd.grad(tiny * 2, tiny)  # autograd's thread lets go of the last results when it works again
    torch.cuda.synchronize()
    base = torch.cuda.memory_allocated()
    loss = contender.loss(x, contender.y)
    kept = torch.cuda.memory_allocated() - base
    del loss
    torch.cuda.reset_peak_memory_stats()
    result = contender.step(x)
    peak = torch.cuda.max_memory_allocated() - base
    del result
    return Memory(kept, peak)


def no_grad_peak(contender: Contender, x: Tensor) -> int:
    """Return the most a forward without gradient holds at once."""

    def forward() -> Tensor:
        with torch.no_grad():
            return contender.loss(x, contender.y)

    forward()
    return live_and_peak(allocations(forward)[1])[1]


def in_logits(case: Case, contender: Contender, x: Any) -> dict[str, float]:
    """Measure in multiples of the logits' bytes."""
    return {name: count / case.logits_bytes for name, count in vars(measure(contender, x)).items()}

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
    """Bytes beyond logits and target. `kept`: every live allocation; `saved`: only what autograd's hooks can see."""

    kept: int
    saved: int
    peak_forward: int
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


def tensors(*values: Any) -> list[Tensor]:
    """The tensors of nested lists and tuples."""
    return [t for v in values for t in (tensors(*v) if isinstance(v, list | tuple) else [v]) if t is not None]


def measure(contender: Contender, x: Any) -> Memory:
    """One warm call, then a counted forward (loss alive: what training keeps), then a counted forward and backward.

    The allocator sees everything: what a node keeps outside `save_for_backward` (a gradient from forward) counts too.
    """
    if tensors(x)[0].is_cuda:
        return _measure_cuda(contender, x)
    inputs = {t.untyped_storage().data_ptr() for t in tensors(x, contender.y)}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in inputs:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    contender.step(x)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = contender.loss(x, contender.y)
    del loss
    loss, forward = allocations(lambda: contender.loss(x, contender.y))
    kept, peak_forward = live_and_peak(forward)
    del loss
    _, both = allocations(lambda: contender.step(x))
    return Memory(kept, sum(saved.values()), peak_forward, live_and_peak(both)[1])


def _measure_cuda(contender: Contender, x: Any) -> Memory:
    """The same by the counters of torch's CUDA allocator, which do not tell what is saved (0)."""
    contender.step(x)
    tiny = torch.zeros((), device="cuda", requires_grad=True)
    torch.autograd.grad(tiny * 2, tiny)  # autograd's thread lets go of the last results when it works again
    torch.cuda.synchronize()
    base = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loss = contender.loss(x, contender.y)
    kept, peak_forward = torch.cuda.memory_allocated() - base, torch.cuda.max_memory_allocated() - base
    del loss
    torch.cuda.reset_peak_memory_stats()
    result = contender.step(x)
    peak = torch.cuda.max_memory_allocated() - base
    del result
    return Memory(kept, 0, peak_forward, peak)


def no_grad_peak(contender: Contender, x: Tensor) -> int:
    """The most a forward without gradient holds at once."""

    def forward() -> Tensor:
        with torch.no_grad():
            return contender.loss(x, contender.y)

    forward()
    return live_and_peak(allocations(forward)[1])[1]


def in_logits(case: Case, count: int) -> float:
    """Bytes as a multiple of the logits' bytes."""
    return count / case.logits_bytes

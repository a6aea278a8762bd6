"""Bytes a loss keeps for backward, and the most it holds at once, beyond its inputs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .cases import Case
from .providers import Contender


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


def measure(contender: Contender, x: Tensor) -> Memory:
    """One warm call, then a counted forward (loss alive: what training keeps), then a counted forward and backward.

    The allocator sees everything: what a node keeps outside `save_for_backward` (a gradient from forward) counts too.
    """
    inputs = {t.untyped_storage().data_ptr() for t in (x, contender.y)}
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

"""Interleaved timing: every contender once per round in shuffled order, fastloss and memcpy several times within each.

Ratios are taken within a round and their median over rounds is reported: a shared machine that slows down for a second
slows both sides. memcpy is the control: where it wavers, the row is not to be trusted and is marked noisy.
"""

from __future__ import annotations

import ctypes
import random
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

CLOCKS = {"cpu": time.thread_time, "wall": time.perf_counter}
NOISE = 0.15  # interquartile range over median, of memcpy or of fastloss itself
SAMPLE_SECONDS = 0.008
STRIDE = 3  # peers between two samples of fastloss and memcpy


@dataclass
class Timing:
    """Seconds per call by round."""

    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Interquartile range over median."""
        if len(self.rounds) < 4:
            return (max(self.rounds) - min(self.rounds)) / self.median
        low, _, high = statistics.quantiles(self.rounds, n=4)
        return (high - low) / self.median

    @property
    def summary(self) -> dict[str, float]:
        return {"seconds": self.median, "spread": self.spread, "rounds": len(self.rounds)}


@dataclass
class Ratio:
    """Peer over fastloss, paired by round: median and quartiles."""

    median: float
    low: float
    high: float


def ratio(peer: Timing, mine: Timing) -> Ratio:
    pairs = sorted(a / b for a, b in zip(peer.rounds, mine.rounds))
    if len(pairs) < 4:
        return Ratio(statistics.median(pairs), pairs[0], pairs[-1])
    low, middle, high = statistics.quantiles(pairs, n=4)
    return Ratio(middle, low, high)


class Memcpy:
    """Copies half of `least` bytes, so that reading and writing together move exactly `least`: the floor of a case."""

    def __init__(self, least: int, threads: int) -> None:
        half = max(1, least // 2)
        self.source, self.target = torch.ones(half, dtype=torch.uint8), torch.zeros(half, dtype=torch.uint8)
        addresses = self.target.data_ptr(), self.source.data_ptr(), half
        options = {"Tensor.copy_": lambda: self.target.copy_(self.source)}
        if threads == 1:  # libc's copy runs on one thread only
            options["memcpy"] = lambda: ctypes.memmove(*addresses)
        self.how = min(options, key=lambda name: _best_of(options[name]))
        self.call = options[self.how]


def _best_of(work: Callable[[], object], times: int = 5) -> float:
    work()
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


class Sampler:
    """One contender's calls: as many per sample as fill SAMPLE_SECONDS, short ones after a warming call."""

    def __init__(self, work: Callable[[], object], clock: str) -> None:
        self.work, self.clock = work, CLOCKS[clock]
        self.cost = _best_of(work, 1)
        self.calls = max(1, round(SAMPLE_SECONDS / max(self.cost, 1e-7)))
        self.warm = self.cost < 0.02
        self.faults = 0

    def sample(self) -> float:
        if self.warm:
            self.work()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = self.clock()
        for _ in range(self.calls):
            self.work()
        seconds = (self.clock() - start) / self.calls
        self.faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // self.calls
        return seconds

    @property
    def sample_cost(self) -> float:
        return self.cost * (self.calls + self.warm)


def interleave(
    works: dict[str, Callable[[], object]],
    often: tuple[str, ...],
    *,
    clock: str,
    rounds: int,
    seconds: float,
    seed: int = 0,
) -> tuple[dict[str, Timing], dict[str, int]]:
    """Time every work in `rounds` rounds (fewer, at least 5, when they would take longer than `seconds`).

    `often` names the works sampled before every STRIDE others; their value for a round is the median of those samples.
    Returns timings by name, and the page faults per call in each one's last sample.
    """
    samplers = {name: Sampler(work, clock) for name, work in works.items()}
    rare = [n for n in works if n not in often]
    slots = max(1, -(-len(rare) // STRIDE))
    cost = sum(s.sample_cost * (slots if n in often else 1) for n, s in samplers.items())
    rounds = max(min(5, rounds), min(rounds, int(seconds / max(cost, 1e-9))))
    timings = {name: Timing() for name in works}
    rng = random.Random(seed)
    for _ in range(rounds):
        rng.shuffle(rare)
        seen: dict[str, list[float]] = {name: [] for name in often}
        for slot in range(slots):
            for name in often:
                seen[name].append(samplers[name].sample())
            for name in rare[slot * STRIDE : (slot + 1) * STRIDE]:
                timings[name].rounds.append(samplers[name].sample())
        for name in often:
            timings[name].rounds.append(statistics.median(seen[name]))
    return timings, {name: s.faults for name, s in samplers.items()}

"""A regime is allocator × threads × clock, in a process of its own: the allocator reads its environment at start."""

from __future__ import annotations

import os
from dataclasses import dataclass

from fastloss.measure.cases import Case

from .process import Worker

# glibc: serve big blocks from the heap and never give it back, so that a warm call meets no page fault.
NO_FAULTS = {"MALLOC_MMAP_THRESHOLD_": str(1 << 40), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


@dataclass(frozen=True)
class Regime:
    """`threads` 0 means every core. `clock` cpu: thread_time of the one thread that works; wall: perf_counter."""

    name: str
    allocator: str
    threads: int
    clock: str
    words: str
    groups: tuple[str, ...] = ()

    @property
    def thread_count(self) -> int:
        return self.threads or os.cpu_count() or 1

    @property
    def env(self) -> dict[str, str]:
        return NO_FAULTS if self.allocator == "no-faults" else {}

    @property
    def about(self) -> dict:
        """What a record says of it."""
        found = {"words": self.words, "threads": self.thread_count, "clock": self.clock, "allocator": self.allocator}
        return found | {"env": self.env}

    def worker(self) -> Worker:
        return Worker(self.name, self.thread_count, self.env)


@dataclass
class Job:
    """What is measured in one regime: `seconds` and `rounds` at most for a case; `weigh`: memory too."""

    regime: str
    cases: list[Case]
    peers: list[str]
    compiled: bool
    backend: str
    rounds: int
    seconds: float
    weigh: bool


SOME = ("2d-fp32", "softmax", "multilabel")
REGIMES = {
    r.name: r
    for r in (
        Regime(
            "nofault-1t", "no-faults", 1, "cpu", "1 thread, CPU time, page faults out of the way: targets are read here"
        ),
        Regime("default-1t", "default", 1, "cpu", "1 thread, CPU time, default allocator", SOME),
        Regime("nofault-mt", "no-faults", 0, "wall", "all cores, wall time, page faults out of the way", SOME),
        Regime("default-mt", "default", 0, "wall", "all cores, wall time, default allocator", SOME),
    )
}
JUDGED = "nofault-1t"  # the targets are read here
FULL = (JUDGED, "default-1t", "default-mt")

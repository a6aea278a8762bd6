"""A regime is allocator × threads × clock, in a process of its own: the allocator reads its environment at start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

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


INFORMATION = ("2d-fp32", "softmax", "multilabel")
REGIMES = {
    r.name: r
    for r in (
        Regime(
            "nofault-1t",
            "no-faults",
            1,
            "cpu",
            "1 thread, CPU time, page faults out of the way: the bars are read here",
        ),
        Regime("default-1t", "default", 1, "cpu", "1 thread, CPU time, default allocator", INFORMATION),
        Regime("nofault-mt", "no-faults", 0, "wall", "all cores, wall time, page faults out of the way", INFORMATION),
        Regime("default-mt", "default", 0, "wall", "all cores, wall time, default allocator", INFORMATION),
    )
}
BARS = "nofault-1t"
FULL = (BARS, "default-1t", "default-mt")


@dataclass
class Job:
    """What one child does: `measure` the cases, or `compile` them so that the cache is warm."""

    action: str
    cases: list[str]
    peers: list[str]
    regime: str
    compiled: bool = True
    backend: str = "auto"
    rounds: int = 11
    seconds: float = 15.0
    memory: bool = True
    device: str = "cpu"
    extra: dict = field(default_factory=dict)


class ChildFailed(RuntimeError):
    """A bench process ended before its job was done; the message carries the end of its stderr."""


class Child:
    """A worker process; iterating yields its events (dicts) until it ends."""

    def __init__(self, job: Job) -> None:
        regime = REGIMES[job.regime]
        threads = str(regime.thread_count)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        env = (
            clean
            | regime.env
            | {
                "OMP_NUM_THREADS": threads,
                "MKL_NUM_THREADS": threads,
                "PYTHONWARNINGS": "ignore",
                "KINETO_LOG_LEVEL": "99",
            }
        )
        self.log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (lives as long as the process)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fastloss.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=env,
            text=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(job)))
        self.process.stdin.close()

    def __iter__(self) -> Iterator[dict]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)
        if self.process.wait() != 0:
            self.log.seek(0)
            tail = [line for line in self.log.read().strip().splitlines() if line.strip()][-1:] or ["no message"]
            raise ChildFailed(f"the bench process ended with status {self.process.returncode}: {tail[0].strip()[:300]}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        self.log.close()


def run(job: Job) -> Iterator[dict]:
    """Events of one child; the child is stopped when the caller stops listening."""
    child = Child(job)
    try:
        yield from child
    finally:
        child.stop()

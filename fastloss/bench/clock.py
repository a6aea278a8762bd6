"""Time and launches of one call: on a GPU by CUDA events, in a dry run by the CPU's clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import cache

import torch

from fastloss.measure.timing import Timing

Work = Callable[[], object]
LEAST, MOST = 10, 60  # rounds
SLEEP_CLOCK = 2.0e9  # cycles per second that torch.cuda._sleep counts, or a little more


def host_seconds(work: Work, calls: int, wait: Callable[[], None]) -> float:
    """Return the host time of one call, the median of five batches; the device is never waited for within one."""
    batches = []
    for _ in range(5):
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            work()
        batches.append((time.perf_counter() - start) / calls)
    wait()
    return statistics.median(batches)


class Cuda:
    """Events around each call, behind a sleep that lets the host run ahead and a write that empties the L2 cache."""

    device, dry = "cuda", False

    def __init__(self) -> None:
        l2 = torch.cuda.get_device_properties(0).L2_cache_size
        self.flush = torch.empty(max(4 * l2, 1 << 28), dtype=torch.uint8, device="cuda")

    wait = staticmethod(torch.cuda.synchronize)

    def _lead(self, work: Work) -> int:
        """Return cycles of sleep that hide the host's part of a call."""
        for _ in range(2):
            work()
        self.wait()
        start = time.perf_counter()
        work()
        host = time.perf_counter() - start
        return int(min(1.5 * host + 20e-6, 0.01) * SLEEP_CLOCK)

    def rounds(self, works: dict[str, Work], seconds: float, most: int = MOST) -> dict[str, dict[str, float]]:
        """Run every work once per round; return the summary of each one's seconds per call."""
        leads = {name: self._lead(work) for name, work in works.items()}
        taken: dict[str, list[float]] = {name: [] for name in works}
        began = time.perf_counter()
        for n in range(most):
            if n >= LEAST and time.perf_counter() - began > seconds:
                break
            events = {}
            for name, work in works.items():
                pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
                torch.cuda._sleep(leads[name])
                self.flush.zero_()
                pair[0].record()
                work()
                pair[1].record()
                events[name] = pair
            self.wait()
            for name, (start, end) in events.items():
                taken[name].append(start.elapsed_time(end) / 1e3)
        return {name: Timing(values).summary for name, values in taken.items()}

    def graph(self, works: list[Work], seconds: float) -> dict[str, float]:
        """Capture calls over more inputs than the L2 cache holds in a CUDA graph: device and host seconds per call."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for work in works:
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            kept = [work() for work in works]
        found = self.rounds({"graph": graph.replay}, seconds, 30)["graph"]
        found["seconds"] /= len(works)
        found["host_seconds"] = host_seconds(graph.replay, 20, self.wait) / len(works)
        found["calls"] = len(works)
        del kept
        return found

    def launches(self, work: Work) -> list[dict]:
        """List kernels, copies and fills of one call, in order of time: name, microseconds."""
        work()
        self.wait()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            work()
            self.wait()
        events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        return [{"name": e.name[:120], "us": e.time_range.elapsed_us()} for e in events]

    def free(self) -> None:
        torch.cuda.empty_cache()


class Dry:
    """The same calls on a CPU, so that a dry run goes through the same code; its numbers mean nothing."""

    device, dry = "cpu", True

    @staticmethod
    def wait() -> None:
        pass

    def rounds(self, works: dict[str, Work], seconds: float, most: int = MOST) -> dict[str, dict[str, float]]:
        taken: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(3):
            for name, work in works.items():
                start = time.perf_counter()
                work()
                taken[name].append(time.perf_counter() - start)
        return {name: Timing(values).summary for name, values in taken.items()}

    def graph(self, works: list[Work], seconds: float) -> dict[str, float]:
        found = self.rounds({"graph": lambda: [work() for work in works]}, seconds)["graph"]
        found["seconds"] /= len(works)
        return found | {"host_seconds": found["seconds"], "calls": len(works)}

    def launches(self, work: Work) -> list[dict]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            work()
        return [{"name": e.name[:120], "us": e.time_range.elapsed_us()} for e in profile.events()][:20]

    def free(self) -> None:
        pass


@cache
def choose(dry: bool) -> Cuda | Dry:
    """Return the clock of this process."""
    return Dry() if dry else Cuda()

"""One run: start the lanes, let all of them compile at once, then time one call at a time with the GPU to itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import torch

from fastloss import backends

from .. import record
from . import ways
from .cases import Problem
from .lanes import Deadline, Lane, together

SCHEMA = "gpu-1"
LEAST_SECONDS = 6.0  # not worth starting another problem with less


def machine() -> dict:
    """The GPU, its driver and compilers; none of it when there is no GPU."""
    if not torch.cuda.is_available():
        return {}
    p = torch.cuda.get_device_properties(0)
    words = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,temperature.gpu", "--format=csv,noheader"]
    return {
        "name": p.name,
        "count": torch.cuda.device_count(),
        "capability": f"{p.major}.{p.minor}",
        "multiprocessors": p.multi_processor_count,
        "memory_gib": round(p.total_memory / 2**30, 1),
        "l2_mib": p.L2_cache_size / 2**20,
        "driver_clocks": _said(words),
        "nvcc": _said(["nvcc", "--version"]).splitlines()[-1:],
        "cuda": torch.version.cuda,
    }


def _said(words: list[str]) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def new(dry: bool, libraries: list[str], absent: list[str], settings: dict) -> dict:
    """An empty record."""
    found = record.new([], settings)
    del found["regimes"]
    if found["commit"] == "unknown":  # a copy of the tree without its history
        found["commit"] = os.environ.get("FASTLOSS_COMMIT", "unknown")
    packages = [ways.PACKAGES[name] for name in libraries if name != "torch"]
    versions = found["versions"] | {name: _version(name) for name in packages}
    if torch.version.cuda:
        versions["triton"] = _version("triton")
    return found | {
        "schema": SCHEMA,
        "dry": dry,
        "gpu": machine(),
        "versions": versions,
        "absent_peers": absent,
        "left_out": [],
        "bandwidth": {},
        "rows": [],
    }


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def unavailable(key: str, dry: bool) -> str | None:
    """Why one of our ways cannot run here, or None."""
    if dry and key not in ways.DRY_OURS:
        return "left out of a dry run"
    return backends.available()[ways.backend_of(key, dry)]


class Run:
    """Measures problems into a record until they or the time run out.

    A problem's lane has all that it takes but the forced paths, which are the environment's; several problems share a
    lane where the cores are too few for one each.
    """

    def __init__(
        self, data: dict, problems: list[Problem], libraries: list[str] | None, dry: bool, say: Callable[[str], None]
    ):
        self.data, self.problems, self.libraries, self.dry, self.say = data, problems, libraries, dry, say
        self.forced = {key: Lane(key, key, dry) for key in ways.FORCED if unavailable(key, dry) is None}
        count = 1 if dry else max(1, min(len(problems), os.cpu_count() or 1))
        self.lanes = [Lane(f"lane {i}", "cuda", dry) for i in range(count)]
        self.lane_of = {p.name: self.lanes[i % count] for i, p in enumerate(problems)}
        self.failed: dict[tuple[str, str], dict] = {}

    def _asks(self, problem: Problem) -> list[tuple[str, Lane]]:
        lane = self.lane_of[problem.name]
        own = [key for key in ("cuda", "triton") if unavailable(key, self.dry) is None]
        found = [(key, lane) for key in own + ways.wanted(problem, self.libraries)]
        forced = [f"cuda {path}" for path in problem.forced]
        return found + [(key, self.forced[key]) for key in forced if key in self.forced]

    def prepare(self, seconds: float) -> None:
        """Everything that compiles does so now, in all lanes at once. Nothing new is begun after `seconds`."""
        deadline = Deadline(seconds)
        todo: dict[str, list[tuple[Problem, str]]] = {}
        for problem in self.problems:
            for key, lane in self._asks(problem):
                if key == "triton" or key.endswith(" compiled") or key in ways.TRITON_KERNELS:
                    todo.setdefault(lane.name, []).append((problem, key))

        def work(lane: Lane) -> None:
            for problem, key in todo.get(lane.name, []):
                answer = {"refused": f"not compiled within {seconds:.0f} s"}
                if deadline.left > 0:  # an answer that is stopped would take with it what its lane has compiled
                    answer = lane.ask({"do": "prepare", "problem": problem.name, "who": key}, deadline.left + 45)
                if "first_seconds" not in answer:
                    self.failed[problem.name, key] = answer

        together(self.lanes, work)
        missing = sum("missing" in answer for answer in self.failed.values())
        ready = sum(map(len, todo.values())) - len(self.failed)
        self.say(f"prepared: {ready} ways; {missing} that their library lacks, {len(self.failed) - missing} failed")

    def bandwidth(self) -> None:
        """A large copy: the rate that the page tells."""
        answer = self.lanes[0].ask({"do": "bandwidth", "bytes": [1 << (12 if self.dry else 32)]}, 60)
        self.data["bandwidth"] = answer if "refused" not in answer else {}

    def measure(self, seconds: float, each: float = 0.25) -> None:
        """Rows in the order of the problems; those that no time is left for are named in `left_out`."""
        deadline = Deadline(seconds)
        for problem in self.problems:
            if deadline.left < LEAST_SECONDS:
                self.data["left_out"].append(f"{problem.name}: no time left")
                continue
            self.data["rows"].append(self._row(problem, deadline, each))

    def _row(self, problem: Problem, deadline: Deadline, each: float) -> dict:
        case = problem.case
        row = {
            "problem": problem.name,
            "title": case.title,
            "size": problem.size,
            "shape": case.size,
            "levels": problem.levels,
            "mode": case.mode,
            "dtype": case.dtype,
            "target": case.target,
            "pixels": case.pixels,
            "least_bytes": problem.least_bytes,
            "one_gradient": problem.one_gradient,
            "split_bytes": problem.path_bytes("split"),
            "ignored": case.ignored,
            "contenders": {},
        }
        asks = self._asks(problem)
        for i, (key, lane) in enumerate(asks):
            answer = self.failed.get((problem.name, key))
            if answer is None and deadline.left < 1:
                answer = {"refused": "no time left"}
            if answer is None:
                last = i + 1 == len(asks) or asks[i + 1][1] is not lane
                request = {"do": "measure", "problem": problem.name, "who": key, "seconds": each, "last": last}
                answer = lane.ask(request, min(deadline.left, 45))
            row["contenders"][key] = answer
        self.say(_line(row))
        return row

    def profile(self, seconds: float) -> None:
        """Launches of one call of each of our ways, after all timing: the profiler slows calls."""
        deadline = Deadline(seconds)
        for row in self.data["rows"]:
            problem = next(p for p in self.problems if p.name == row["problem"])
            for key, lane in self._asks(problem):
                entry = row["contenders"][key]
                if deadline.left < 2 or "seconds" not in entry or key not in ways.OURS:
                    continue
                answer = lane.ask({"do": "profile", "problem": problem.name, "who": key}, min(deadline.left, 20))
                if "launches" in answer:
                    entry["profile"] = answer

    def stop(self) -> None:
        for lane in [*self.forced.values(), *self.lanes]:
            lane.stop()


def _line(row: dict) -> str:
    def text(entry: dict) -> str:
        if "seconds" in entry:
            return f"{1e6 * entry['seconds']:.1f} us"
        return "missing" if "missing" in entry else "refused: " + entry.get("refused", "?")[:60]

    return f"{row['problem']}: " + ", ".join(f"{key} {text(entry)}" for key, entry in row["contenders"].items())

"""The bench of a GPU: every path of the CUDA backend, Triton and the peers, against the copy bandwidth.

Start the workers, let all of them compile at once, then time one call at a time with the GPU to itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fastloss import backends
from fastloss.measure.cases import Case
from fastloss.measure.peers import PEERS, installed

from . import record, render, targets
from .cases_gpu import TRITON_KERNELS, forced, wanted
from .process import Deadline, Worker, together
from .worker_gpu import FORCED, OURS, backend_of, path_of

LEAST_SECONDS = 6.0  # not worth starting another case with less
DRY_OURS = ("cuda", "cuda split", "triton")


def dry() -> bool:
    return os.environ.get("FASTLOSS_DRY", "0") not in ("", "0")


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def unavailable(key: str, dry: bool) -> str | None:
    """Say why one of our contenders cannot run here, or None."""
    if dry and key not in DRY_OURS:
        return "left out of a dry run"
    return backends.available()[backend_of(key, dry)]


def worker(name: str, key: str = "cuda") -> Worker:
    """Make the process of contenders that need one environment. It compiles alone: the workers are many already."""
    return Worker(name, env={"TORCHINDUCTOR_COMPILE_THREADS": "1", "FASTLOSS_CUDA_PATH": path_of(key)})


def run(out: Path, seconds: float, cases: list[Case], libraries: list[str] | None, name: str, copy: Path | None) -> int:
    """Measure into OUT/name.json (and a copy) and OUT/name.md, written after every row; 1 if nothing was timed."""
    began = time.monotonic()
    there, absent = installed(list(PEERS) if libraries is None else libraries)
    settings = {"seconds": seconds, "peers": libraries or "the best"}
    more = {"dry": dry(), "gpu": record.gpu(), "absent_peers": absent, "left_out": [], "bandwidth": {}}
    data = record.new("gpu", there + ["triton"] * bool(torch.version.cuda), settings, **more)
    target = out / f"{name}{'-dry' * dry()}.json"

    def note(line: str) -> None:
        say(line)
        record.save(data, target, copy)
        render.write(target)

    bench = Bench(data, cases, libraries and there, note)
    try:
        bench.prepare(60.0 if dry() else max(10.0, 0.3 * seconds))
        bench.bandwidth()
        bench.measure(0.9 * seconds - (time.monotonic() - began))
        bench.profile(max(3.0, 0.97 * seconds - (time.monotonic() - began)))
    finally:
        bench.stop()
        note(f"{len(data['rows'])} cases in {time.monotonic() - began:.0f} s; {target}")
    print("\n".join(targets.lines(data)))
    return int(not any("seconds" in e for row in data["rows"] for e in row["contenders"].values()))


class Bench:
    """Measures cases into a record until they or the time run out.

    A case's worker has all that it takes but the forced paths, which are the environment's; several cases share a
    worker where the cores are too few for one each.
    """

    def __init__(self, data: dict, cases: list[Case], libraries: list[str] | None, say: Callable[[str], None]) -> None:
        self.data, self.cases, self.libraries, self.dry, self.say = data, cases, libraries, data["dry"], say
        self.forced = {key: worker(key, key) for key in FORCED if unavailable(key, self.dry) is None}
        count = 1 if self.dry else max(1, min(len(cases), os.cpu_count() or 1))
        self.workers = [worker(f"worker {i}") for i in range(count)]
        self.worker_of = {case.name: self.workers[i % count] for i, case in enumerate(cases)}
        self.failed: dict[tuple[str, str], dict] = {}

    def _asks(self, case: Case) -> list[tuple[str, Worker]]:
        mine = [key for key in ("cuda", "triton") if unavailable(key, self.dry) is None]
        found = [(key, self.worker_of[case.name]) for key in mine + wanted(case, self.libraries)]
        paths = [f"cuda {path}" for path in forced(case)]
        return found + [(key, self.forced[key]) for key in paths if key in self.forced]

    def _ask(self, what: str, worker: Worker, case: Case, key: str, within: float, **more: object) -> dict:
        request = {"do": f"worker_gpu.{what}", "case": case.name, "key": key, "dry": self.dry, **more}
        return worker.ask(request, within)

    def prepare(self, seconds: float) -> None:
        """Let everything that compiles do so, in all workers at once. Nothing new is begun after `seconds`."""
        deadline = Deadline(seconds)
        todo: dict[str, list[tuple[Case, str]]] = {}
        for case in self.cases:
            for key, worker in self._asks(case):
                if key == "triton" or key.endswith(" compiled") or key in TRITON_KERNELS:
                    todo.setdefault(worker.name, []).append((case, key))

        def work(worker: Worker) -> None:
            for case, key in todo.get(worker.name, []):
                answer = {"refused": f"not compiled within {seconds:.0f} s"}
                if deadline.left > 0:  # an answer that is stopped would take with it what its worker has compiled
                    answer = self._ask("prepare", worker, case, key, deadline.left + 45)
                if "first_seconds" not in answer:
                    self.failed[case.name, key] = answer

        together(self.workers, work)
        missing = sum("missing" in answer for answer in self.failed.values())
        ready = sum(map(len, todo.values())) - len(self.failed)
        self.say(f"prepared: {ready} contenders; {missing} not offered, {len(self.failed) - missing} failed")

    def bandwidth(self) -> None:
        """Time a large copy, for the rate that the page tells."""
        sizes = [1 << (12 if self.dry else 32)]
        answer = self.workers[0].ask({"do": "worker_gpu.bandwidth", "sizes": sizes, "dry": self.dry}, 60)
        self.data["bandwidth"] = answer if "refused" not in answer else {}

    def measure(self, seconds: float, each: float = 0.25) -> None:
        """Measure rows in the order of the cases; those that no time is left for are named in `left_out`."""
        deadline = Deadline(seconds)
        for case in self.cases:
            if deadline.left < LEAST_SECONDS:
                self.data["left_out"].append(f"{case.name}: no time left")
            else:
                self.data["rows"].append(self._row(case, deadline, each))
                self.say(_line(self.data["rows"][-1]))

    def _row(self, case: Case, deadline: Deadline, each: float) -> dict:
        row = record.row(case)
        asks = self._asks(case)
        for i, (key, worker) in enumerate(asks):
            answer = self.failed.get((case.name, key))
            if answer is None and deadline.left < 1:
                answer = {"refused": "no time left"}
            if answer is None:
                last = i + 1 == len(asks) or asks[i + 1][1] is not worker
                answer = self._ask("measure", worker, case, key, min(deadline.left, 45), seconds=each, last=last)
            if "missing" in answer:
                row["missing"][key] = answer["missing"]
            else:
                row["contenders"][key] = answer
        return row

    def profile(self, seconds: float) -> None:
        """Count launches of one call of each of our contenders, after all timing: the profiler slows calls."""
        deadline = Deadline(seconds)
        cases = {case.name: case for case in self.cases}
        for row in self.data["rows"]:
            for key, worker in self._asks(cases[row["case"]]):
                if deadline.left > 2 and key in OURS and "seconds" in row["contenders"].get(key, {}):
                    answer = self._ask("profile", worker, cases[row["case"]], key, min(deadline.left, 20))
                    if "launches" in answer:
                        row["contenders"][key]["profile"] = answer

    def stop(self) -> None:
        for worker in [*self.forced.values(), *self.workers]:
            worker.close()


def _line(row: dict) -> str:
    def text(entry: dict) -> str:
        return (
            f"{1e6 * entry['seconds']:.1f} us" if "seconds" in entry else f"refused: {entry.get('refused', '?')[:60]}"
        )

    entries = {
        **{key: text(entry) for key, entry in row["contenders"].items()},
        **dict.fromkeys(row["missing"], "missing"),
    }
    return f"{row['case']}: " + ", ".join(f"{key} {words}" for key, words in entries.items())

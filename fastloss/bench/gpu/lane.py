"""A lane: a process of its own that measures some ways, one request a line on stdin, one answer a line on stdout.

A forced path of the CUDA backend has a lane of its own, since it is set by the environment; and what breaks a CUDA
context, or hangs in a kernel, takes only its own lane with it (python -m fastloss.bench.gpu.lane, started by `lanes`).
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from fastloss.measure.formula import Truth, compare

from .. import parity
from ..worker import _reason
from . import cases, clock, smoke, ways
from .cases import Problem
from .ways import Way

GRAPH_BYTES = 256 << 20  # rotated inputs of a graph: more than any L2 cache
HOST_PIXELS = 100_000  # the device keeps up with the host below this size


class Lane:
    """Answers requests {do, problem, who, …}; keeps what is compiled, never a tensor of the inputs' size."""

    def __init__(self, dry: bool) -> None:
        self.clock = clock.choose(dry)
        self.problems = {p.name: p for p in cases.bench(dry) + cases.more(dry)}
        self.ways: dict[tuple[str, str], Way] = {}
        torch._dynamo.config.recompile_limit = 1000
        self._inputs = lru_cache(maxsize=1)(lambda name: cases.inputs(self.problems[name], self.clock.device))
        self._truth = lru_cache(maxsize=1)(self._make_truth)

    def answer(self, request: dict) -> dict:
        if request["do"] == "smoke":
            return smoke.run(
                request["backend"], self.clock.device, request["tiny"], request["modes"], request["seconds"]
            )
        if request["do"] == "bandwidth":
            return self._bandwidth(request["bytes"])
        problem = self.problems[request["problem"]]
        way = self._way(problem, request["who"])
        return getattr(self, "_" + request["do"])(problem, way, request)

    def _way(self, problem: Problem, who: str) -> Way:
        key = (problem.name, who)
        if key not in self.ways:
            self.ways[key] = ways.build(problem, who, self.clock.dry)
        return self.ways[key]

    def _bandwidth(self, sizes: list[int]) -> dict:
        """Seconds of a device copy that reads and writes so many bytes together."""
        return {str(size): self.clock.rounds({"copy": self._copy(size)}, 0.2)["copy"] for size in sizes}

    def _copy(self, total: int) -> Callable[[], object]:
        source = torch.zeros(max(1, total // 2), dtype=torch.uint8, device=self.clock.device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    def _make_truth(self, name: str) -> Truth:
        problem = self.problems[name]
        xs, ys = self._inputs(name)
        parts = [parity.truth(case, x, y) for case, x, y in zip(problem.parts, xs, ys)]
        if len(parts) == 1:
            return parts[0]
        weights = ways.halving(problem.levels)
        value = sum(w * part.value for w, part in zip(weights, parts))
        grad = torch.cat([w * part.grad.flatten() for w, part in zip(weights, parts)])
        return Truth(value, grad, None, 1.0, parts[0].source)

    def _prepare(self, problem: Problem, way: Way, request: dict) -> dict:
        """One call, so that whatever compiles has compiled."""
        xs, ys = self._inputs(problem.name)
        start = time.perf_counter()
        way.step(xs, [way.target(y) for y in ys])
        self.clock.wait()
        found = {"first_seconds": time.perf_counter() - start}
        self._forget()
        return found

    def _forget(self) -> None:
        self._inputs.cache_clear()
        self._truth.cache_clear()
        self.clock.free()

    def _measure(self, problem: Problem, way: Way, request: dict) -> dict:
        xs, ys = self._inputs(problem.name)
        targets = [way.target(y) for y in ys]
        found = self._check(problem, way, xs, targets)
        if "refused" in found:
            return found
        seconds = request["seconds"]
        path = ways.path_of(way.key)
        copies = {"copy": self._copy(problem.least_bytes)}
        moved = problem.path_bytes(path) if way.role == "ours" else None
        if moved not in (None, problem.least_bytes):
            copies["path_copy"] = self._copy(moved)
        times = self.clock.rounds({"call": lambda: way.step(xs, targets), **copies}, seconds)
        found |= times.pop("call") | {name: entry["seconds"] for name, entry in times.items()}
        if moved is not None:
            found["path_bytes"] = moved
            found["predicted_seconds"] = found.get("path_copy", found["copy"])
        del copies
        found["memory"] = self.clock.memory(lambda: way.loss(xs, targets), lambda: way.step(xs, targets))
        if problem.case.numel <= HOST_PIXELS:
            found["host_seconds"] = clock.host_seconds(lambda: way.step(xs, targets), 100, self.clock.wait)
        if way.role == "ours":
            found["graph"] = self._graph(problem, way, xs, targets, seconds)
        if request.get("last", False):
            self._forget()
        return found

    def _check(self, problem: Problem, way: Way, xs: list[Tensor], targets: list[Tensor]) -> dict:
        truth = self._truth(problem.name)
        loss, grads = way.step(xs, targets)
        grad = grads[0] if len(grads) == 1 else torch.cat([g.flatten() for g in grads])
        limits = (parity.LIMITS if way.role == "ours" else parity.PEER_LIMITS)[problem.case.dtype]
        found = {"role": way.role, "target": way.target_name, "notes": way.notes}
        if way.role == "other":
            return found
        verdict = compare(truth, float(loss.detach()), grad, limits)
        found |= {"value_error": verdict.value_error, "grad_error": verdict.grad_error}
        return found if verdict.ok else found | {"refused": f"parity: {verdict.reason}"}

    def _graph(
        self, problem: Problem, way: Way, xs: list[Tensor], targets: list[Tensor], seconds: float
    ) -> dict[str, object]:
        count = max(1, min(16, -(-GRAPH_BYTES // problem.least_bytes)))
        rotated = [xs, *cases.clones(xs, count - 1)]
        works = [lambda one=one: way.step(one, targets) for one in rotated]
        copies = [self._copy(problem.least_bytes) for _ in range(count)]
        try:
            return self.clock.graph(works, seconds) | {"copy": self.clock.graph(copies, seconds)["seconds"]}
        except Exception as error:  # a bench goes on; the table says that it cannot be captured
            return {"refused": _reason(error)}

    def _profile(self, problem: Problem, way: Way, request: dict) -> dict:
        xs, ys = self._inputs(problem.name)
        targets = [way.target(y) for y in ys]
        found = self.clock.launches(lambda: way.step(xs, targets))
        answer = {"launches": len(found), "gpu_us": sum(e["us"] for e in found), "kernels": found[:40]}
        if way.role == "ours":
            forward = self.clock.launches(lambda: way.loss(xs, targets))
            answer["forward"] = [e["name"] for e in forward]
        return answer


def main() -> int:
    # Peers print; only answers may reach the pipe.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    lane = None
    answers.write("ready\n")
    for line in sys.stdin:
        try:
            request = json.loads(line)
            lane = lane or Lane(request["dry"])
            found = lane.answer(request)
        except ways.NotOffered as error:
            found = {"missing": str(error)}
        except Exception as error:  # any failure of a peer or a kernel is a result
            traceback.print_exc()
            found = {"refused": _reason(error), "broken": "CUDA error" in str(error)}
        answers.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

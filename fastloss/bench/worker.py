"""The measuring process: a job on stdin, one JSON event a line on stdout (python -m fastloss.bench.worker)."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import torch

from fastloss.measure import cases as case_list
from fastloss.measure import memory, providers
from fastloss.measure.cases import Case
from fastloss.measure.providers import Contender
from fastloss.measure.timing import NOISE, Memcpy, Timing, interleave, ratio

from . import parity
from .regimes import REGIMES, Job

MEMCPY = "memcpy"


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error).strip() else 'no message'}"


def _judge(case: Case, found: list[Contender], truth: parity.Truth, x, say: Callable[..., None]) -> dict[str, dict]:
    """Parity of every contender; whoever raises or is wrong is refused with the reason and not timed."""
    entries = {}
    for contender in found:
        say(doing=f"checking {contender.key}")
        entry = {
            "library": contender.library,
            "how": contender.how,
            "role": contender.role,
            "target": contender.target,
            "notes": contender.notes,
        }
        try:
            verdict = parity.check(case, contender, truth, x)
        except Exception as error:  # a peer may fail in any way; the run goes on and the report says so
            entry["refused"] = _reason(error)
        else:
            entry |= {"value_error": verdict.value_error, "grad_error": verdict.grad_error}
            if not verdict.ok:
                entry["refused"] = f"parity: {verdict.reason}"
        entries[contender.key] = entry
    return entries


def measure_case(case: Case, job: Job, say: Callable[..., None]) -> dict:
    """One row of the report."""
    regime = REGIMES[job.regime]
    torch._dynamo.reset()
    x, y = case_list.inputs(case)
    say(doing="float64 truth")
    truth = parity.truth(case, x, y)
    x = providers.fresh_logits(case, x)
    found, missing = providers.contenders(case, y, job.peers, compiled=job.compiled, backend=job.backend)
    entries = _judge(case, found, truth, x, say)
    source = truth.source
    del truth
    row = {
        "case": case.name,
        "title": case.title,
        "size": case.size,
        "group": case.group,
        "mode": case.mode,
        "dtype": case.dtype,
        "numel": case.numel,
        "pixels": case.pixels,
        "logits_bytes": case.logits_bytes,
        "least_bytes": case.least_bytes(),
        "truth": source,
        "missing": missing,
        "contenders": entries,
    }
    sound = [c for c in found if "refused" not in entries[c.key]]
    if job.memory:
        _weigh(case, sound, entries, x, say)
    if providers.OURS not in {c.key for c in sound}:
        row["refused"] = entries[providers.OURS]["refused"]
        return row
    copy = Memcpy(case.least_bytes(), regime.thread_count)
    works: dict[str, Callable[[], object]] = {MEMCPY: copy.call}
    works |= {c.key: _work(c, x) for c in sound}
    for attempt in (1, 2):  # a noisy machine gets a second chance
        say(doing=f"timing {len(works)} contenders" + (f" again ({attempt})" if attempt > 1 else ""))
        timings, faults = interleave(
            works, (MEMCPY, providers.OURS), clock=regime.clock, rounds=job.rounds, seconds=job.seconds, seed=attempt
        )
        noise = max(timings[MEMCPY].spread, timings[providers.OURS].spread)
        if noise <= NOISE:
            break
    _write_times(row, timings, faults, copy.how, noise)
    return row


def _work(contender: Contender, x: torch.Tensor) -> Callable[[], object]:
    return lambda: contender.step(x)


def _weigh(case: Case, sound: list[Contender], entries: dict[str, dict], x, say: Callable[..., None]) -> None:
    for contender in sound:
        say(doing=f"memory of {contender.key}")
        weights = memory.measure(contender, x)
        entries[contender.key]["memory"] = {k: memory.in_logits(case, v) for k, v in asdict(weights).items()}
        if contender.library == providers.OURS:
            entries[contender.key]["memory"]["no_grad_peak"] = memory.in_logits(case, memory.no_grad_peak(contender, x))


def _write_times(row: dict, timings: dict[str, Timing], faults: dict[str, int], how: str, noise: float) -> None:
    mine, floor = timings[providers.OURS], timings[MEMCPY]
    row |= {"rounds": len(mine.rounds), "noise": noise, "noisy": noise > NOISE}
    row["memcpy"] = {
        "how": how,
        "seconds": floor.median,
        "spread": floor.spread,
        "bytes_per_second": row["least_bytes"] / floor.median,
    }
    for key, timing in timings.items():
        if key == MEMCPY:
            continue
        entry = row["contenders"][key]
        entry |= {
            "seconds": timing.median,
            "spread": timing.spread,
            "faults": faults[key],
            "of_memcpy": ratio(floor, timing).median,
        }
        if key != providers.OURS:
            entry["ratio"] = asdict(ratio(timing, mine))


def compile_case(case: Case, job: Job, say: Callable[..., None]) -> None:
    torch._dynamo.reset()
    x, y = case_list.inputs(case)
    x = providers.fresh_logits(case, x)
    for contender in providers.peers(case, y, job.peers, compiled=True):
        if contender.how == "compiled":
            say(doing=f"compiling {contender.key}")
            try:
                contender.step(x)
            except Exception as error:  # the measuring process meets it again and reports it
                say(doing=f"{contender.key} does not compile ({_reason(error)})")


def main() -> int:
    # Peers print; only events may reach the pipe.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job = Job(**json.loads(sys.stdin.read()))
    torch.set_num_threads(REGIMES[job.regime].thread_count)
    chosen = {c.name: c for c in case_list.CASES}
    started = time.monotonic()

    def emit(kind: str, **data: object) -> None:
        events.write(json.dumps({"event": kind, "at": round(time.monotonic() - started, 2), **data}) + "\n")

    for name in job.cases:

        def say(doing: str, name: str = name) -> None:
            emit("progress", case=name, doing=doing)

        if job.action == "compile":
            compile_case(chosen[name], job, say)
            emit("compiled", case=name)
        else:
            emit("row", case=name, row=measure_case(chosen[name], job, say))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The bench of a CPU: all contenders of a case interleaved in one process of the regime, with parity and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from fastloss.measure import memory, timing
from fastloss.measure.cases import CASES, Case, fresh, inputs
from fastloss.measure.contenders import OURS, Contender, make_contenders, make_peer

from . import live, parity, record, warm
from .regimes import REGIMES, Job
from .worker import reason

MEMCPY = "memcpy"
Say = Callable[[str], None]


def run(jobs: list[Job], data: dict) -> None:
    """Compile what pays to be compiled ahead, then measure: a row for each case goes into the record."""
    compiles: dict[int, tuple[Job, list[str]]] = {}
    for job in jobs:  # regimes with as many threads share what is compiled
        known = compiles.setdefault(REGIMES[job.regime].thread_count, (job, []))[1]
        known += [name for name in warm.missing(job) if name not in known]
    total = sum(len(names) for _, names in compiles.values()) + sum(len(job.cases) for job in jobs)
    with live.choose(total, live.CPU) as view:
        for job, names in compiles.values():
            warm.fill(job, names, view)
        for job in jobs:
            regime = REGIMES[job.regime]
            view.title(f"{regime.name}: {regime.words}")
            rows: list[dict] = []
            worker = regime.worker()
            try:
                for case in job.cases:
                    request = {"do": "cpu.measure", "case": case.name, "peers": job.peers, "compiled": job.compiled}
                    request |= {"backend": job.backend, "weigh": job.weigh}
                    request["limits"] = {"clock": regime.clock, "rounds": job.rounds, "seconds": job.seconds}
                    found = worker.ask(request, say=lambda words, case=case: view.progress(case.name, words))
                    rows.append(record.row(case) | found)
                    view.row(rows[-1])
            finally:
                worker.close()
            data["regimes"][job.regime] = regime.about | {"rows": rows}


def _case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def measure(
    case: str, peers: list[str], compiled: bool, backend: str, weigh: bool, limits: dict[str, Any], say: Say
) -> dict:
    """Measure a row's contenders; who raises or is wrong is refused with the reason and not timed. `limits` are the
    clock, rounds and seconds of `timing.interleave`."""
    torch._dynamo.reset()
    one = _case(case)
    x, y = inputs(one)
    say("float64 truth")
    truth = parity.truth(one, x, y)
    x = fresh(x)
    found, missing = make_contenders(one, peers, compiled=compiled, backend=backend)
    found = [contender.on(y) for contender in found]
    entries: dict[str, dict] = {}
    for contender in found:
        say(f"checking {contender.key}")
        try:
            entries[contender.key] = parity.judge(one, contender, truth, x)
        except Exception as error:  # a peer may fail in any way; the run goes on and the report says so
            refused = {"role": contender.role, "target": contender.dtype, "notes": contender.notes}
            entries[contender.key] = refused | {"refused": reason(error)}
    row = {"truth": truth.source, "missing": missing, "contenders": entries}
    del truth
    sound = [contender for contender in found if "refused" not in entries[contender.key]]
    for contender in sound if weigh else []:
        say(f"memory of {contender.key}")
        weights = entries[contender.key]["memory"] = memory.in_logits(one, contender, x)
        if contender.role.startswith("ours"):
            weights["no_grad_peak"] = memory.no_grad_peak(contender, x) / one.logits_bytes
    if "refused" in entries[OURS]:
        return row | {"refused": entries[OURS]["refused"]}
    return row | _times(one, sound, entries, x, limits, say)


def _times(
    case: Case, sound: list[Contender], entries: dict[str, dict], x: torch.Tensor, limits: dict[str, Any], say: Say
) -> dict:
    """Write times into the entries; return what they say of the row."""
    copy = timing.Memcpy(case.least_bytes(), torch.get_num_threads())
    works: dict[str, Callable[[], object]] = {MEMCPY: copy.call}
    works |= {contender.key: lambda contender=contender: contender.step(x) for contender in sound}
    noise = 0.0
    for attempt in (1, 2):  # a noisy machine gets a second chance
        say(f"timing {len(works)} contenders" + (f" again ({attempt})" if attempt > 1 else ""))
        timings, faults = timing.interleave(works, (MEMCPY, OURS), seed=attempt, **limits)
        noise = max(timings[MEMCPY].spread, timings[OURS].spread)
        if noise <= timing.NOISE:
            break
    mine, floor = timings[OURS], timings.pop(MEMCPY)
    for key, found in timings.items():
        times = {"seconds": found.median, "spread": found.spread, "faults": faults[key]}
        entries[key] |= times | {"of_memcpy": timing.ratio(floor, found).median}
        if key != OURS:
            entries[key]["ratio"] = asdict(timing.ratio(found, mine))
    rate = {"bytes_per_second": case.least_bytes() / floor.median}
    found = {"rounds": len(mine.rounds), "noise": noise, "noisy": noise > timing.NOISE}
    return found | {"memcpy": {"how": copy.how, "seconds": floor.median, "spread": floor.spread, **rate}}


def compile_peers(case: str, peers: list[str], say: Say) -> dict:
    """Call every compiled peer once, so that inductor's cache holds it."""
    torch._dynamo.reset()
    one = _case(case)
    x, y = inputs(one)
    for library in peers:
        say(f"compiling {library}")
        try:
            make_peer(one, library, "inductor").on(y).step(fresh(x))
        except Exception as error:  # the measuring process meets it again and reports it
            say(f"{library} does not compile ({reason(error)})")
    return {}

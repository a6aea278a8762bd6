"""Fill inductor's cache before anything is timed: two processes compile what one would wait for case by case."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from fastloss.measure.cases import COMPILED

from . import live, record
from .process import Worker, together
from .regimes import REGIMES, Job

PROCESSES = 2
FEW = 4  # so few cases are compiled as they come


def _stamp() -> Path:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir()) / "fastloss-bench.json"


def _key(job: Job) -> str:
    """Name what compiled code depends on beside the case: versions, and the threads that inductor writes into loops."""
    names = ",".join(f"{k}={v}" for k, v in sorted(record.versions(job.peers).items()) if k != "fastloss")
    return f"{names};threads={REGIMES[job.regime].thread_count};{torch.backends.cpu.get_cpu_capability()}"


def _known() -> dict[str, list[str]]:
    try:
        return json.loads(_stamp().read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def missing(job: Job) -> list[str]:
    """List cases of a job whose compiled peers are not in the cache yet; none where compiling ahead does not pay."""
    have = set(_known().get(_key(job), [])) if job.compiled else set()
    absent = [c.name for c in job.cases if c.name not in have and c.peers == COMPILED and job.compiled]
    return absent if len(absent) > FEW else []


def fill(job: Job, cases: list[str], view: live.Plain) -> None:
    """Compile the peers of `cases`."""
    if not cases:
        return
    workers = [REGIMES[job.regime].worker() for _ in range(PROCESSES)]
    done: list[str] = []

    def work(worker: Worker) -> None:
        for case in cases[workers.index(worker) :: PROCESSES]:
            request = {"do": "cpu.compile_peers", "case": case, "peers": job.peers}
            if "refused" not in worker.ask(request, say=lambda words, case=case: view.progress(case, words)):
                done.append(case)
            view.compiled(case)

    try:
        together(workers, work)
    finally:
        for worker in workers:
            worker.close()
        known = _known()
        known[_key(job)] = sorted({*known.get(_key(job), []), *done})
        _stamp().parent.mkdir(parents=True, exist_ok=True)
        _stamp().write_text(json.dumps(known))

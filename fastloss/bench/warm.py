"""Fill inductor's cache before anything is timed: two processes compile what one would wait for case by case."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from . import record
from .regimes import REGIMES, Child, ChildFailed, Job

PROCESSES = 2
FEW = 4  # so few cases are compiled as they come


def _stamp() -> Path:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir()) / "fastloss-bench.json"


def _key(job: Job) -> str:
    """What compiled code depends on besides the case: versions, and the threads that inductor writes into its loops."""
    names = ",".join(f"{k}={v}" for k, v in sorted(record.versions(job.peers).items()) if k != "fastloss")
    return f"{names};threads={REGIMES[job.regime].thread_count};{torch.backends.cpu.get_cpu_capability()}"


def _known() -> dict[str, list[str]]:
    try:
        return json.loads(_stamp().read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def missing(job: Job) -> list[str]:
    """Cases of a job whose compiled peers are not in the cache yet; empty where compiling ahead does not pay."""
    if not job.compiled:
        return []
    have = set(_known().get(_key(job), []))
    absent = [c for c in job.cases if c not in have and not c.endswith("-64")]
    return absent if len(absent) > FEW else []


def fill(job: Job, cases: list[str]) -> Iterator[dict]:
    """Compile the peers of `cases`; yields the children's events as they come."""
    children = [Child(replace(job, action="compile", cases=cases[i::PROCESSES])) for i in range(PROCESSES)]
    events: queue.Queue[dict | BaseException | None] = queue.Queue()

    def listen(child: Child) -> None:
        try:
            for event in child:
                events.put(event)
        except (ChildFailed, OSError, ValueError) as error:
            events.put(error)
        events.put(None)

    threads = [threading.Thread(target=listen, args=(c,), daemon=True) for c in children]
    for thread in threads:
        thread.start()
    ended, done = 0, []
    try:
        while ended < len(children):
            event = events.get()
            if event is None:
                ended += 1
            elif isinstance(event, BaseException):
                raise event
            else:
                done += [event["case"]] if event["event"] == "compiled" else []
                yield event
    finally:
        for child in children:
            child.stop()
        known = _known()
        known[_key(job)] = sorted({*known.get(_key(job), []), *done})
        _stamp().parent.mkdir(parents=True, exist_ok=True)
        _stamp().write_text(json.dumps(known))

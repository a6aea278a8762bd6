"""Worker processes from the outside: start them, ask them, and survive what breaks or hangs in them.

A request is a line of JSON on a worker's stdin, {"do": "MODULE.FUNCTION", its arguments}; its answer is any number of
lines {"doing": words} and one with what the function returned, or {"refused": why}, or {"missing": what a library
lacks}.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

START_SECONDS = 90.0


class Worker:
    """One process (python -m fastloss.bench.worker). A request that gets no answer in time ends it; the next one starts
    another, until the worker is closed."""

    def __init__(self, name: str, threads: int = 1, env: dict[str, str] | None = None) -> None:
        self.name, self.closed = name, False
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        quiet = {"PYTHONWARNINGS": "ignore", "KINETO_LOG_LEVEL": "99"}
        self.env = clean | quiet | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} | (env or {})
        self.process: subprocess.Popen | None = None
        self.lines: queue.Queue[str] = queue.Queue()
        self.log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (lives as long as the worker)

    def _start(self) -> subprocess.Popen:
        self.lines = queue.Queue()
        process = self.process = subprocess.Popen(
            [sys.executable, "-m", "fastloss.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=self.env,
            text=True,
        )
        threading.Thread(target=self._read, args=(process, self.lines), daemon=True).start()
        self.lines.get(timeout=START_SECONDS)  # imports are no part of an answer's time
        return process

    @staticmethod
    def _read(process: subprocess.Popen, lines: queue.Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    def ask(self, request: dict, seconds: float | None = None, say: Callable[[str], None] | None = None) -> dict:
        """Return the answer, or {"refused": why}: also for no answer within `seconds`, or if the process ended. `say`
        gets what the worker is doing meanwhile."""
        if self.closed:
            return {"refused": "stopped"}
        answer: dict | None = None
        try:
            process = self.process
            if process is None or process.poll() is not None:
                process = self._start()
            assert process.stdin is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            end = None if seconds is None else time.monotonic() + seconds
            while line := self.lines.get(timeout=None if end is None else max(end - time.monotonic(), 0.1)):
                answer = json.loads(line)
                if "doing" not in answer:
                    break
                if say is not None:
                    say(answer["doing"])
                answer = None
        except queue.Empty:
            self.stop()
            return {"refused": f"no answer within {START_SECONDS if seconds is None else seconds:.0f} s"}
        except OSError:
            pass
        if answer is None:
            status = self.process.wait() if self.process else None
            self.process = None
            return {"refused": f"the process ended with status {status}: {self._last_words()}"}
        if answer.pop("broken", False):  # nothing more can be had from this CUDA context
            self.stop()
        return answer

    def _last_words(self) -> str:
        self.log.seek(0)
        said = [line.strip() for line in self.log.read().splitlines() if line.strip()]
        self.log.seek(0, os.SEEK_END)
        return said[-1][:300] if said else "no message"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        """Stop for good."""
        self.closed = True
        self.stop()


def together(workers: list[Worker], work: Callable[[Worker], None]) -> None:
    """Run `work` of every worker at once, each in a thread that waits for its process; if one raises, or this is
    interrupted, all are closed."""
    if not workers:
        return
    with ThreadPoolExecutor(len(workers)) as pool:
        try:
            list(pool.map(work, workers))
        except BaseException:
            for worker in workers:
                worker.close()
            raise


class Deadline:
    """Seconds that are left of a budget."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

"""Lanes from the outside: start them, ask them, and survive what breaks or hangs in them."""

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

from .ways import path_of

START_SECONDS = 90.0


class Lane:
    """One worker process. A request that gets no answer in time ends it; the next one starts another."""

    def __init__(self, name: str, who: str, dry: bool) -> None:
        self.name, self.dry = name, dry
        self.env = dict(os.environ) | {"PYTHONWARNINGS": "ignore", "KINETO_LOG_LEVEL": "99"}
        self.env["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # the lanes are many already
        self.env["FASTLOSS_CUDA_PATH"] = path_of(who)
        self.process: subprocess.Popen | None = None
        self.lines: queue.Queue[str] = queue.Queue()
        self.log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (lives as long as the lane)

    def _start(self) -> None:
        self.lines = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fastloss.bench.gpu.lane"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=self.env,
            text=True,
        )
        threading.Thread(target=self._read, args=(self.process, self.lines), daemon=True).start()
        self.lines.get(timeout=START_SECONDS)  # imports and the CUDA context are no part of an answer's time

    @staticmethod
    def _read(process: subprocess.Popen, lines: queue.Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    def ask(self, request: dict, seconds: float) -> dict:
        """The answer, or {"refused": why}: no answer within `seconds`, or the process ended."""
        try:
            if self.process is None or self.process.poll() is not None:
                self._start()
            assert self.process is not None and self.process.stdin is not None
            self.process.stdin.write(json.dumps(request | {"dry": self.dry}) + "\n")
            self.process.stdin.flush()
            line = self.lines.get(timeout=max(seconds, 0.1))
        except queue.Empty:
            self.stop()
            return {"refused": f"no answer within {seconds:.0f} s"}
        except OSError:
            line = ""
        if not line:
            status = self.process.wait()
            self.process = None
            return {"refused": f"the process ended with status {status}: {self._last_words()}"}
        answer = json.loads(line)
        if answer.get("broken"):  # nothing more can be had from this CUDA context
            self.stop()
        return answer

    def _last_words(self) -> str:
        self.log.seek(0)
        said = [line.strip() for line in self.log.read().splitlines() if line.strip()]
        self.log.seek(0, os.SEEK_END)
        return said[-1][:200] if said else "no message"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def together(lanes: list[Lane], work: Callable[[Lane], None]) -> None:
    """Runs `work` of every lane at once, each in a thread that waits for its process."""
    if lanes:
        with ThreadPoolExecutor(len(lanes)) as pool:
            list(pool.map(work, lanes))


class Deadline:
    """Seconds that are left of a budget."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

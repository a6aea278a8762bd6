"""What a run says while it works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from .metrics import Scores

LINE_SECONDS = 10.0


class Training(Protocol):
    """What is said of a training: the name of its method, its seed and its number of epochs."""

    @property
    def method(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def epochs(self) -> int: ...


class Watch(Protocol):
    """Receive what a training does: the loss after every step, the scores after every epoch."""

    def step(self, run: Training, epoch: int, loss: float, images: int) -> None: ...

    def epoch(self, run: Training, epoch: int, scores: Scores) -> None: ...


class Lines(AbstractContextManager):
    """Every LINE_SECONDS, at the end of an epoch, one line with rate and time left.

    Args:
        total: images that all runs together will train on.
        done: those that an earlier session has trained on already.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self.total, self.done, self.here = total, done, 0
        self.timed, self.started = 0, 0.0  # images since the end of the first step, which loads libraries
        self.said = time.monotonic()
        self.loss = float("nan")
        self.scored: tuple[Training, Scores] | None = None  # the run whose slices were last evaluated, and the result

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, run: Training, epoch: int, loss: float, images: int) -> None:
        self.done += images
        if self.here:
            self.timed += images
        else:
            self.started = time.monotonic()
        self.here += images
        self.loss = loss
        self._show(run, epoch)

    def epoch(self, run: Training, epoch: int, scores: Scores) -> None:
        self.scored = run, scores
        if epoch + 1 == run.epochs or time.monotonic() - self.said > LINE_SECONDS:
            self.said = time.monotonic()
            self.say(f"  {self._where(run, epoch)}, {self._pace()}")

    def say(self, words: str) -> None:
        print(words, flush=True)

    def _show(self, run: Training, epoch: int) -> None:
        pass

    def _where(self, run: Training, epoch: int) -> str:
        dice = f", Dice {self.scored[1].dice:.3f}" if self.scored and self.scored[0] == run else ""
        return f"{run.method}, seed {run.seed}: epoch {epoch + 1}/{run.epochs}, loss {self.loss:.4f}{dice}"

    def _pace(self) -> str:
        if not self.timed:
            return "…"
        rate = self.timed / max(time.monotonic() - self.started, 1e-9)
        left = round((self.total - self.done) / max(rate, 1e-9))
        return f"{rate:.0f} images/s, {left // 60}:{left % 60:02d} left"


class Bar(Lines):
    """A live line below the lines."""

    def __init__(self, total: int, done: int = 0) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__(total, done)
        text = TextColumn("{task.percentage:>3.0f}%  {task.fields[words]}", markup=False)
        self.bar = Progress(BarColumn(16), text, transient=True)
        self.task = self.bar.add_task("", total=total, completed=done, words="")

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def say(self, words: str) -> None:
        self.bar.console.print(words, markup=False, highlight=False)

    def epoch(self, run: Training, epoch: int, scores: Scores) -> None:
        self.scored = run, scores
        if epoch + 1 == run.epochs:
            self.say(f"  {self._where(run, epoch)}")

    def _show(self, run: Training, epoch: int) -> None:
        self.bar.update(self.task, completed=self.done, words=f"{self._pace()}  {self._where(run, epoch)}")


def watch(total: int, done: int = 0) -> Lines:
    """Make a bar if standard output is a terminal, else lines."""
    return Bar(total, done) if sys.stdout.isatty() else Lines(total, done)


def waiting(words: str) -> AbstractContextManager:
    """Show a spinner beside `words` on a terminal; elsewhere the words alone."""
    if not sys.stdout.isatty():
        print(words, flush=True)
        return nullcontext()
    from rich.console import Console

    return Console().status(words)


@contextmanager
def counting(
    total: int, words: str, things: str, say: Callable[[str], None] | None = None
) -> Iterator[Callable[[int], None]]:
    """Count work of known size: call what is yielded with the number of things done. Lines at the start, every
    LINE_SECONDS and at the end, to `say`; without it a bar on a terminal, and elsewhere lines on standard output."""
    if say is None and sys.stdout.isatty():
        from rich.progress import Progress

        with Progress(transient=True) as bar:
            task = bar.add_task(words, total=total)
            yield lambda number: bar.advance(task, number)
        return
    say = say or functools.partial(print, flush=True)
    done, started = 0, time.monotonic()
    said = started
    say(f"{words}: {total} {things}")

    def count(number: int) -> None:
        nonlocal done, said
        done += number
        now = time.monotonic()
        if now - said > LINE_SECONDS:
            said = now
            left = round((now - started) / done * (total - done))
            say(f"  {done} of {total} {things}, {left // 60}:{left % 60:02d} left")

    yield count
    say(f"  {done} {things} in {time.monotonic() - started:.1f} s")

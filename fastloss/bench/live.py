"""The table while it grows: rich on a terminal that has it, else one plain line a case."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import Any

from . import readings as read
from .readings import own
from .tables import Column, mine, times


def _best(row: dict, how: str | None) -> str:
    return read.fastest(row, how) or read.fastest(row, how, read.ANY) or "-"


CPU: list[Column] = [
    ("case", lambda row: row["case"] + " (noisy)" * bool(row.get("noisy"))),
    ("logits", lambda row: row["size"]),
    ("dtype", lambda row: row["dtype"]),
    ("fastloss ms", mine),
    ("of memcpy", lambda row: times(own(row).get("of_memcpy"), ".0%")),
    ("fastest peer", lambda row: _best(row, None)),
    ("x", lambda row: times(read.ratio(row, _best(row, None)))),
    ("fastest eager", lambda row: _best(row, "eager")),
    ("x", lambda row: times(read.ratio(row, _best(row, "eager")))),
    ("kept", lambda row: times(read.memory(row, "kept"))),
]
WIDTHS = {
    "case": 22,
    "logits": 14,
    "dtype": 9,
    "fastest peer": 16,
    "fastest eager": 14,
    "x": 6,
    "loss": 75,
    "input": 12,
}
NUMBERS = ("fastloss ms", "of memcpy", "x", "kept")


class Plain:
    """Lines for pipes, logs and terminals without rich; progress only on a terminal."""

    def __init__(self, total: int, columns: list[Column]) -> None:
        self.total, self.done, self.started, self.columns = total, 0, time.monotonic(), columns
        self.terminal = sys.stderr.isatty()

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *error: object) -> None:
        self._clear()

    def _clear(self) -> None:
        if self.terminal:
            sys.stderr.write("\r\033[K")

    def left(self) -> str:
        if not self.done:
            return f"{self.total} cases"
        seconds = (time.monotonic() - self.started) / self.done * (self.total - self.done)
        return f"{self.done}/{self.total}, about {seconds:.0f} s left"

    def _print(self, cells: list[str]) -> None:
        self._clear()
        widths = [WIDTHS.get(head, len(head)) for head, _ in self.columns]
        print("  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths)).rstrip(), flush=True)

    def title(self, words: str) -> None:
        self._clear()
        print(f"\n{words}", flush=True)
        self._print([head for head, _ in self.columns])

    def progress(self, case: str, doing: str) -> None:
        if self.terminal:
            sys.stderr.write(f"\r\033[K[{self.left()}] {case}: {doing}"[:110])
            sys.stderr.flush()

    def row(self, row: dict) -> None:
        self.done += 1
        self._print([cell(row) for _, cell in self.columns])

    def compiled(self, case: str) -> None:
        self.done += 1
        if not self.terminal:
            print(f"compiled the peers of {case} ({self.left()})", flush=True)


class Rich(Plain):
    """The same as one live table per title."""

    def __init__(self, total: int, columns: list[Column]) -> None:
        super().__init__(total, columns)
        from rich.console import Console
        from rich.live import Live

        self.terminal = False  # rich draws the progress
        self.console = Console()
        self.table: Any = None
        self.status = ""
        self.view = Live(console=self.console, refresh_per_second=4, get_renderable=self._draw)

    def __enter__(self) -> Rich:
        self.view.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.status = ""
        self.view.stop()

    def _draw(self):
        from rich.console import Group

        parts = [self.table] if self.table is not None else []
        return Group(*parts, self.status) if self.status else Group(*parts)

    def title(self, words: str) -> None:
        from rich.table import Table

        if self.table is not None:  # the finished table scrolls away above the live one
            self.view.console.print(self.table)
        self.table = Table(title=words, title_justify="left", box=None, pad_edge=False)
        for head, _ in self.columns:
            self.table.add_column(head, justify="right" if head in NUMBERS else "left")

    def progress(self, case: str, doing: str) -> None:
        self.status = f"[dim]{self.left()}  {case}: {doing}[/dim]"

    def row(self, row: dict) -> None:
        self.done += 1
        self.table.add_row(*[cell(row) for _, cell in self.columns])

    def compiled(self, case: str) -> None:
        self.done += 1


def choose(total: int, columns: list[Column]) -> Plain:
    """Return the live table of a terminal that has rich, else plain lines; `total` cases are to come."""
    rich = sys.stdout.isatty() and importlib.util.find_spec("rich") is not None
    return (Rich if rich else Plain)(total, columns)

"""The table while it grows: rich on a terminal that has it, else one plain line a case."""

from __future__ import annotations

import importlib.util
import sys
import time
from types import TracebackType

from fastloss.measure.providers import OURS

from . import bars
from .render import ms

HEAD = ("case", "logits", "dtype", "fastloss ms", "of memcpy", "fastest peer", "x", "fastest eager", "x", "kept")
WIDTHS = (22, 14, 9, 11, 9, 16, 6, 14, 6, 5)


def cells(row: dict) -> list[str]:
    """One row of the table as text."""
    mine = row["contenders"].get(OURS, {})
    name = row["case"] + (" (noisy)" if row.get("noisy") else "")
    if "seconds" not in mine:
        return [name, row["size"], row["dtype"], "refused: " + row.get("refused", "not timed")]
    found = [name, row["size"], row["dtype"], ms(mine["seconds"]), f"{100 * mine['of_memcpy']:.0f}%"]
    for how in (None, "eager"):
        best = bars.fastest(row, how) or bars.fastest(row, how, ("peer", "baseline"))
        found += [best[0], f"{best[1]['ratio']['median']:.1f}"] if best else ["-", "-"]
    return [*found, f"{mine['memory']['kept']:.1f}" if "memory" in mine else "-"]


class Plain:
    """Lines for pipes, logs and terminals without rich; progress only on a terminal."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.started = total, 0, time.monotonic()
        self.terminal = sys.stderr.isatty()

    def __enter__(self) -> Plain:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def _clear(self) -> None:
        if self.terminal:
            sys.stderr.write("\r\033[K")

    def left(self) -> str:
        if not self.done:
            return f"{self.total} cases"
        seconds = (time.monotonic() - self.started) / self.done * (self.total - self.done)
        return f"{self.done}/{self.total}, about {seconds:.0f} s left"

    def regime(self, words: str) -> None:
        self._clear()
        print(f"\n{words}", flush=True)
        print("  ".join(f"{h:{w}}" for h, w in zip(HEAD, WIDTHS)), flush=True)

    def progress(self, case: str, doing: str) -> None:
        if self.terminal:
            sys.stderr.write(f"\r\033[K[{self.left()}] {case}: {doing}"[:110])
            sys.stderr.flush()

    def row(self, row: dict) -> None:
        self._clear()
        self.done += 1
        print("  ".join(f"{c:{w}}" for c, w in zip(cells(row), WIDTHS)), flush=True)

    def compiled(self, case: str) -> None:
        self.done += 1
        if not self.terminal:
            print(f"compiled the peers of {case} ({self.left()})", flush=True)


class Rich(Plain):
    """The same as one live table per regime."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        from rich.console import Console
        from rich.live import Live

        self.terminal = False  # rich draws the progress
        self.console = Console()
        self.table = self.words = None
        self.status = ""
        self.view = Live(console=self.console, refresh_per_second=4, get_renderable=self._draw)

    def __enter__(self) -> Rich:
        self.view.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.status = ""
        self.view.stop()

    def _draw(self):
        from rich.console import Group

        parts = [self.table] if self.table is not None else []
        return Group(*parts, self.status) if self.status else Group(*parts)

    def regime(self, words: str) -> None:
        from rich.table import Table

        if self.table is not None:  # the finished table scrolls away above the live one
            self.view.console.print(self.table)
        self.table = Table(title=words, title_justify="left", box=None, pad_edge=False)
        for head in HEAD:
            self.table.add_column(
                head, justify="right" if head in ("fastloss ms", "of memcpy", "x", "kept") else "left"
            )

    def progress(self, case: str, doing: str) -> None:
        self.status = f"[dim]{self.left()}  {case}: {doing}[/dim]"

    def row(self, row: dict) -> None:
        self.done += 1
        self.table.add_row(*cells(row))

    def compiled(self, case: str) -> None:
        self.done += 1


def choose(total: int) -> Plain:
    """Rich on a terminal that has it; `total` cases are to come."""
    rich = sys.stdout.isatty() and importlib.util.find_spec("rich") is not None
    return Rich(total) if rich else Plain(total)

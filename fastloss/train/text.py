"""Numbers and tables as text."""

from __future__ import annotations

import statistics
import textwrap
import time
from collections.abc import Sequence

WIDTH = 110


def now_utc() -> str:
    """Return the time now, to the second, as ISO 8601 writes it in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def wrap(*sentences: str) -> str:
    """Put each on lines of its own, no longer than WIDTH."""
    return "\n".join([textwrap.fill(sentence, WIDTH) for sentence in sentences])


def size_of(count: float) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= 0.1 * size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def mean_sd(values: Sequence[float], digits: int = 4) -> str:
    sd = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{sd}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Make columns of equal width, Markdown too."""
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(["| " + " | ".join([f"{c:{w}}" for c, w in zip(line, widths)]) + " |" for line in lines])

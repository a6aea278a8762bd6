"""The measurements of `--compare` as a table and a chart."""

from __future__ import annotations

import statistics
from typing import Any

from ..text import size_of
from ..throughput import CONFIDENCE
from .figures import throughput as chart
from .page import Block, Table
from .results import Reproduction


def blocks(found: Reproduction) -> list[Block]:
    measured = found.extra("throughput.json")
    if not measured:
        return []
    rows = measured["rows"]
    head = ["case", "loss by", "loss", "of the step", "images/s", "peak beyond the logits", "launches",
            "whole step", "value, gradient differ by"]  # fmt: skip
    missing = sorted({f"{row['case']}: {words}" for row in rows for words in row["missing"]})
    notes = [
        "Loss: forward, and backward to the logits, medians over real steps with all contenders on the same logits; "
        "images/s follow from it and the network's own time. Launches: kernels on a GPU, operators on a CPU.",
        f"Whole step: with this loss minus with fastloss, {CONFIDENCE:.0%} interval over alternating blocks; "
        "indistinguishable if it spans zero.",
    ]
    notes += [f"Not offered: {'; '.join(missing)}."] if missing else []
    where = f"Measured on {found.machine['device']}, {found.machine['threads']} thread(s)."
    return [
        Table("Throughput: the same steps with other losses", head, [_row(row) for row in rows], where, notes),
        *chart(rows),
    ]


def _row(row: dict[str, Any]) -> list[str]:
    loss = statistics.median(row["loss_seconds"])
    gaps = "another formula" if not row["same_formula"] else f"{row['value_gap']:.0e}, {row['gradient_gap']:.0e}"
    return [
        row["case"],
        row["contender"] + (f" ({row['note']})" if row["note"] else ""),
        f"{1e3 * loss:.2f} ms",
        f"{row['share']:.1%}",
        f"{row['images_per_second']:.1f}",
        size_of(row["loss_peak_bytes"]),
        str(row["launches"]),
        _difference(row),
        gaps if row["contender"] != "fastloss" else "",
    ]


def _difference(row: dict[str, Any]) -> str:
    if "step_interval" not in row:
        return ""
    low, high = (1e3 * value for value in row["step_interval"])
    words = f"{1e3 * row['step_difference']:+.2f} ms [{low:+.2f}, {high:+.2f}]"
    return f"{words}, indistinguishable" if low <= 0 <= high else words

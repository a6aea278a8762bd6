"""From the logs of finished runs to tables in words."""

from __future__ import annotations

import math
import statistics
import textwrap
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import read_json, read_log
from .loop import JUDGE_EVERY
from .metrics import Scores

WIDTH = 110


def wrapped(*sentences: str) -> str:
    """Each on lines of its own, no longer than WIDTH."""
    return "\n".join([textwrap.fill(sentence, WIDTH) for sentence in sentences])


def size_of(count: float) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= 0.1 * size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Columns of equal width, Markdown too."""
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(["| " + " | ".join([f"{c:{w}}" for c, w in zip(line, widths)]) + " |" for line in lines])


@dataclass(frozen=True)
class Summary:
    """One method over its seeds. Times are medians over the steps; gaps and errors the worst of `side_by_side.Pair`."""

    method: str
    scores: list[Scores]
    images_per_second: float
    loss_ms: float
    loss_share: float
    smp_ms: float
    smp_share: float
    value_gap: float
    gradient_gap: float
    error: float
    smp_error: float
    steps: int


def summarise(method: str, folders: list[Path]) -> Summary:
    """Reads result.json and steps.csv of each seed's folder."""
    logs = [read_log(folder / "steps.csv") for folder in folders]
    joined = {name: [value for log in logs for value in log[name]] for name in logs[0]}
    triples = list(zip(joined["step_s"], joined["loss_s"], joined["smp_s"]))
    return Summary(
        method=method,
        scores=[Scores(**read_json(folder / "result.json", ("scores",))["scores"]) for folder in folders],
        images_per_second=statistics.median([n / s for n, s in zip(joined["images"], joined["step_s"])]),
        loss_ms=1e3 * statistics.median(joined["loss_s"]),
        loss_share=statistics.median([loss / step for step, loss, _ in triples]),
        smp_ms=1e3 * statistics.median(joined["smp_s"]),
        smp_share=statistics.median([smp / (step - loss + smp) for step, loss, smp in triples]),
        value_gap=worst(joined["value_gap"]),
        gradient_gap=worst(joined["gradient_gap"]),
        error=worst(_judged(joined, "error")),
        smp_error=worst(_judged(joined, "smp_error")),
        steps=len(triples),
    )


def _judged(log: dict[str, list[float]], name: str) -> list[float]:
    return [value for value, step in zip(log[name], log["step"]) if (step - 1) % JUDGE_EVERY == 0]


def worst(values: list[float]) -> float:
    """The largest; NaN if there is one."""
    return math.nan if any([math.isnan(v) for v in values]) else max(values)


def mean_sd(values: list[float]) -> str:
    sd = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{sd}"


def training_table(summaries: list[Summary], kept: dict[str, tuple[int, int]], baseline: Scores) -> str:
    """`kept`: bytes that fastloss and smp keep for backward, by method."""
    head = ["method", "Dice", "IoU", "pooled Dice", "images/s"]
    head += ["loss ms (share)", "smp ms (share)", "kept", "kept by smp"]
    rows = [
        ["intensity thresholds", *[f"{v:.3f}" for v in (baseline.dice, baseline.iou, baseline.pooled_dice)], *5 * ["-"]]
    ]
    for s in summaries:
        row = [s.method, *[mean_sd([getattr(x, name) for x in s.scores]) for name in ("dice", "iou", "pooled_dice")]]
        row += [
            f"{s.images_per_second:.0f}",
            f"{s.loss_ms:.2f} ({s.loss_share:.1%})",
            f"{s.smp_ms:.2f} ({s.smp_share:.1%})",
        ]
        rows.append(row + [size_of(count) for count in kept[s.method]])
    return table(head, rows)

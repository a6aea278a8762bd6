"""What `fastloss demo` says: the losses alone, the methods' scores, and their times beside smp's."""

from __future__ import annotations

import math
import statistics
from typing import Any

from fastloss.measure.contenders import OURS

from ..checkpoint import read_log
from ..experiments import Row
from ..metrics import EMPTY_RULE, Scores
from ..runs import folders
from ..side_by_side import CHECK_EVERY, SideBySide
from ..text import mean_sd, size_of
from . import summary, verdicts
from .page import Block, Contents, Heading, Table, Words
from .results import Reproduction

VERDICT = (
    "One brain, the average of 152, a target chosen so that thresholds fail, and few short trainings: this shows the "
    "software at work and is no evidence for or against the paper on dynamic loss alteration."
)


def beginning(found: Reproduction) -> list[Block]:
    """Say what ran, and what may be concluded: whether altering helped only as far as a test over the seeds says."""
    rows = {row.name: row for row in found.rows}
    made = verdicts.corrected([
        verdicts.compare(f"{rows['iou-to-bce'].title} over {rows[other].title}", "Dice",
                         *[found.paired(rows[name], "dice") for name in ("iou-to-bce", other)], "seeds")
        for other in ("iou+bce", "bce")
    ])  # fmt: skip
    points = [
        f"{each.name}, {each.metric} {each.difference:+.3f}. Better: {verdicts.verdict(each).text}." for each in made
    ]
    points.append(verdicts.how_many(made))
    words = Words([VERDICT, *points], "What can be concluded", listed=True)
    return [Heading("Summary"), summary.what_ran([found]), words, Contents()]


def losses_alone(rows: list[dict[str, Any]], threads: int) -> Table:
    """Tell what `losses3d.measure` found."""
    head = ["loss", "library", "ms", "fastloss is", "kept for backward", "value, gradient differ by"]
    cells = []
    for row in rows:
        kept = f"{size_of(row['kept'])} ({row['kept'] / row['logits']:.1f} x logits)"
        ratio = "" if row["library"] == OURS else f"{row['ratio']:.1f} x faster" if "ratio" in row else ""
        gap = f"{row['value_gap']:.0e}, {row['gradient_gap']:.0e}" if "value_gap" in row else ""
        gap = "another formula: one-vs-rest focal" if row["other"] else row["refused"] or gap
        time = f"{1e3 * row['seconds']:.0f}" if "seconds" in row else "-"
        cells.append([row["case"], row["library"], time, ratio, kept, gap])
    logits = size_of(rows[0]["logits"])
    title = f"The losses alone: {rows[0]['size']} logits ({logits}), forward and backward, {threads} thread(s)"
    note = "Medians of interleaved calls, ratios within a round; every library sums over batch and space, no smoothing."
    return Table(title, head, cells, notes=[note])


def scores(found: Reproduction, baseline: Scores) -> Table:
    """Tell mean ± sd over the seeds, and what thresholds reach without a network."""
    metrics = ("dice", "iou", "pooled_dice")
    lines = [["intensity thresholds", *[f"{getattr(baseline, name):.3f}" for name in metrics]]]
    lines += [[row.title, *[mean_sd(found.scores(row, name), 3) for name in metrics]] for row in found.rows]
    note = "Mean ± sd over the seeds, after the last epoch; Adam's state and its cosine carry over the switch. "
    return Table("Scores on the validation slices", ["method", "Dice", "IoU", "pooled Dice"], lines,
                 notes=[note + EMPTY_RULE])  # fmt: skip


def step_times(found: Reproduction, kept: dict[str, tuple[int, int]], logits_bytes: int) -> Table:
    """Tell time and memory of the losses inside the real steps; `kept`: bytes that fastloss and smp keep, by row."""
    logs = {row.name: _joined(found, row) for row in found.rows}
    lines = [[row.title, *_times(logs[row.name]), *map(size_of, kept[row.name])] for row in found.rows]
    value, gradient = (max([_worst(log[name]) for log in logs.values()]) for name in ("value_gap", "gradient_gap"))
    error, smp_error = (max([_worst(_checked(log, name)) for log in logs.values()]) for name in ("error", "smp_error"))
    notes = [
        "Loss time: forward, and backward to the logits, inside the real steps, medians; its share of the step. Kept: "
        f"bytes for backward beyond logits and masks ({size_of(logits_bytes)} of logits).",
        f"fastloss and smp on the same logits in all {sum([len(log['step']) for log in logs.values()])} steps: values "
        f"differ by at most {value:.1e}, gradients by {gradient:.1e} of their norm. In every {CHECK_EVERY}th step smp "
        f"in float64 says whose error that is: fastloss's gradient is off by at most {error:.1e}, smp's by "
        f"{smp_error:.1e}.",
        VERDICT,
    ]
    head = ["method", "images/s", "loss ms (share)", "smp ms (share)", "kept", "kept by smp"]
    return Table("The losses in the training steps", head, lines, notes=notes)


def _joined(found: Reproduction, row: Row) -> dict[str, list[float]]:
    """Join the steps of all seeds."""
    names = folders(found.settings, row, found.seeds).values()
    logs = [read_log(found.folder / "runs" / name / "steps.csv", SideBySide.columns) for name in names]
    return {name: [value for log in logs for value in log[name]] for name in logs[0]}


def _times(log: dict[str, list[float]]) -> list[str]:
    steps = list(zip(log["step_s"], log["loss_s"], log["smp_s"]))
    rate = statistics.median([n / s for n, s in zip(log["images"], log["step_s"])])
    share = statistics.median([loss / step for step, loss, _ in steps])
    smp_share = statistics.median([smp / (step - loss + smp) for step, loss, smp in steps])
    ms, smp_ms = (1e3 * statistics.median(log[name]) for name in ("loss_s", "smp_s"))
    return [f"{rate:.0f}", f"{ms:.2f} ({share:.1%})", f"{smp_ms:.2f} ({smp_share:.1%})"]


def _checked(log: dict[str, list[float]], name: str) -> list[float]:
    return [value for value, step in zip(log[name], log["step"]) if (step - 1) % CHECK_EVERY == 0]


def _worst(values: list[float]) -> float:
    """Return the largest; infinite if one is no number."""
    return math.inf if any([math.isnan(value) for value in values]) else max(values)

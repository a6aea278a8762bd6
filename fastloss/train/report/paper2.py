"""Paper 2's tables of scores with our numbers in them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ..experiments import TABLES, Row
from ..text import mean_sd
from .page import Cell, Table
from .published import PAPER2, Score
from .results import METRICS, Reproduction

MISSING = Cell("missing")
SHARED = (
    "Rows that begin with the same loss share that training: they differ after the switch only, and their errors are "
    "correlated."
)
EARLY = " †"
EARLY_WORDS = "† Of an epoch before the switch (in some training): what the first loss reached alone."
NAMES = {"dice": "Dice", "iou": "IoU"}


def single(found: Reproduction, name: str) -> Table:
    """Make tables 1 to 3 of paper 2, the controls and the optional rows: one line a row, mean ± sd over seeds."""
    rows = [row for row in found.rows if row.table == name]
    printed = PAPER2.get(name, {})
    lines = []
    for row in rows:
        scores = printed.get(row.name)
        epochs = str(row.epochs)
        lines.append(
            [row.title, epochs, *[_cell(found, row, metric, scores) for metric in METRICS], _count(found, row)]
        )
    notes = [what(found), *early(found, rows)]
    if name in ("table3", "controls", "figure2", "optional"):
        notes.append(SHARED)
    return Table(TABLES["paper2"][name], ["loss", "epochs", "Dice", "IoU", "seeds"], lines, found.caveat, notes)


def _cell(found: Reproduction, row: Row, metric: str, printed: Score | None) -> Cell:
    paper = f"{getattr(printed, metric):.4f} ± {getattr(printed, metric + '_sd'):.4f}" if printed else ""
    values = found.scores(row, metric)
    if not values:
        return Cell("missing", paper)
    difference = found.difference(statistics.mean(values) - getattr(printed, metric)) if printed else ""
    return Cell(mean_sd(values) + mark(found, row), paper, difference)


def mark(found: Reproduction, row: Row | None) -> str:
    return EARLY if row and found.predates(row) else ""


def early(found: Reproduction, rows: Sequence[Row | None]) -> list[str]:
    return [EARLY_WORDS] if any([mark(found, row) for row in rows]) else []


def _count(found: Reproduction, row: Row) -> str:
    return str(len({seed for seed, _ in found.results(row)}))


def what(found: Reproduction) -> str:
    """Say in one sentence what the numbers are."""
    s = found.settings
    over = {"image": "mean over slices", "case": "mean over volumes", "pooled": "of all slices together"}[s.average]
    since = "of those since the last switch" if s.best_of == "switch" else "of all, those before a switch too"
    when = f"best validation epoch by Dice ({since})" if s.score == "best" else "last epoch"
    if found.tested:
        when = f"test part, epoch chosen on the validation part: {when}"
    return f"Scores: {over}, {when}; an empty truth is {EMPTY_WORDS[s.empty]}. {found.legend}"


EMPTY_WORDS = {
    "skip": "left out",
    "one": "1 if nothing was found, else 0",
    "zero": "0",
    "transunet": "scored as TransUNet does",
}

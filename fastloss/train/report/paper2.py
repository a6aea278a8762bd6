"""The papers' tables with our numbers in them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ..experiments import TABLES, Row, title
from ..text import mean_sd
from . import ttests
from .page import Cell, Table
from .published import PAPER2, PAPER2_TABLE4, Score, Test
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
    notes = [_what(found), *_early(found, rows)]
    if name in ("table3", "controls", "figure2", "optional"):
        notes.append(SHARED)
    return Table(TABLES["paper2"][name], ["loss", "epochs", "Dice", "IoU", "seeds"], lines, found.caveat, notes)


def _cell(found: Reproduction, row: Row, metric: str, printed: Score | None) -> Cell:
    paper = f"{getattr(printed, metric):.4f} ± {getattr(printed, metric + '_sd'):.4f}" if printed else ""
    values = found.scores(row, metric)
    if not values:
        return Cell("missing", paper)
    difference = ""
    if printed and found.comparable:
        difference = f"{statistics.mean(values) - getattr(printed, metric):+.4f}"
    return Cell(mean_sd(values) + _mark(found, row), paper, difference)


def _mark(found: Reproduction, row: Row | None) -> str:
    return EARLY if row and found.predates(row) else ""


def _early(found: Reproduction, rows: Sequence[Row | None]) -> list[str]:
    return [EARLY_WORDS] if any([_mark(found, row) for row in rows]) else []


def _count(found: Reproduction, row: Row) -> str:
    return str(len({seed for seed, _ in found.results(row)}))


def _what(found: Reproduction) -> str:
    """Say in one sentence what the numbers are."""
    s = found.settings
    over = {"image": "mean over slices", "case": "mean over volumes", "pooled": "of all slices together"}[s.average]
    since = "of those since the last switch" if s.best_of == "switch" else "of all, those before a switch too"
    when = f"best validation epoch by Dice ({since})" if s.score == "best" else "last epoch"
    if found.tested:
        when = f"test part, epoch chosen on the validation part: {when}"
    return f"Scores: {over}, {when}; an empty truth is {EMPTY_WORDS[s.empty]}. Grey: the paper."


EMPTY_WORDS = {
    "skip": "left out",
    "one": "1 if nothing was found, else 0",
    "zero": "0",
    "transunet": "scored as TransUNet does",
}


def table4(found: Reproduction) -> Table:
    """Compare composite and altered over the folds, with the paper's unpaired test and the paired one."""
    lines = []
    rows = [found.find("table4", altered) for _, altered in PAPER2_TABLE4]
    for (composite, altered), tests in PAPER2_TABLE4.items():
        for metric, test in tests.items():
            lines.append(_compared(found, composite, altered, metric, test))
    again = "; ".join([
        f"{title(altered)} {NAMES[metric]} {ttests.printed(test).t:.2f} (p {_p(ttests.printed(test).p)})"
        for (_, altered), tests in PAPER2_TABLE4.items() for metric, test in tests.items()
    ])  # fmt: skip
    notes = [
        _what(found) + " Mean ± sd over folds, of seeds' means.",
        "t > 0: the altered loss is better. Unpaired: the paper's test (equal variances). Paired: the same folds on "
        "both sides, as they are; folds share training slices, so even this p is too small. Corrected: the paired test "
        "with the variance of Nadeau and Bengio (2003) for folds that share training slices.",
        f"The paper's t computed again from its own rounded means and deviations: {again}.",
        *_early(found, rows),
        SHARED,
    ]
    head = ["losses", "metric", "composite", "altered", "unpaired t", "p", "paired t", "p", "corrected t", "p",
            "altered is better"]  # fmt: skip
    return Table(TABLES["paper2"]["table4"], head, lines, found.caveat, notes)


def _compared(found: Reproduction, composite: str, altered: str, metric: str, test: Test) -> list[Cell | str]:
    sides = [found.find("table4", name) for name in (composite, altered)]
    folds = [found.folds(row, metric) if row else {} for row in sides]
    both = sorted(set(folds[0]) & set(folds[1]))
    values = [[side[fold] for fold in both] for side in folds]
    papers = (f"{test.composite:.2f} ± {test.composite_sd:.2f}", f"{test.altered:.2f} ± {test.altered_sd:.2f}")
    start: list[Cell | str] = [f"{title(composite)} / {title(altered)}", NAMES[metric]]
    if not both:
        return [*start, *[Cell("missing", paper) for paper in papers], Cell("missing", f"{test.t:.2f}"),
                Cell("missing", f"{test.p:.4f}"), *[MISSING] * 4, Cell("missing", "yes")]  # fmt: skip
    unpaired, paired = ttests.unpaired(*values), ttests.paired(*values)
    corrected = ttests.corrected(*values, found.settings.folds)
    return [
        *start,
        *[Cell(mean_sd(mine) + _mark(found, row), paper) for row, mine, paper in zip(sides, values, papers)],
        Cell(f"{unpaired.t:.2f}", f"{test.t:.2f}"),
        Cell(_p(unpaired.p), f"{test.p:.4f}"),
        f"{paired.t:.2f}",
        _p(paired.p),
        f"{corrected.t:.2f}",
        _p(corrected.p),
        Cell("yes" if statistics.mean(values[1]) > statistics.mean(values[0]) else "no", "yes"),
    ]


def _p(p: float) -> str:
    return f"{p:.4f}" if not p < 1e-4 else f"{p:.0e}"


def direction(found: Reproduction) -> Table:
    """Tell whether altering beats the composite and the control, by the means over seeds; other data can agree on
    that."""
    lines = []
    for composite, altered in PAPER2_TABLE4:
        last = altered.split("-to-")[1]
        rows = [found.find("table3", altered), found.find("table2", composite), found.find("controls", last)]
        for metric in METRICS:
            values = [statistics.mean(s) if row and (s := found.scores(row, metric)) else None for row in rows]
            printed = [PAPER2["table3"][altered], PAPER2["table2"][composite]]
            paper = getattr(printed[0], metric) > getattr(printed[1], metric)
            texts = [f"{value:.4f}{_mark(found, row)}" if value is not None else MISSING
                     for row, value in zip(rows, values)]  # fmt: skip
            verdicts = [_verdict(values[0], values[1], "yes" if paper else "no"), _verdict(values[0], values[2], "")]
            lines.append([title(altered), NAMES[metric], *texts, *verdicts])
    head = ["altered loss", "metric", "altered", "composite", "second loss alone", "beats the composite",
            "beats the second loss alone, as long"]  # fmt: skip
    note = (
        "The last column is the control that the paper lacks: all epochs with the loss that the altered one ends with. "
        "Without it, nothing says that the switch, and not merely that loss, is what helps."
    )
    notes = [note, *_early(found, [found.find("table3", altered) for _, altered in PAPER2_TABLE4])]
    return Table("Direction: does altering the loss help?", head, lines, found.caveat, notes)


def _verdict(a: float | None, b: float | None, paper: str) -> Cell:
    return Cell("missing" if a is None or b is None else "yes" if a > b else "no", paper)

"""Paper 1's two tables with our numbers in them."""

from __future__ import annotations

import statistics

from ..experiments import TABLES, Row
from ..text import mean_sd
from .page import Cell, Table
from .paper2 import MISSING
from .published import PAPER1_TABLE2, PAPER1_TABLE3
from .results import Reproduction
from .verdicts import ON_SEEDS, Comparison, compare, corrected, how_many, scores, shown_difference, tested, verdict

PROVENANCE = [
    "The paper names Synapse and ACDC. Its 52,156,519 parameters are those of LeViT-UNet-384 with three classes, its "
    "text speaks of stomach and intestines, and its rate, sizes and log names are those of a public Kaggle notebook "
    "for the UW-Madison GI tract images. Its numbers are therefore most likely from that data; no run on Synapse or "
    "ACDC can be expected to match them.",
    "Its baseline's best Dice, 0.7853, and parameters, 52.17 M, equal what LeViT-UNet's authors published for Synapse "
    "(78.53, nine classes): copied, or a coincidence; we cannot tell.",
]
MEASURED_AS = {"nnunet": "dynunet"}  # MONAI's network as nnU-Net plans it
_ROWS = (
    ("best_epoch", "Best epoch", "best", "epoch"),
    ("best_dice", "Best Dice", "best", "dice"),
    ("best_iou", "Best Jaccard", "best", "iou"),
    ("train_loss", "Training loss, last epoch", "last", "train_loss"),
    ("valid_loss", "Validation loss, last epoch", "last", "valid_loss"),
    ("last_dice", "Validation Dice, last epoch", "last", "dice"),
    ("last_iou", "Validation Jaccard, last epoch", "last", "iou"),
    ("parameters", "Parameters", "", "parameters"),
)


def table2(found: Reproduction) -> Table:
    rows = [found.find("table2", name) for name in ("baseline", "modified")]
    lines = []
    for key, words, which, column in _ROWS:
        cells = []
        for row, paper in zip(rows, PAPER1_TABLE2[key]):
            results = list(found.results(row).values()) if row else []
            name = found.column(column) if column in ("dice", "iou") else column
            values = [result[which][name] if which else result[name] for result in results]
            cells.append(_cell(found, key, values, paper))
        lines.append([words, *cells])
    for metric, words in (("dice", "Dice"), ("iou", "Jaccard")):
        if found.tested:
            values = [found.scores(row, metric) if row else [] for row in rows]
            lines.append([f"{words} of the test part", *[mean_sd(mine) if mine else MISSING for mine in values]])
    losses = " ".join([f"{row.title}: {_formula(row)}." for row in rows if row])
    notes = [
        losses,
        "Losses of different formulas are not comparable, and the paper states neither of its own in full: their "
        f"differences are in brackets. Epochs count from 1. {found.legend}",
    ]
    name = f"{TABLES['paper1']['table2']} ({found.settings.dataset}, {found.settings.model})"
    return Table(name, ["", "baseline", "modified"], lines, found.caveat, notes)


def _cell(found: Reproduction, key: str, values: list[float], paper: float) -> Cell:
    digits = {"best_epoch": 0, "parameters": 0}.get(key, 4)
    printed = f"{paper:g}" if digits else f"{paper:,.0f}"
    if not values:
        return Cell("missing", printed)
    if key == "best_epoch":
        values = [value + 1 for value in values]
    away = statistics.mean(values) - paper
    difference = f"({away:+.4f})" if key.endswith("loss") else found.difference(away, digits)
    if digits:
        return Cell(mean_sd(values), printed, difference)
    shown = values[:1] if key == "parameters" else values
    return Cell(", ".join([f"{value:,.0f}" for value in shown]), printed, difference)


def comparisons(found: Reproduction) -> list[Comparison]:
    """Hold the modified loss against the baseline, by seed."""
    baseline, modified = (found.find("table2", name) for name in ("baseline", "modified"))
    made = []
    for key, words, which, column in _ROWS:
        if key.endswith(("dice", "iou")):
            sides = [_by_seed(found, row, which, column) for row in (modified, baseline)]
            printed = PAPER1_TABLE2[key]
            made.append(compare("modified over baseline", words, *sides, "seeds", printed[1] - printed[0]))
    return corrected(made)


def _by_seed(found: Reproduction, row: Row | None, which: str, column: str) -> dict[int, float]:
    results = found.results(row) if row else {}
    return {seed: result[which][found.column(column)] for (seed, _), result in results.items()}


def direction(found: Reproduction) -> Table:
    made = comparisons(found)
    notes = [ON_SEEDS, how_many(made), found.legend]
    lines: list[list[Cell | str]] = [
        [each.metric, *scores(each), shown_difference(found, each), *tested(each), verdict(each)] for each in made
    ]
    head = ["score", "modified", "baseline", "modified minus baseline", "seeds", "paired t", "p", "modified is better"]
    return Table("Direction: is the modified loss better?", head, lines, found.caveat, notes)


def _formula(row: Row) -> str:
    return " ".join(repr(row.schedule.active).split())


def table3(found: Reproduction) -> Table:
    rows = (found.extra("systems.json") or {"rows": []})["rows"]
    measured = {row["name"]: row for row in rows}
    lines = []
    for name, paper in PAPER1_TABLE3.items():
        row = measured.pop(MEASURED_AS.get(name, name), None)
        printed = [f"{paper.parameters:g} M", f"{paper.flops:g}", paper.memory or ""]
        quoted = [f"{paper.dice:g}", f"{paper.iou:g}", paper.dataset]
        ours = [Cell("quoted" if row is None else text, grey) for text, grey in zip(_measures(row), printed)]
        if row:
            away = f"{row['parameters'] / 1e6 - paper.parameters:+.2f} M"
            ours[0] = Cell(ours[0].text, ours[0].paper, away)
        lines.append([paper.title, *ours[:2], _milliseconds(row), ours[2], _input(row), *[Cell("", q) for q in quoted]])
    for name, row in measured.items():
        lines.append([name, *_measures(row)[:2], _milliseconds(row), _measures(row)[2], _input(row), "", "", ""])
    notes = [
        "Measured here: parameters, multiply-accumulates and one inference of the input named. “Quoted”: no kept "
        "library implements the system, or nothing was measured. Scores are the paper's alone, from different papers "
        "and data.",
        "The paper mixes units of FLOPs, and gives the size of the weights (198.96 MB) as its own memory; UNETR, Swin "
        "and nnU-Net are 3D networks, with inputs that it does not state.",
    ]
    head = ["system", "parameters", "GMAC", "inference", "peak memory", "input", "Dice", "Jaccard", "data"]
    where = {f"{row['device']}, {row['threads']} thread(s), {row['repeats']} repeat(s)" for row in rows}
    notes += [f"Measured on {'; '.join(sorted(where))}."] if where else []
    return Table(TABLES["paper1"]["table3"], head, lines, found.caveat, notes)


def _measures(row: dict | None) -> list[str]:
    if row is None:
        return ["", "", ""]
    memory = f"{row['peak_bytes'] / 2**20:,.0f} MiB" if row.get("peak_bytes") else "not measured"
    return [f"{row['parameters'] / 1e6:.2f} M", f"{row['macs'] / 1e9:.1f}", memory]


def _milliseconds(row: dict | None) -> Cell | str:
    return f"{1e3 * row['seconds']:.1f} ms" if row else MISSING


def _input(row: dict | None) -> str:
    return "x".join(map(str, row["shape"])) if row else ""

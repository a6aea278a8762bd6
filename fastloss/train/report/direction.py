"""Paper 2's claim, that an altered loss beats its composite: over the folds (Table 4) and over the seeds."""

from __future__ import annotations

import statistics
from dataclasses import replace

from ..experiments import TABLES, title
from ..text import mean_sd
from . import ttests
from .page import Cell, Table
from .paper2 import MISSING, NAMES, SHARED, early, mark, what
from .published import PAPER2, PAPER2_TABLE4, Test
from .results import METRICS, Reproduction
from .verdicts import ON_SEEDS, Comparison, compare, corrected, how_many, p_value, verdict

OVER_FOLDS, OVER_SEEDS = "Table 4, over the folds", "Tables 2 and 3, over the seeds"


def comparisons(found: Reproduction) -> dict[str, list[Comparison]]:
    """Return what the paper compares, and the control that it lacks, by what they are over."""
    return {OVER_FOLDS: over_folds(found), OVER_SEEDS: over_seeds(found)}


def over_folds(found: Reproduction) -> list[Comparison]:
    """Compare as Table 4 does, by the paired test that is corrected for shared slices."""
    made = []
    for (composite, altered), tests in PAPER2_TABLE4.items():
        for metric, test in tests.items():
            sides = [found.paired(found.find("table4", name), metric) for name in (altered, composite)]
            name = f"{title(altered)} over {title(composite)}"
            pair = compare(name, NAMES[metric], *sides, "folds", test.altered - test.composite)
            outcome = ttests.corrected(pair.other, pair.mine, found.settings.folds)
            made.append(replace(pair, outcome=outcome))
    return corrected(made)


def over_seeds(found: Reproduction) -> list[Comparison]:
    """Compare each altered loss with its composite and with its second loss alone, for as many epochs."""
    made = []
    for composite, altered in PAPER2_TABLE4:
        last = altered.split("-to-")[1]
        others = (("table2", composite), ("controls", last))
        for metric in METRICS:
            mine = found.paired(found.find("table3", altered), metric)
            printed = getattr(PAPER2["table3"][altered], metric) - getattr(PAPER2["table2"][composite], metric)
            for (table, name), paper in zip(others, (printed, None)):
                alone = " alone" if table == "controls" else ""
                other = found.paired(found.find(table, name), metric)
                words = f"{title(altered)} over {title(name)}{alone}"
                made.append(compare(words, NAMES[metric], mine, other, "seeds", paper))
    return corrected(made)


def table4(found: Reproduction) -> Table:
    """Compare composite and altered over the folds, with the paper's unpaired test and the paired one."""
    made = over_folds(found)
    pairs = [(*names, metric, test) for names, tests in PAPER2_TABLE4.items() for metric, test in tests.items()]
    lines = [_compared(found, each, *pair) for each, pair in zip(made, pairs)]
    again = "; ".join([
        f"{title(altered)} {NAMES[metric]} {ttests.printed(test).t:.2f} (p {p_value(ttests.printed(test).p)})"
        for _, altered, metric, test in pairs
    ])  # fmt: skip
    notes = [
        what(found) + " Mean ± sd over folds, of seeds' means.",
        "t > 0: the altered loss is better. Unpaired: the paper's test (equal variances). Paired: the same folds on "
        "both sides, as they are; folds share training slices, so even this p is too small. Corrected: the paired test "
        "with the variance of Nadeau and Bengio (2003) for folds that share training slices; it alone decides.",
        f"The paper's t computed again from its own rounded means and deviations: {again}.",
        how_many(made),
        *early(found, [found.find("table4", altered) for _, altered in PAPER2_TABLE4]),
        SHARED,
    ]
    head = ["losses", "metric", "composite", "altered", "unpaired t", "p", "paired t", "p", "corrected t", "p",
            "altered is better"]  # fmt: skip
    return Table(TABLES["paper2"]["table4"], head, lines, found.caveat, notes)


def _compared(
    found: Reproduction, made: Comparison, composite: str, altered: str, metric: str, test: Test
) -> list[Cell | str]:  # fmt: skip
    papers = (f"{test.composite:.2f} ± {test.composite_sd:.2f}", f"{test.altered:.2f} ± {test.altered_sd:.2f}")
    start: list[Cell | str] = [f"{title(composite)} / {title(altered)}", NAMES[metric]]
    if not made.mine:
        return [*start, *[Cell("missing", paper) for paper in papers], Cell("missing", f"{test.t:.2f}"),
                Cell("missing", f"{test.p:.4f}"), *[MISSING] * 4, verdict(made)]  # fmt: skip
    sides = []
    for name, mine, printed, paper in (
        (composite, made.other, test.composite, papers[0]),
        (altered, made.mine, test.altered, papers[1]),
    ):
        text = mean_sd(mine) + mark(found, found.find("table4", name))
        sides.append(Cell(text, paper, found.difference(statistics.mean(mine) - printed)))
    unpaired, paired = ttests.unpaired(made.other, made.mine), ttests.paired(made.other, made.mine)
    return [
        *start,
        *sides,
        Cell(_t(unpaired), f"{test.t:.2f}"),
        Cell(p_value(unpaired.p), f"{test.p:.4f}"),
        *[text for each in (paired, made.outcome) for text in (_t(each), p_value(each.p))],
        verdict(made),
    ]


def _t(outcome: ttests.Outcome) -> str:
    return "none" if outcome.t != outcome.t else f"{outcome.t:.2f}"


def direction(found: Reproduction) -> Table:
    """Tell whether altering beats the composite and the control over the seeds; other data can agree on that."""
    made = over_seeds(found)
    lines: list[list[Cell | str]] = []
    pairs = [(composite, altered, metric) for composite, altered in PAPER2_TABLE4 for metric in METRICS]
    for (composite, altered, metric), to_composite, to_control in zip(pairs, made[::2], made[1::2]):
        places = (("table3", altered), ("table2", composite), ("controls", altered.split("-to-")[1]))
        rows = [found.find(table, name) for table, name in places]
        values = [list(found.paired(row, metric).values()) for row in rows]
        texts = [f"{statistics.mean(mine):.4f}{mark(found, row)}" if mine else MISSING
                 for row, mine in zip(rows, values)]  # fmt: skip
        seeds = [str(len(each.mine)) for each in (to_composite, to_control)]
        lines.append([title(altered), NAMES[metric], *texts, ", ".join(dict.fromkeys(seeds)), verdict(to_composite),
                      verdict(to_control)])  # fmt: skip
    head = ["altered loss", "metric", "altered", "composite", "second loss alone", "seeds", "beats the composite",
            "beats the second loss alone, as long"]  # fmt: skip
    notes = [
        "The last column is the control that the paper lacks: all epochs with the loss that the altered one ends with. "
        "Without it, nothing says that the switch, and not merely that loss, is what helps.",
        ON_SEEDS,
        how_many(made),
        *early(found, [found.find("table3", altered) for _, altered in PAPER2_TABLE4]),
    ]
    return Table("Direction: does altering the loss help?", head, lines, found.caveat, notes)

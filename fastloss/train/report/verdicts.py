"""Whether one loss is better than another: only what a test says, corrected for how many were made."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..text import mean_sd
from . import ttests
from .page import Cell
from .results import Reproduction
from .ttests import Outcome

LEAST = 3  # pairs of scores below which nothing is said, whatever p
LEVEL = 0.05  # of p after Holm's correction
ON_SEEDS = (
    "p: two-sided paired t-test (scipy's ttest_rel), a pair is one seed: the same first weights and order of slices. "
    "It speaks of other seeds on these data, not of other patients."
)


@dataclass(frozen=True)
class Comparison:
    """Scores of what a paper recommends and of what it is held against, in pairs.

    Attributes:
        name: the two, in words; metric: what was scored.
        mine, other: scores of the recommended and of the other one, of the same folds or seeds.
        over: what a pair is of: "folds" or "seeds".
        outcome: a two-sided test on the pairs, t > 0 where `mine` is higher.
        paper: the difference that the paper prints, or None.
        holm: p of the outcome after Holm's correction, by `corrected`; NaN where nothing was tested.
    """

    name: str
    metric: str
    mine: Sequence[float]
    other: Sequence[float]
    over: str
    outcome: Outcome
    paper: float | None = None
    holm: float = math.nan

    @property
    def tested(self) -> bool:
        return len(self.mine) >= LEAST and not math.isnan(self.outcome.p)

    @property
    def difference(self) -> float:
        return statistics.mean(self.mine) - statistics.mean(self.other)

    @property
    def significant(self) -> bool:
        return self.holm < LEVEL


def compare(
    name: str, metric: str, mine: Mapping[int, float], other: Mapping[int, float], over: str, paper: float | None = None
) -> Comparison:
    """Pair the scores by seed or fold and make the paired t-test; scores without a partner are left out."""
    both = sorted(set(mine) & set(other))
    left, right = ([side[key] for key in both] for side in (mine, other))
    return Comparison(name, metric, left, right, over, ttests.paired(right, left), paper)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Fill in p after Holm (1979), "A simple sequentially rejective multiple test procedure": the k-th smallest of m
    counts m + 1 - k times, and none less than one before it. m are those that could be tested."""
    tested = sorted([each.outcome.p for each in comparisons if each.tested])
    after: dict[float, float] = {}
    highest = 0.0
    for place, p in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - place) * p))
        after.setdefault(p, highest)
    return [replace(each, holm=after[each.outcome.p]) if each.tested else each for each in comparisons]


def verdict(found: Comparison) -> Cell:
    """Answer "is it better?": yes or no with p where Holm's is below 5%, else that it cannot be said."""
    paper = "" if found.paper is None else "yes" if found.paper > 0 else "no"
    if not found.mine:
        return Cell("missing", paper)
    if not found.tested:
        n = len(found.mine)
        why = (
            f"{n} {found.over[: -1 if n == 1 else None]}, {LEAST} needed" if n < LEAST else "no spread to test against"
        )
        return Cell(f"cannot be said ({why})", paper)
    word = ("yes" if found.difference > 0 else "no, lower") if found.significant else "cannot be said"
    return Cell(f"{word}, p = {p_value(found.holm)}", paper)


def scores(found: Comparison) -> list[Cell]:
    """Write both sides' means."""
    return [Cell(mean_sd(side)) if side else Cell("missing") for side in (found.mine, found.other)]


def tested(found: Comparison) -> list[str]:
    """Write the number of pairs, t, and p before the correction."""
    t, p = found.outcome.t, found.outcome.p
    return [str(len(found.mine)), *(["none", "none"] if math.isnan(p) else [f"{t:.2f}", p_value(p)])]


def shown_difference(found: Reproduction, made: Comparison) -> Cell:
    """Write the difference of the means beside that of the paper."""
    paper = "" if made.paper is None else f"{made.paper:+.4f}"
    if not made.mine:
        return Cell("missing", paper)
    away = "" if made.paper is None else found.difference(made.difference - made.paper)
    return Cell(f"{made.difference:+.4f}", paper, away)


def how_many(comparisons: Sequence[Comparison]) -> str:
    """Say in one sentence how many were tested, and what was done about it."""
    tested = sum([each.tested for each in comparisons])
    if not tested:
        return f"{len(comparisons)} comparisons, none with the {LEAST} pairs that a test needs."
    return (
        f"{len(comparisons)} comparisons, {tested} of them tested: each may fall below 5% by accident. So the p of the "
        "verdicts is Holm's, and only where it is below 0.05 is yes or no said."
    )


def p_value(p: float) -> str:
    return "none" if math.isnan(p) else f"{p:.4f}" if p >= 1e-4 else f"{p:.0e}"

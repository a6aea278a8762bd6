"""Student's t as paper 2 used it, and the paired test that its folds call for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .published import FOLDS, Test


@dataclass(frozen=True)
class Outcome:
    """t > 0 where the altered loss scores higher; two-sided p."""

    t: float
    p: float


def printed(test: Test) -> Outcome:
    """Unpaired, equal variances, from the means and deviations as the paper rounds them (n = 5 each, df = 8)."""
    from scipy import stats

    found = stats.ttest_ind_from_stats(test.altered, test.altered_sd, FOLDS, test.composite, test.composite_sd, FOLDS)
    return Outcome(float(found.statistic), float(found.pvalue))


def unpaired(composite: Sequence[float], altered: Sequence[float]) -> Outcome:
    """The paper's test on scores by fold; NaN with fewer than two."""
    from scipy import stats

    if min(len(composite), len(altered)) < 2:
        return Outcome(float("nan"), float("nan"))
    found = stats.ttest_ind(altered, composite)
    return Outcome(float(found.statistic), float(found.pvalue))


def paired(composite: Sequence[float], altered: Sequence[float]) -> Outcome:
    """The same folds on both sides, so the differences within folds are what varies; NaN with fewer than two.

    Folds share training slices, so even this p is too small (Nadeau and Bengio 2003).
    """
    from scipy import stats

    if len(composite) < 2:
        return Outcome(float("nan"), float("nan"))
    found = stats.ttest_rel(altered, composite)
    return Outcome(float(found.statistic), float(found.pvalue))

"""Student's t as paper 2 used it, and the paired test that its folds call for."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .published import FOLDS, Test


@dataclass(frozen=True)
class Outcome:
    """t > 0 where the altered loss scores higher; two-sided p."""

    t: float
    p: float


def printed(test: Test) -> Outcome:
    """Test unpaired, with equal variances, from the means and deviations as the paper rounds them (n = 5 each, df =
    8)."""
    from scipy import stats

    found = stats.ttest_ind_from_stats(test.altered, test.altered_sd, FOLDS, test.composite, test.composite_sd, FOLDS)
    return Outcome(float(found.statistic), float(found.pvalue))


def unpaired(composite: Sequence[float], altered: Sequence[float]) -> Outcome:
    """Make the paper's test on scores by fold; NaN with fewer than two."""
    from scipy import stats

    if min(len(composite), len(altered)) < 2:
        return Outcome(float("nan"), float("nan"))
    found = stats.ttest_ind(altered, composite)
    return Outcome(float(found.statistic), float(found.pvalue))


def corrected(composite: Sequence[float], altered: Sequence[float], folds: int) -> Outcome:
    """Make the paired test with the variance that shared training slices call for: 1/n becomes 1/n + n_test / n_train,
    of k folds 1 / (k - 1) (Nadeau and Bengio 2003, "Inference for the generalization error", eq. 2.10); NaN with fewer
    than two folds or differences that do not vary."""
    from scipy import stats

    n = len(composite)
    if n < 2 or folds < 2:
        return Outcome(float("nan"), float("nan"))
    differences = [b - a for a, b in zip(composite, altered)]
    error = math.sqrt((1 / n + 1 / (folds - 1)) * statistics.variance(differences))
    t = statistics.mean(differences) / error if error else float("nan")
    return Outcome(t, float(2 * stats.t.sf(abs(t), n - 1)))


def paired(composite: Sequence[float], altered: Sequence[float]) -> Outcome:
    """Test the same folds, or seeds, on both sides, so that the differences within pairs are what varies; NaN with
    fewer than two or differences that do not vary.

    Folds share training slices, so even this p is too small: see `corrected`.
    """
    from scipy import stats

    if len(composite) < 2 or len({b - a for a, b in zip(composite, altered)}) == 1:
        return Outcome(float("nan"), float("nan"))
    found = stats.ttest_rel(altered, composite)
    return Outcome(float(found.statistic), float(found.pvalue))

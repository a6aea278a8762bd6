"""A time counts only if the same call gives the right value and gradient, judged by float64 of the same formula."""

from __future__ import annotations

from torch import Tensor

from fastloss.measure import plain
from fastloss.measure.cases import Case
from fastloss.measure.formula import Truth, Verdict, compare, evaluate, signs, tie_band
from fastloss.measure.providers import Contender, ours

# (value relative, gradient relative L2). bfloat16: the gradient's own rounding is 2^-9 of each element.
LIMITS = {"float32": (1e-5, 1e-4), "bfloat16": (1e-4, 4e-3)}
PEER_LIMITS = {"float32": (1e-2, 1e-2), "bfloat16": (0.5, 1.0)}


def truth(case: Case, x: Tensor, y: Tensor) -> Truth:
    """fastloss's reference backend in float64, itself checked against the plain PyTorch expression.

    Raises:
        ArithmeticError: the reference and the plain expression disagree, so nothing can be judged.
    """
    value, grad = evaluate(plain.build(case), x, y)
    band = tie_band(case, x, y)
    sign = signs(case, y)
    plain_truth = Truth(value, grad, band, sign, "plain torch float64")
    ref_value, ref_grad = evaluate(ours(case, "reference"), x, y)
    check = compare(plain_truth, ref_value, ref_grad, (1e-9, 1e-8))
    if not check.ok:
        raise ArithmeticError(f"{case.name}: the reference backend and plain torch disagree ({check.reason})")
    return Truth(ref_value, ref_grad, band, sign, "fastloss reference float64")


def check(case: Case, contender: Contender, truth: Truth, x: Tensor) -> Verdict:
    """Compare one call of a contender with the truth. fastloss must meet the limits of its dtype.

    A peer's formula is checked by `formula.same_formula`; how precisely it computes at full size is its own business
    (smp's float32 Dice is off by 1e-4 at 2 Mpx), so that its errors are recorded, and only nonsense is refused.
    """
    if contender.role == "other":
        return Verdict(True, float("nan"), float("nan"))
    loss, grad = contender.step(x)
    ours = contender.role.startswith("ours")
    return compare(truth, float(loss.detach()), grad, LIMITS[case.dtype] if ours else PEER_LIMITS[case.dtype])

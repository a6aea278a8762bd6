"""A time counts only if the same call gives the right value and gradient, judged by float64 of the same formula."""

from __future__ import annotations

from typing import Any

import torch

from fastloss.deep import halving
from fastloss.measure import plain
from fastloss.measure.cases import Case
from fastloss.measure.contenders import Contender, make_ours
from fastloss.measure.formula import Truth, compare, evaluate, signs, tie_band
from fastloss.measure.peers import own_target

# (value relative, gradient relative L2). bfloat16: the gradient's own rounding is 2^-9 of each element.
LIMITS = {"float32": (1e-5, 1e-4), "bfloat16": (1e-4, 4e-3)}
PEER_LIMITS = {"float32": (1e-2, 1e-2), "bfloat16": (0.5, 1.0)}


def truth(case: Case, x: Any, y: Any) -> Truth:
    """Compute value and gradient by the reference backend in float64, itself checked against the plain PyTorch
    expression; of a pyramid the weighted sum of its levels, with their gradients in one row.

    Raises:
        ArithmeticError: the reference and the plain expression disagree, so nothing can be judged.
    """
    if case.levels > 1:
        weights, levels = halving(case.levels), list(map(truth, case.parts, x, y))
        value = sum(w * level.value for w, level in zip(weights, levels))
        grad = torch.cat([w * level.grad.flatten() for w, level in zip(weights, levels)])
        return Truth(value, grad, None, 1.0, levels[0].source)
    value, grad = evaluate(plain.build(case), x, y)
    band, sign = tie_band(case, x, y), signs(case, y)
    reference = make_ours(case, "reference")
    ref_value, ref_grad = evaluate(reference.loss, x, own_target(case, y))
    check = compare(Truth(value, grad, band, sign, ""), ref_value, ref_grad, (1e-9, 1e-8))
    if not check.ok:
        raise ArithmeticError(f"{case.name}: the reference backend and plain torch disagree ({check.reason})")
    return Truth(ref_value, ref_grad, band, sign, "fastloss reference float64")


def judge(case: Case, contender: Contender, truth: Truth, x: Any) -> dict[str, Any]:
    """Judge one call for a record: who, with which errors, and `refused` with the reason if they are too large.

    fastloss must meet the limits of its dtype. A peer's formula is checked by `formula.same_formula`; how precisely it
    computes at full size is its own business (smp's float32 Dice is off by 1e-4 at 2 Mpx), so that its errors are
    recorded, and only nonsense is refused.
    """
    found = {"role": contender.role, "target": contender.dtype, "notes": contender.notes}
    loss, grads = contender.step(x)
    if contender.role == "other":
        return found
    limits = (LIMITS if contender.role.startswith("ours") else PEER_LIMITS)[case.dtype]
    grad = grads[0] if len(grads) == 1 else torch.cat([g.flatten() for g in grads])
    verdict = compare(truth, float(loss.detach()), grad, limits)
    found |= {"value_error": verdict.value_error, "grad_error": verdict.grad_error}
    return found if verdict.ok else found | {"refused": f"parity: {verdict.reason}"}

"""The k-th largest element and the weights of those that count: mirrors csrc/math/topk.h."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor


def _binary(number: int) -> str:
    return f"{number:b}"


_binary._dynamo_marked_constant = True  # torch.compile before 2.13 traces no such function of an int


def topk_count(k: Fraction, n: Tensor) -> Tensor:
    """max(1, floor(k n)) as int64, exact for every decimal k and without reading n on the host."""
    if k.denominator >= 2**62:
        return torch.ones_like(n)
    quotient, rest = torch.zeros_like(n), torch.zeros_like(n)
    whole, part = n // k.denominator, n % k.denominator
    for bit in _binary(k.numerator):  # long multiplication: the plain product overflows int64
        rest = 2 * rest
        quotient = 2 * quotient + (rest >= k.denominator)
        rest = rest % k.denominator
        if bit == "1":
            rest = rest + part
            quotient = quotient + whole + (rest >= k.denominator)
            rest = rest % k.denominator
    return quotient.clamp_min(1)


def topk_select(elements: Tensor, valid: Tensor, k: Fraction) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (weight of each element, threshold, weight of a tie, count); elements and valid are flat.

    The threshold is the count-th largest valid element: above it the weight is 1, and those equal to it share the rest.
    """
    e = elements.detach()
    n = valid.sum()
    count = topk_count(k, n)
    if e.numel() == 0:
        return torch.zeros_like(e), e.new_zeros(()), e.new_zeros(()), count
    ranked = torch.where(valid, e, torch.full_like(e, -torch.inf)).sort(descending=True).values
    threshold = ranked.gather(0, (count - 1).clamp_max(e.numel() - 1).reshape(1)).squeeze(0)
    threshold = torch.where(n > 0, threshold, torch.zeros_like(threshold))
    above = valid & (e > threshold)
    equal = valid & (e == threshold)
    tie = (count - above.sum()).to(e.dtype) / equal.sum().clamp_min(1).to(e.dtype)
    return above.to(e.dtype) + equal.to(e.dtype) * tie, threshold, tie, count

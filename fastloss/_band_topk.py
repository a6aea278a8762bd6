"""The threshold of top-k over elements that come in parts, digit by digit: the histograms of the parts add up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .distributed import DIGIT_BITS, _histogram, _ordered
from .reference.topk import topk_count
from .spec import AuxColumn

Parts = Callable[[], Iterable[tuple[Tensor, Tensor]]]  # (elements, which are valid), the same at each call


def threshold(k: Fraction | None, parts: Parts, dtype: torch.dtype, device: torch.device, group: Any) -> Tensor:
    """A row of aux, float64 [4]: the count (in one process of `group`, 0 in the others), the smallest selected element,
    the weight of those equal to it, and the count. `dtype` is that of the elements, float32 or float64."""
    assert k is not None
    left: Any = None  # how many are still to be found
    count = equal = number = prefix = left
    bits, taken = 8 * dtype.itemsize, 0
    while taken < bits:
        width = min(DIGIT_BITS, bits - taken)
        low = bits - taken - width
        histogram = torch.zeros(2**width, dtype=torch.int64, device=device)
        for elements, valid in parts():
            keys, alive = _ordered(elements.reshape(-1))[0], valid.reshape(-1)
            if taken:
                alive = alive & (((keys >> (low + width)) & (2**taken - 1)) == prefix)
            digits = torch.where(alive, (keys >> low) & (2**width - 1), 2**width)
            histogram += _histogram(digits, 2**width)
        if group is not None:
            dist.all_reduce(histogram, group=group)
        from_top = histogram.flip(0).cumsum(0).flip(0)
        if left is None:
            number, prefix = from_top[0], torch.zeros_like(from_top[0])
            count = left = topk_count(k, number)
        chosen = ((from_top >= left).sum() - 1).clamp_min(0)
        equal = histogram.gather(0, chosen.reshape(1)).squeeze(0)
        left = left - from_top.gather(0, chosen.reshape(1)).squeeze(0) + equal
        prefix, taken = (prefix << width) | chosen, taken + width
    tau = torch.where(number > 0, _value(prefix, bits == 64).double(), torch.inf)
    first = group is None or dist.get_rank(group) == 0
    return torch.stack([count.double() * first, tau, left.double() / equal.clamp_min(1), count.double()])


def share(elements: Tensor, valid: Tensor | None, aux: Tensor) -> Tensor:
    """The weight of each element: 1 above the threshold, at it what is left shared, else 0."""
    keys, _ = _ordered(elements)
    smallest, _ = _ordered(aux[AuxColumn.THRESHOLD].to(elements.dtype).reshape(1))
    tie, one = aux[AuxColumn.TIE_WEIGHT].to(elements.dtype), torch.ones_like(elements)
    weight = torch.where(keys > smallest, one, torch.where(keys == smallest, tie, 0 * one))
    return weight if valid is None else torch.where(valid, weight, torch.zeros_like(weight))


def _value(key: Tensor, wide: bool) -> Tensor:
    """The number of a key of `_ordered`."""
    if wide:
        signed = key ^ torch.iinfo(torch.int64).min
        return torch.where(signed < 0, signed ^ torch.iinfo(torch.int64).max, signed).view(torch.float64)
    most = torch.iinfo(torch.int32).max
    signed = (key - most - 1).to(torch.int32)
    return torch.where(signed < 0, signed ^ most, signed).view(torch.float32)

"""The generic path: sums, all-reduced if wanted, then the loss in differentiable PyTorch.

It runs for `process_group=` and for weight tensors that require a gradient; everything else stays in one fused op.
Top-k over processes: the threshold of the elements of all of them is found digit by digit, as in csrc/math/topk.h, with
the histogram of each digit all-reduced: three messages of 16 KB for float32, six for float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import reference
from .reference.topk import topk_count
from .spec import AUX_COLUMNS, FIXED_SUMS, AuxColumn, Spec, Term

DIGIT_BITS = 11  # kRadixBits of csrc/math/topk.h


class _Total(torch.autograd.Function):
    """Sum over the processes. Each process gets the gradient of its own part times their number, so that the mean over
    processes that DDP takes is the gradient on the concatenated batch."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Any) -> Tensor:
        ctx.processes = dist.get_world_size(group)
        total = part.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.processes, None


def total(part: Tensor, group: Any) -> Tensor:
    """The sum of `part` over the processes of `group` (True: the default group)."""
    check_ready()
    return _Total.apply(part, None if group is True else group)


def check_ready() -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("process_group needs torch.distributed.init_process_group() first, which was not called.")


def _pointwise(spec: Spec, term: Term, reduction: str) -> Term:
    """The term whose elements a top-k term selects from."""
    return replace(term, kind="ce" if spec.softmax else "bce", k=None, reduction=reduction, weight=1.0, weight_index=-1)


def elements_spec(spec: Spec) -> Spec | None:
    """The spec of the unreduced elements that the top-k terms select from, all from the same; None without such."""
    terms = [term for term in spec.terms if term.kind == "topk"]
    return Spec(spec.mode, (_pointwise(spec, terms[0], "none"),), spec.ignore_index) if terms else None


def summed_spec(spec: Spec) -> Spec:
    """What `sums` computes for a spec over several processes: no threshold of this process alone."""
    terms = [_pointwise(spec, term, "mean") if term.kind == "topk" else term for term in spec.terms]
    return replace(spec, terms=tuple(terms))


def put_topk(
    spec: Spec, sums: Tensor, aux: Tensor, elements: Tensor, valid: Tensor, group: Any
) -> tuple[Tensor, Tensor]:
    """`sums` and `aux` of `summed_spec`, with those of the top-k terms put in.

    Args:
        elements: of `elements_spec`, [N, C or 1, P], differentiable in the logits.
        valid: bool, broadcastable to them.
    """
    group = None if group is True else group
    # Denominators add up over processes: the first one brings the count of all.
    first = dist.get_rank(group) == 0
    columns = list(sums.unbind(-1))
    aux = aux.clone()
    for index, term in enumerate(spec.terms):
        if term.kind == "topk":
            assert term.k is not None
            share, count = _shares(elements.detach(), valid.expand_as(elements), partial(topk_count, term.k), group)
            column = (elements * share).sum(-1, dtype=sums.dtype)
            column = torch.nn.functional.pad(column, (0, sums.shape[1] - column.shape[1]))
            at = FIXED_SUMS + index
            spoilt = columns[at].detach() * 0  # NaN where a label is out of range
            columns[at] = spoilt + (column if len(sums) == len(column) else column.sum(0, keepdim=True))
            row = [count * 0] * AUX_COLUMNS
            row[AuxColumn.TOP_COUNT] = count
            row[AuxColumn.DENOMINATOR] = count if first else count * 0
            aux[index] = torch.stack(row)
    return torch.stack(columns, -1), aux


def _shares(elements: Tensor, valid: Tensor, counting: Callable[[Tensor], Tensor], group: Any) -> tuple[Tensor, Tensor]:
    """(weight of each element: 1 above the threshold of all processes, at it what is left shared, else 0; count)."""
    keys, bits = _ordered(elements.reshape(-1))
    alive = valid.reshape(-1)
    above = torch.zeros_like(alive)
    count = left = equal = keys.new_zeros(())
    high = bits
    while high:
        low = max(high - DIGIT_BITS, 0)
        width, high = high - low, low
        digit = (keys >> low) & (2**width - 1)
        histogram = _histogram(torch.where(alive, digit, 2**width), 2**width)
        dist.all_reduce(histogram, group=group)
        from_top = histogram.flip(0).cumsum(0).flip(0)
        if low + width == bits:
            count = left = counting(from_top[0])
        # The highest digit that the remaining elements reach; none if there is no valid element.
        chosen = (from_top >= left).sum() - 1
        higher = alive & (digit > chosen)
        above = above | higher
        alive = alive & (digit == chosen)
        at = chosen.clamp_min(0).reshape(1)
        equal = histogram.gather(0, at).squeeze(0)
        left = left - from_top.gather(0, at).squeeze(0) + equal
    tie = left.to(torch.float64) / equal.clamp_min(1)
    share = torch.where(alive, tie.to(elements.dtype), above.to(elements.dtype))
    return share.reshape(elements.shape), count.to(torch.float64)


def _ordered(values: Tensor) -> tuple[Tensor, int]:
    """(int64 keys from 0 on, larger for larger values, their bits); NaN has the largest."""
    wide = values.dtype == torch.float64
    bits = (values + 0).view(torch.int64 if wide else torch.int32)  # + 0: -0 and 0 are one value
    most = torch.iinfo(bits.dtype).max
    signed = torch.where(bits < 0, bits ^ most, bits)
    signed = torch.where(values.isnan(), torch.full_like(bits, most), signed)
    # int64 has no unsigned order: there the sign bit is flipped, and digits are masked after the shift.
    return (signed ^ torch.iinfo(torch.int64).min, 64) if wide else (signed.long() + most + 1, 32)


def _histogram(digits: Tensor, bins: int) -> Tensor:
    """Counts of 0 to bins - 1; what equals `bins` is not counted. No host synchronisation on CUDA."""
    if digits.device.type == "cuda":
        return torch.histc(digits, bins + 1, 0, bins + 1)[:bins].clone()
    return torch.bincount(digits, minlength=bins + 1)[:bins].clone()


def finish(
    spec: Spec, x: Tensor, sums: Tensor, aux: Tensor, weights: list[Tensor], group: Any = None
) -> tuple[Tensor, Tensor]:
    """(loss, values [T]) from the sums of this process; the loss is that of all processes of `group`."""
    reduce = None if group is None else partial(total, group=group)
    loss, values = reference.finalize(spec, sums, aux, weights, reduce)
    return loss.to(torch.float64 if x.dtype == torch.float64 else torch.float32), values

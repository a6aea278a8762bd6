"""The oracle: every loss in plain differentiable PyTorch, on any device, in float64 for float64 logits.

Two steps, as in the kernels: `sums` reads the inputs once, `finalize` turns the sums into the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..spec import AUX_COLUMNS, FIXED_SUMS, AuxColumn, Spec, SumColumn, Term
from . import pointwise, region, topk
from .inputs import Inputs, constants, per_pixel, prepare, select, signed


def accumulator(x: Tensor) -> torch.dtype:
    """float64, but for devices that have none."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def channel_vector(term: Term, x: Tensor, softmax: bool) -> Tensor | None:
    """The per-channel parameter of a pointwise term as [1, C or 1, 1]."""
    vector = term.per_class(x.shape[1], softmax)
    return constants(vector, x).reshape(1, -1, 1) if vector else None


def elements(spec: Spec, term: Term, inputs: Inputs) -> Tensor:
    """Unreduced values of a pointwise term with pixel weights, 0 where invalid: [N, C, P], or [N, 1, P] (softmax)."""
    i, vector = inputs, channel_vector(term, inputs.x, spec.softmax)
    if spec.softmax:
        assert i.log_p is not None
        target = i.y if i.class_indices is None else i.class_indices
        if term.kind == "focal":
            value = pointwise.focal_multiclass(i.log_p, target, term.gamma, vector)
        elif term.kind == "poly":
            value = pointwise.poly_multiclass(i.log_p, target, term.eps, vector, term.label_smoothing)
        elif term.kind == "log_power":
            value = pointwise.log_power_multiclass(i.log_p, target, term.gamma, vector)
        elif term.kind in ("boundary", "wasserstein"):
            value = pointwise.linear_multiclass(i.p, target, vector)
        else:
            value = pointwise.ce(i.log_p, target, vector, term.label_smoothing)
    elif term.kind == "focal":
        focal = pointwise.focal_margin if term.margin else pointwise.focal_binary
        value = focal(i.x, i.y, term.gamma, vector)
    elif term.kind == "poly":
        value = pointwise.poly_binary(i.x, i.y, term.eps, vector, term.label_smoothing)
    elif term.kind == "log_power":
        value = pointwise.log_power_binary(i.x, i.y, term.gamma, vector)
    elif term.kind == "boundary":
        value = pointwise.linear_binary(i.p, i.y, vector)
    else:
        value = pointwise.bce(i.x, i.y, vector, term.label_smoothing)
    if i.weight is not None:
        value = value * i.weight
    return torch.where(i.valid, value, torch.zeros_like(value))


def denominator(term: Term, inputs: Inputs, n: Tensor) -> Tensor:
    """What the mean of a pointwise term divides by: the number n of valid elements, or the sum of their class weights
    (cross-entropies on class indices, as torch); 0-d."""
    vector = channel_vector(term, inputs.x, inputs.log_p is not None)
    if not term.weighted_mean or vector is None or inputs.class_indices is None:
        return n
    weights = vector.expand_as(inputs.y).gather(1, inputs.class_indices)
    return torch.where(inputs.valid, weights, torch.zeros_like(weights)).sum(dtype=n.dtype)


def sums(
    spec: Spec, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Read the inputs once; return (sums [G, C, FIXED_SUMS + T], aux [T, AUX_COLUMNS]) in float64.

    G is N if a term takes each sample by itself, else 1; columns: `spec.SumColumn` and `spec.AuxColumn`.
    """
    i = prepare(spec, x, y, mask, pixel_weight)
    dtype = accumulator(x)
    regions = [term for term in spec.terms if term.region]
    valid = i.valid.expand_as(i.x)
    zero = torch.zeros(i.x.shape[:2], dtype=dtype, device=x.device)
    columns = [zero] * FIXED_SUMS
    columns[SumColumn.VALID] = valid.sum(-1).to(dtype)
    if any([not t.l1 for t in regions]):
        columns[SumColumn.INTER] = (i.p * i.y).sum(-1, dtype=dtype)
    if regions:
        columns[SumColumn.PRED], columns[SumColumn.TARGET] = i.p.sum(-1, dtype=dtype), i.y.sum(-1, dtype=dtype)
    if any([t.squared for t in regions]):
        columns[SumColumn.PRED_SQ] = (i.p * i.p).sum(-1, dtype=dtype)
        columns[SumColumn.TARGET_SQ] = (i.y * i.y).sum(-1, dtype=dtype)
    if any([t.crossed for t in regions]):
        columns[SumColumn.PRED_SQ_TARGET] = (i.p * i.p * i.y).sum(-1, dtype=dtype)
    if any([t.l1 for t in regions]):
        columns[SumColumn.ABS_DIFF] = (i.p - i.y).abs().sum(-1, dtype=dtype)
    n = (i.valid if spec.softmax else valid).sum().to(dtype)
    aux = []
    for term in spec.terms:
        row = [n * 0] * AUX_COLUMNS
        row[AuxColumn.DENOMINATOR] = n
        if term.region:
            columns.append(zero)
        else:
            value = elements(spec, term, i)
            row[AuxColumn.DENOMINATOR] = denominator(term, i, n)
            if term.kind == "topk":
                assert term.k is not None
                share, threshold, tie, count = topk.topk_select(
                    value.reshape(-1), i.valid.expand_as(value).reshape(-1), term.k
                )
                value = value * share.reshape(value.shape)
                row = [t.to(dtype) for t in (count, threshold, tie, count)]
            column = value.sum(-1, dtype=dtype)
            columns.append(torch.cat([column, zero[:, 1:]], 1) if spec.softmax else column)
        aux.append(torch.stack(row))
    table = torch.stack(columns, -1)
    table = table if spec.per_sample else table.sum(0, keepdim=True)
    if not spec.terms:  # every weight was 0: the loss still has a gradient, of 0
        table = table + torch.where(torch.zeros_like(valid), i.x, torch.zeros_like(i.x)).sum()
    table = torch.where(i.bad, torch.full_like(table, torch.nan), table)
    return table, torch.stack(aux).detach() if aux else n.new_zeros((0, AUX_COLUMNS))


def finalize(
    spec: Spec,
    table: Tensor,
    aux: Tensor,
    weights: list[Tensor],
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """(loss, value of each term [T]) from what `sums` returns.

    `reduce` maps the one vector of everything that adds up over processes (pooled sums, denominators, per-sample losses
    and their number) to its total.
    """
    pooled = table.sum(0)
    denominators = aux[:, AuxColumn.DENOMINATOR]
    samples = [
        region.region_term(table, term) if term.region and not term.batch else (denominators[0] * 0,) * 2
        for term in spec.terms
    ]
    if reduce is not None:
        flat = [pooled.reshape(-1), denominators, *[part.reshape(1) for pair in samples for part in pair]]
        total = reduce(torch.cat(flat))
        head = pooled.numel()
        pooled, rest = total[:head].reshape(pooled.shape), total[head:]
        count = len(spec.terms)
        denominators = rest[:count]
        samples = [(rest[count + 2 * i], rest[count + 2 * i + 1]) for i in range(count)]
    values = []
    for index, term in enumerate(spec.terms):
        if term.region:
            value, count = region.region_term(pooled[None], term) if term.batch else samples[index]
        else:
            value = pooled[:, FIXED_SUMS + index].sum()
            count = denominators[index] if term.reduction == "mean" else torch.ones_like(value)
        safe = torch.where(count == 0, torch.ones_like(count), count)
        values.append(torch.where(count == 0, value * 0, value / safe))
    loss = pooled.sum() * 0 if not values else values[0].new_zeros(())
    for term, value in zip(spec.terms, values):
        loss = loss + weigh(term, value, weights)
    return loss, torch.stack(values).detach() if values else loss.new_zeros(0).detach()


def weigh(term: Term, value: Tensor, weights: list[Tensor]) -> Tensor:
    """The weighted term; a term whose weight tensor is 0 is skipped even if its value is not finite."""
    if term.weight_index < 0:
        return term.weight * value
    weight = weights[term.weight_index].to(value.dtype)
    skipped = (weight.detach() == 0) & ~torch.isfinite(value.detach())
    return term.weight * weight * torch.where(skipped, torch.zeros_like(value), value)


def counts(spec: Spec, x: Tensor, y: Tensor, mask: Tensor | None = None, threshold: float = 0.5) -> Tensor:
    """int64 [N, C, 4]: tp, fp, fn, tn of the valid elements, predicted by x >= logit(threshold) or argmax (softmax)."""
    x = x.detach()
    y = signed(per_pixel(y.detach(), x))
    valid = select(spec, y, mask if mask is None else per_pixel(mask, x))
    flat = per_pixel(x, x)
    channels = flat.shape[1]
    if spec.softmax:
        every = torch.arange(channels, device=x.device).reshape(1, -1, 1)
        classes = y.argmax(1, keepdim=True) if y.is_floating_point() else y.long()
        truth = classes == every
        predicted = flat.argmax(1, keepdim=True) == every
    else:
        predicted = flat.to(accumulator(x)) >= logit(threshold)  # a half would round that
        truth = y.bool() if y.dtype == torch.bool else y >= 0.5
    valid = valid.expand_as(flat)
    tp, fp, fn = valid & predicted & truth, valid & predicted & ~truth, valid & ~predicted & truth
    tn = valid & ~predicted & ~truth
    return torch.stack([t.sum(-1) for t in (tp, fp, fn, tn)], -1)


def logit(p: float) -> float:
    if p <= 0.0 or p >= 1.0:
        return -math.inf if p <= 0.0 else math.inf
    return math.log(p) - math.log1p(-p)


def loss(
    spec: Spec,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    pixel_weight: Tensor | None,
    weights: list[Tensor],
    want_stats: bool = False,
    threshold: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(loss 0-d, values [T] float64 detached, counts [N, C, 4] or None)."""
    total, values = finalize(spec, *sums(spec, x, y, mask, pixel_weight), weights)
    total = total.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    return total, values, counts(spec, x, y, mask, threshold) if want_stats else None


def elementwise(spec: Spec, x: Tensor, y: Tensor, mask: Tensor | None, pixel_weight: Tensor | None) -> Tensor:
    """reduction="none": x's shape (binary, multilabel) or [N, *S] (multiclass), times the term's weight."""
    i = prepare(spec, x, y, mask, pixel_weight)
    value = spec.terms[0].weight * elements(spec, spec.terms[0], i)
    value = torch.where(i.bad, torch.full_like(value, torch.nan), value)
    return value.reshape(x.shape[0], *x.shape[2:]) if spec.softmax else value.reshape(x.shape)

"""The ops of the backend: which kernels run, on which memory. Schemas and the layout of `state`: fastloss/_registry.py.

Everything that a kernel must find is allocated by torch on the current stream, no number comes back to the host, and
what runs depends on shapes and the spec alone; so a call can be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._ops import WANT_COUNTS, WANT_GRAD
from .call import Call
from .layout import AUX_COLUMNS, plan_of, require


def _checked_weights(plan, weights: list[Tensor]) -> tuple[Tensor, ...]:
    require(plan.weights <= len(weights), "a term names a weight that is not there")
    for weight in weights:
        _scalar(weight)
    return tuple(weights)


def _scalar(t: Tensor) -> Tensor:
    good = t.numel() == 1 and t.dtype in (torch.float32, torch.float64)
    require(good, "a weight or an upstream gradient must be a 0-d tensor of float32 or float64")
    return t


def loss(x, y, mask, pixel_weight, weights, ints, floats, want, threshold, upstream, predicted=None):
    grad = torch.empty_like(x) if want & WANT_GRAD else x.new_empty((0,))
    call = Call(x, y, mask, pixel_weight, ints, floats, grad if want & WANT_GRAD else None)
    plan, counts = call.plan, call.samples * call.channels * 4 if want & WANT_COUNTS else 0
    weights = _checked_weights(plan, weights)
    aux_at, dsums_at = plan.count, plan.count * (1 + AUX_COLUMNS)
    counts_at = dsums_at + call.size
    state = call.doubles(counts_at + counts + 1)
    value = torch.empty((), dtype=torch.float64 if call.wide else torch.float32, device=x.device)
    scale = predicted if predicted is None else _scalar(predicted)
    if scale is None and upstream != 1.0:
        scale = torch.full((), upstream, dtype=torch.float64, device=x.device)
    if not call.elements:
        state.zero_()
        return value.zero_(), state, grad
    call.select(state, aux_at)
    # Without masks, region terms and top-k the denominators are known: one kernel does it all.
    known = not (plan.region or plan.topk or call.masked or (plan.weighted and call.ids))
    partial = call.doubles(call.programs * (call.channels if plan.softmax else 1) * plan.columns)
    sums = call.doubles(call.size)
    out, call.arrays[4] = call.arrays[4], call.arrays[4] if known else (None, *call.arrays[4][1:])
    call.run_pass(state, aux_at, dsums_at, weights, upstream=scale, partial=partial)
    call.arrays[4] = out
    call.combine(partial, sums, 0, plan.columns, call.groups)
    call.finalize(sums, state, state, aux_at, value, weights, scale)
    if want & WANT_GRAD and not known:
        call.run_pass(state, aux_at, dsums_at, upstream=scale)
    if counts:
        Call(x, y, mask, None, ints, floats, merge=False).counts(state, counts_at, threshold)
    return value, state, grad


def backward(upstream, state, x, y, mask, pixel_weight, ints, floats):
    grad = torch.empty_like(x)
    _gradient(upstream, grad, None, None, state, x, y, mask, pixel_weight, ints, floats)
    return grad


def settle(upstream, grad, predicted, state, x, y, mask, pixel_weight, ints, floats):
    require(grad.dtype is x.dtype, "settle got a gradient that is not of these logits")
    good = predicted is None or (predicted.numel() == 1 and predicted.dtype is torch.float64)
    require(good, "predicted must be a 0-d float64 tensor beside the logits")
    _gradient(upstream, grad, state[-1:], predicted, state, x, y, mask, pixel_weight, ints, floats)


def _gradient(upstream, grad, before, predicted, state, x, y, mask, pixel_weight, ints, floats):
    call = Call(x, y, mask, pixel_weight, ints, floats, grad)
    aux_at, dsums_at = call.plan.count, call.plan.count * (1 + AUX_COLUMNS)
    good = state.dtype is torch.float64 and state.is_contiguous() and state.numel() >= dsums_at + call.size
    require(good, "backward got a state that is not of this loss")
    if call.elements:
        call.run_pass(state, aux_at, dsums_at, upstream=_scalar(upstream), before=before, predicted=predicted)


def sums(x, y, mask, pixel_weight, ints, floats):
    call = Call(x, y, mask, pixel_weight, ints, floats)
    plan = call.plan
    out = call.doubles(call.groups, call.channels, plan.columns)
    aux = call.doubles(plan.count, AUX_COLUMNS)
    if not call.elements:
        return out.zero_(), aux.zero_()
    call.select(aux.view(-1), 0)
    partial = call.doubles(call.programs * (call.channels if plan.softmax else 1) * plan.columns)
    call.run_pass(aux, 0, 0, partial=partial)
    call.combine(partial, out, 0, plan.columns, call.groups)
    call.finalize(out, None, aux, 0)
    return out, aux


def elementwise(x, y, mask, pixel_weight, ints, floats):
    plan = plan_of(tuple(ints), tuple(floats))
    good = plan.count == 1 and len(plan.pixel_terms) == 1 and not plan.topk
    require(good, "elementwise takes a single pointwise term")
    shape = (x.shape[0], *x.shape[2:]) if plan.softmax else x.shape
    out = torch.empty(shape, dtype=torch.float64 if x.dtype is torch.float64 else torch.float32, device=x.device)
    call = Call(x, y, mask, pixel_weight, ints, floats, out, out_channels=not plan.softmax)
    if call.elements:
        call.elements_into(None, None, plan.pixel_terms[0])
    return out

"""The ops of the backend: which kernels run, on which memory. Schemas: fastloss/_registry.py; `state`: spec.Layout.

Everything that a kernel must find is allocated by torch on the current stream, no number comes back to the host, and
what runs depends on shapes and the spec alone; so a call can be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..spec import AUX_COLUMNS, COUNTS, WANT_COUNTS, WANT_GRAD
from .call import KernelCall
from .kernel_spec import kernel_spec_of
from .layout import require


def _checked_weights(spec, weights: list[Tensor]) -> tuple[Tensor, ...]:
    require(spec.weights <= len(weights), "a term names a weight that is not there")
    for weight in weights:
        _scalar(weight)
    return tuple(weights)


def _scalar(t: Tensor) -> Tensor:
    good = t.numel() == 1 and t.dtype in (torch.float32, torch.float64)
    require(good, "a weight or a gradient of the loss must be a 0-d tensor of float32 or float64")
    return t


def loss(x, y, mask, pixel_weight, weights, ints, floats, want, threshold, grad_output, predicted=None):
    grad = torch.empty_like(x) if want & WANT_GRAD else x.new_empty((0,))
    call = KernelCall(x, y, mask, pixel_weight, ints, floats, grad if want & WANT_GRAD else None)
    spec, layout = call.spec, call.layout
    counts = call.samples * call.channels * COUNTS if want & WANT_COUNTS else 0
    weights = _checked_weights(spec, weights)
    state = call.doubles(layout.counts_at + counts + 1)
    value = torch.empty((), dtype=torch.float64 if call.wide else torch.float32, device=x.device)
    scale = predicted if predicted is None else _scalar(predicted)
    if scale is None and grad_output != 1.0:
        scale = torch.full((), grad_output, dtype=torch.float64, device=x.device)
    if not call.elements:
        state.zero_()
        return value.zero_(), state, grad
    at = layout.aux_at, layout.grad_sums_at
    call.select(state, layout.aux_at)
    # Without masks, region terms and top-k the denominators are known: one kernel does it all.
    known = not (spec.region or spec.topk or call.masked or (spec.weighted and call.indices))
    partial = call.doubles(call.programs * (call.channels if spec.softmax else 1) * spec.columns)
    sums = call.doubles(layout.groups * layout.channels * layout.columns)
    out, call.arrays[4] = call.arrays[4], call.arrays[4] if known else (None, *call.arrays[4][1:])
    call.run_pass(state, *at, weights, grad_output=scale, partial=partial)
    call.arrays[4] = out
    call.combine(partial, sums, 0, spec.columns, layout.groups)
    call.finalize(sums, state, state, layout.aux_at, value, weights, scale)
    if want & WANT_GRAD and not known:
        call.run_pass(state, *at, grad_output=scale)
    if counts:
        counting = KernelCall(x, y, mask, None, ints, floats, merge=False)
        counting.counts(state, layout.counts_at, threshold)
    return value, state, grad


def backward(grad_output, state, x, y, mask, pixel_weight, ints, floats):
    grad = torch.empty_like(x)
    _gradient(grad_output, grad, None, None, state, x, y, mask, pixel_weight, ints, floats)
    return grad


def rescale_grad(grad_output, grad, predicted, state, x, y, mask, pixel_weight, ints, floats):
    require(grad.dtype is x.dtype, "rescale_grad got a gradient that is not of these logits")
    good = predicted is None or (predicted.numel() == 1 and predicted.dtype is torch.float64)
    require(good, "predicted must be a 0-d float64 tensor beside the logits")
    _gradient(grad_output, grad, state[-1:], predicted, state, x, y, mask, pixel_weight, ints, floats)


def _gradient(grad_output, grad, before, predicted, state, x, y, mask, pixel_weight, ints, floats):
    call = KernelCall(x, y, mask, pixel_weight, ints, floats, grad)
    layout = call.layout
    good = state.dtype is torch.float64 and state.is_contiguous() and state.numel() >= layout.counts_at
    require(good, "backward got a state that is not of this loss")
    if call.elements:
        call.run_pass(
            state, layout.aux_at, layout.grad_sums_at,
            grad_output=_scalar(grad_output), before=before, predicted=predicted,
        )  # fmt: skip


def sums(x, y, mask, pixel_weight, ints, floats):
    call = KernelCall(x, y, mask, pixel_weight, ints, floats)
    spec, layout = call.spec, call.layout
    out = call.doubles(layout.groups, layout.channels, layout.columns)
    aux = call.doubles(layout.terms, AUX_COLUMNS)
    if not call.elements:
        return out.zero_(), aux.zero_()
    call.select(aux.view(-1), 0)
    partial = call.doubles(call.programs * (call.channels if spec.softmax else 1) * spec.columns)
    call.run_pass(aux, 0, 0, partial=partial)
    call.combine(partial, out, 0, spec.columns, layout.groups)
    call.finalize(out, None, aux, 0)
    return out, aux


def elementwise(x, y, mask, pixel_weight, ints, floats):
    spec = kernel_spec_of(tuple(ints), tuple(floats))
    good = spec.count == 1 and len(spec.pixel_terms) == 1 and not spec.topk
    require(good, "elementwise takes a single pointwise term")
    shape = (x.shape[0], *x.shape[2:]) if spec.softmax else x.shape
    out = torch.empty(shape, dtype=torch.float64 if x.dtype is torch.float64 else torch.float32, device=x.device)
    call = KernelCall(x, y, mask, pixel_weight, ints, floats, out, out_channels=not spec.softmax)
    if call.elements:
        call.elements_into(None, None, spec.pixel_terms[0])
    return out

"""The ops of the backend: which kernels run, on which memory. Schemas: fastloss/_registry.py; `state`: spec.Layout.

Everything that a kernel must find is allocated by torch on the current stream, no number comes back to the host, and
what runs depends on shapes and the spec alone; so a call can be captured in a CUDA graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..spec import AUX_COLUMNS, COUNTS, WANT_COUNTS, WANT_GRAD
from .call import call_of
from .counting import count
from .kernel_spec import kernel_spec_of
from .launch import elsewhere, stream_of
from .layout import require
from .selection import select


def _at_home(op: Callable[..., Any]) -> Callable[..., Any]:
    """The op, with the device of its inputs as the current one."""

    @functools.wraps(op)
    def on_its_device(x, *rest):
        if elsewhere(x.device):
            with torch.cuda.device(x.device):
                return op(x, *rest)
        return op(x, *rest)

    return on_its_device


def _checked_weights(spec, weights: list[Tensor]) -> tuple[Tensor, ...]:
    require(spec.weights <= len(weights), "a term names a weight that is not there")
    for weight in weights:
        _scalar(weight)
    return tuple(weights)


def _scalar(t: Tensor) -> Tensor:
    good = t.numel() == 1 and t.dtype in (torch.float32, torch.float64)
    require(good, "a weight or a gradient of the loss must be a 0-d tensor of float32 or float64")
    return t


@_at_home
def loss(x, y, mask, pixel_weight, weights, ints, floats, want, threshold, grad_output, predicted=None):
    spec = kernel_spec_of(tuple(ints), tuple(floats))
    grad = torch.empty_like(x) if want & WANT_GRAD else None
    call = call_of(spec, x, y, mask, pixel_weight, grad)
    layout, device = call.layout, x.device
    counts = call.samples * call.channels * COUNTS if want & WANT_COUNTS else 0
    weights = _checked_weights(spec, weights) if weights or spec.weights else ()
    state = call.doubles(layout.counts_at + counts + 1)
    value = torch.empty((), dtype=torch.float64 if call.wide else torch.float32, device=device)
    scale = predicted if predicted is None else _scalar(predicted)
    if scale is None and grad_output != 1.0:
        scale = torch.full((), grad_output, dtype=torch.float64, device=device)
    if call.elements:
        stream, inputs, numbers = stream_of(device), (x, y, mask, pixel_weight), call.numbers()
        at = layout.aux_at, layout.grad_sums_at
        select(call, stream, inputs, numbers, state, layout.aux_at)
        rows = call.rows * spec.columns
        partial = call.doubles(rows + 1 + layout.counts_at - layout.grad_sums_at)
        early = {"weights": weights, "grad_output": scale, "out": grad} if grad is not None and call.known else {}
        call.run_pass(stream, inputs, state, at, numbers, partial=partial, **early)
        call.finish(stream, partial, partial, rows + 1, numbers, state, state, layout.aux_at, value, weights, scale)
        if grad is not None and not call.known:
            call.run_pass(stream, inputs, state, at, numbers, grad_output=scale, out=grad)
        if counts:
            count(call_of(spec, x, y, mask, merge=False), stream, inputs, state, layout.counts_at, threshold)
    else:
        state.zero_()
        value.zero_()
    return value, state, x.new_empty((0,)) if grad is None else grad


def backward(grad_output, state, x, y, mask, pixel_weight, ints, floats):
    grad = torch.empty_like(x)
    _gradient(x, y, mask, pixel_weight, ints, floats, state, grad_output, grad, None, None)
    return grad


def rescale_grad(grad_output, grad, predicted, state, x, y, mask, pixel_weight, ints, floats):
    require(grad.dtype is x.dtype, "rescale_grad got a gradient that is not of these logits")
    good = predicted is None or (predicted.numel() == 1 and predicted.dtype is torch.float64)
    require(good, "predicted must be a 0-d float64 tensor beside the logits")
    _gradient(x, y, mask, pixel_weight, ints, floats, state, grad_output, grad, state[-1:], predicted)


@_at_home
def _gradient(x, y, mask, pixel_weight, ints, floats, state, grad_output, grad, before, predicted):
    call = call_of(kernel_spec_of(tuple(ints), tuple(floats)), x, y, mask, pixel_weight, grad)
    layout = call.layout
    good = state.dtype is torch.float64 and state.is_contiguous() and state.numel() >= layout.counts_at
    require(good, "backward got a state that is not of this loss")
    if call.elements:
        call.run_pass(
            stream_of(x.device), (x, y, mask, pixel_weight), state, (layout.aux_at, layout.grad_sums_at),
            call.numbers(), grad_output=_scalar(grad_output), before=before, predicted=predicted, out=grad,
        )  # fmt: skip


@_at_home
def sums(x, y, mask, pixel_weight, ints, floats):
    spec = kernel_spec_of(tuple(ints), tuple(floats))
    call = call_of(spec, x, y, mask, pixel_weight)
    layout, inputs, stream = call.layout, (x, y, mask, pixel_weight), stream_of(x.device)
    out = call.doubles(layout.groups, layout.channels, layout.columns)
    aux = call.doubles(layout.terms, AUX_COLUMNS)
    if not call.elements:
        return out.zero_(), aux.zero_()
    numbers = call.numbers()
    select(call, stream, inputs, numbers, aux.view(-1), 0)
    partial = call.doubles(call.rows * spec.columns + 1)
    call.run_pass(stream, inputs, aux, (0, 0), numbers, partial=partial)
    call.finish(stream, partial, out, 0, numbers, None, aux, 0)
    return out, aux


@_at_home
def elementwise(x, y, mask, pixel_weight, ints, floats):
    spec = kernel_spec_of(tuple(ints), tuple(floats))
    good = spec.count == 1 and len(spec.pixel_terms) == 1 and not spec.topk
    require(good, "elementwise takes a single pointwise term")
    shape = (x.shape[0], *x.shape[2:]) if spec.softmax else x.shape
    out = torch.empty(shape, dtype=torch.float64 if x.dtype is torch.float64 else torch.float32, device=x.device)
    call = call_of(spec, x, y, mask, pixel_weight, out, out_channels=not spec.softmax)
    if call.elements:
        inputs = x, y, mask, pixel_weight
        call.elements_into(stream_of(x.device), inputs, out, None, None, call.numbers(), spec.pixel_terms[0])
    return out

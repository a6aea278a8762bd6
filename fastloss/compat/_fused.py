"""The drop-in losses' way to the kernels: specs made for a number of channels, the call, and the sums for what no term
says. Nothing here checks settings: the originals take any number, and so do the kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._modes import hidden, transformed
from .._registry import state_of
from ..explanation import noted
from ..plan import Plan, plan
from ..reference.inputs import signed
from ..spec import Spec, Term
from ._base import TargetError
from ._linear import Call, Linear

TINY = 1e-300  # smallest denominator where the original has none


def make_plan(mode: str, *terms: Term, ignore_index: int | None = None) -> Plan:
    return plan(Spec(mode, terms, ignore_index))


def make_linear(mode: str, *terms: Term, ignore_index: int | None = None) -> Linear:
    return Linear(mode, terms, ignore_index)


def run(call: Call) -> Tensor:
    """Compute a loss that is one call, by itself."""
    value = run_plan(call.loss.plan, *call.inputs())
    return value if call.factor == 1.0 else value * call.factor


def run_plan(
    ready: Plan, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None
) -> Tensor:
    """Compute a plan. Shapes have been fitted before, so what the kernels still refuse is a target out of range."""
    if torch.compiler.is_compiling():
        return ready.run(x, y, mask, pixel_weight)[0]
    try:
        return ready.run(x, y, mask, pixel_weight)[0]
    except ValueError as error:
        raise TargetError(str(error)) from None


def run_sums(
    ready: Plan,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    finalize: Callable[[Tensor], Tensor],
    with_grads: Callable[[Tensor, Tensor], Tensor] | None = None,
    counted: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return finalize(sums [N or 1, C, FIXED_SUMS + T]), differentiable in x; the sums are float64.

    `with_grads` gives the same value and writes its derivatives by the sums into its second argument, zeros of their
    shape, where these are known in closed form: much less work for a small input. No term is pointwise then. A loss
    that is no scalar has one value for each class of counted(sums).
    """
    if torch.compiler.is_compiling() or noted.calls is not None:
        return finalize(ready.sums(x, y, mask)[0])
    try:
        if transformed(x, y) or hidden(x):
            return finalize(ready.sums(x, y, mask)[0])
        backend, _, ints, floats = ready.route(x, y, mask, None)
        if backend == "reference" or not (x.requires_grad and torch.is_grad_enabled()):
            return finalize(ready.sums(x, y, mask)[0])
        ready.check(backend, x, y, mask)
        ops = getattr(torch.ops, f"fastloss_{backend}")
        if with_grads is not None:
            return _WithGrads.apply(x, y, mask, ops, ints, floats, with_grads, counted)
        return _Differentiated.apply(x, y, mask, ops, ints, floats, finalize)
    except ValueError as error:
        raise TargetError(str(error)) from None


class _WithGrads(torch.autograd.Function):
    """The sums and a function of them whose derivatives are known with its value."""

    @staticmethod
    def forward(ctx, x, y, mask, ops, ints, floats, with_grads, counted):
        with torch._C._AutoDispatchBelowAutograd():  # a dozen operations on tiny tensors: each is quicker so
            table, aux = ops.sums.default(x, y, mask, None, ints, floats)
            begin = aux.shape[0] + aux.numel()  # what backward reads there is of pointwise terms
            state = table.new_zeros(begin + table.numel())
            loss = with_grads(table, state.as_strided(table.shape, table.stride(), begin))
        ctx.ops, ctx.ints, ctx.floats, ctx.counted, ctx.shape = ops, ints, floats, counted, table.shape
        ctx.save_for_backward(x, y, mask, state)
        return loss

    @staticmethod
    def backward(ctx, grad_output):
        x, y, mask, state = ctx.saved_tensors
        if grad_output.ndim:
            state = state + torch.zeros_like(grad_output).sum()  # a copy, of as many as grad_output may be (vmap)
            classes = ctx.counted(state[-ctx.shape.numel() :].view(ctx.shape))
            classes *= _detached(grad_output).reshape(*classes.shape[:-2], -1, 1)
            grad_output = state.new_ones(())
        call = ctx.ops.backward.default, (grad_output, state, x, y, mask, None, ctx.ints, ctx.floats)
        if torch.is_grad_enabled() or hidden(grad_output):  # create_graph: the op's own gradient raises
            return call[0](*call[1]), *(None,) * 7
        with torch._C._AutoDispatchBelowAutograd():
            return call[0](*call[1]), *(None,) * 7


class _Differentiated(torch.autograd.Function):
    """The sums and what becomes of them as one node: the small tensors' own graph is walked inside."""

    @staticmethod
    def forward(ctx, x, y, mask, ops, ints, floats, finalize):
        with torch._C._AutoDispatchBelowAutograd():
            table, aux = ops.sums.default(x, y, mask, None, ints, floats)
        with torch.enable_grad():
            ctx.table = table.requires_grad_()
            ctx.loss = finalize(table)
        ctx.ops, ctx.ints, ctx.floats = ops, ints, floats
        ctx.save_for_backward(x, y, mask, aux)
        return ctx.loss.detach()

    @staticmethod
    def backward(ctx, grad_output):
        x, y, mask, aux = ctx.saved_tensors
        with torch.enable_grad():
            (grad_sums,) = torch.autograd.grad(ctx.loss, ctx.table, _detached(grad_output), retain_graph=True)
        state = state_of(aux, grad_sums)
        call = ctx.ops.backward.default, (aux.new_ones(()), state, x, y, mask, None, ctx.ints, ctx.floats)
        if torch.is_grad_enabled() or hidden(grad_output):  # create_graph: the op's own gradient raises
            return call[0](*call[1]), *(None,) * 6
        with torch._C._AutoDispatchBelowAutograd():
            return call[0](*call[1]), *(None,) * 6


def _detached(grad_output: Tensor) -> Tensor:
    return grad_output.detach() if grad_output.requires_grad else grad_output


def value_of(loss: Tensor, x: Tensor) -> Tensor:
    """What was made from float64 sums, in the type that fused losses have: float32, float64 for float64 logits."""
    return loss if x.dtype == torch.float64 else loss.float()


def volume(x: Tensor) -> Tensor:
    """x [N, C, *] with one to three spatial axes."""
    if 3 <= x.ndim <= 5:
        return x
    return x.unsqueeze(-1) if x.ndim == 2 else x.flatten(2)


def one_hot(indices: Tensor, channels: int) -> Tensor:
    """bool [N, C, *S] of class indices [N, 1, *S]: a byte an element."""
    every = torch.arange(channels, device=indices.device).reshape(1, -1, *[1] * (indices.ndim - 2))
    return signed(indices) == every

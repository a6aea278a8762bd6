"""The calls of the ops that the rest of the package makes, and eager autograd.

Two ways to the gradient. Eager float32 and float64 (on devices bfloat16 too) write it in forward, scaled by the
gradient of the loss (`grad_output`) that this spec saw last (1 at first); the first backward hands that buffer over if
the guess was right. Everything else (half types, a wrong guess, a second backward over a retained graph, torch.compile)
computes it in backward from the inputs, with `grad_output` inside, so that half gradients are scaled before they are
rounded. Both give the same bits.

On a device nobody may wait for a number, so the guess lives there too: a 0-d tensor for each spec and stream, which
forward multiplies by and the op `rescale_grad` compares with `grad_output`, computing the gradient anew if it differs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _library, triton
from ._modes import hidden
from ._registry import BACKWARD, LOSS, REGISTERED, RESCALE
from .spec import COUNTS, WANT_COUNTS, WANT_GRAD, Header, Spec, Term, encode, layout_of

_compiling = torch.compiler.is_compiling
_below_autograd = torch._C._AutoDispatchBelowAutograd
# Identity of a spec's encoding, shape of x -> the grad_output seen last; levels of a pyramid differ in shape.
_expected: dict[tuple[int, torch.Size], float] = {}
_EXPECTATIONS = 4096
_NO_GRADIENTS = (None,) * 10  # of the arguments of the functions below


def available(backend: str) -> str | None:
    """None if the backend's ops can run here, else why not. Asks the driver, but takes no CUDA context."""
    if backend == "cpu":
        return _library.reason()
    if backend == "cuda":
        return _library.cuda_reason()
    return triton.reason()


_LOSS, _BACKWARD, _RESCALE = [
    table | {"triton": triton.direct(name, table["triton"])}
    for name, table in (("loss", LOSS), ("backward", BACKWARD), ("rescale_grad", RESCALE))
]


def is_early(backend: str, x: Tensor, mask: Tensor | None, ints: list[int]) -> bool:
    """Whether forward writes the gradient too, where it is called for one: not if that must be scaled before it is
    rounded, nor if Triton would need a launch more."""
    dtype = x.dtype
    if dtype is torch.float16 or (dtype is torch.bfloat16 and backend == "cpu"):
        return False
    return backend != "triton" or (mask is None and triton.one_pass(tuple(ints)))


def _saved(ctx, want, value, state, *inputs):
    """What forward returns: a second output costs a node's bookkeeping, so `state` is one where somebody reads it."""
    ctx.save_for_backward(*inputs, state)
    ctx.set_materialize_grads(False)
    if not want & WANT_COUNTS:
        return value
    ctx.mark_non_differentiable(state)
    return value, state


class _Loss(torch.autograd.Function):
    """The eager way: see the head of this file. Returns the loss; `state` too if `want` asks for counts."""

    @staticmethod
    def forward(ctx, x, y, mask, pixel_weight, weights, ints, floats, backend, want, threshold):
        ctx.ints, ctx.floats, ctx.backend = ints, floats, backend
        ctx.call = call = (id(ints), x.shape)
        ctx.scale = scale = _expected.get(call, 1.0)
        early = is_early("cpu", x, mask, ints)
        flags = want | WANT_GRAD if early else want
        with _below_autograd():
            value, state, grad = LOSS[backend](
                x, y, mask, pixel_weight, weights, ints, floats, flags, threshold, scale, None
            )
        ctx.grad = grad if early else None
        return _saved(ctx, want, value, state, x, y, mask, pixel_weight)

    @staticmethod
    def backward(ctx, grad_output, _=None):
        grad, ctx.grad = ctx.grad, None
        if grad_output is None:
            return _NO_GRADIENTS
        if torch.is_grad_enabled() or hidden(grad_output):  # create_graph: the op's own gradient raises
            *inputs, state = ctx.saved_tensors
            return BACKWARD[ctx.backend](grad_output, state, *inputs, ctx.ints, ctx.floats), *_NO_GRADIENTS[1:]
        scale = grad_output.item()
        if len(_expected) >= _EXPECTATIONS:
            _expected.clear()
        _expected[ctx.call] = scale
        if grad is None or scale != ctx.scale:
            *inputs, state = ctx.saved_tensors
            with _below_autograd():
                grad = BACKWARD[ctx.backend](grad_output, state, *inputs, ctx.ints, ctx.floats)
        return grad, None, None, None, None, None, None, None, None, None


class _DeviceLoss(torch.autograd.Function):
    """The same on a device. The buffer that `rescale_grad` may rewrite has not left this node."""

    @staticmethod
    def forward(ctx, x, y, mask, pixel_weight, weights, ints, floats, backend, want, threshold):
        ctx.ints, ctx.floats, ctx.backend = ints, floats, backend
        early = is_early(backend, x, mask, ints)
        flags = want | WANT_GRAD if early else want
        ctx.predicted = _prediction(ints, x) if early else None
        with _below_autograd():
            value, state, grad = _LOSS[backend](
                x, y, mask, pixel_weight, weights, ints, floats, flags, threshold, 1.0, ctx.predicted
            )
        ctx.grad = grad if early else None
        return _saved(ctx, want, value, state, x, y, mask, pixel_weight)

    @staticmethod
    def backward(ctx, grad_output, _=None):
        grad, ctx.grad = ctx.grad, None
        if grad_output is None:
            return _NO_GRADIENTS
        *inputs, state = ctx.saved_tensors
        if torch.is_grad_enabled() or hidden(grad_output):  # create_graph: the op's own gradient raises
            grad = BACKWARD[ctx.backend](grad_output, state, *inputs, ctx.ints, ctx.floats)
        else:
            with _below_autograd():
                if grad is None:
                    grad = _BACKWARD[ctx.backend](grad_output, state, *inputs, ctx.ints, ctx.floats)
                else:
                    _RESCALE[ctx.backend](grad_output, grad, ctx.predicted, state, *inputs, ctx.ints, ctx.floats)
        return grad, None, None, None, None, None, None, None, None, None


_SLOTS = 1024  # of a stream; and the unused ones that a device makes at a time
_slots: dict[torch.device, list[Tensor]] = {}  # unused ones
_predictions: dict[tuple[torch.device, int], dict[tuple, Tensor]] = {}  # by stream: (id of an encoding, shape) -> slot


def _prediction(ints: list[int], x: Tensor) -> Tensor | None:
    """Return where the grad_output that this spec saw last on the current stream lies; None if that cannot be had.

    One for each stream, so that the kernels that read and write it run one after the other. Where a stream has many,
    the oldest passes to the next spec: a wrong guess costs time and no bit. Slots are cut from tensors that are never
    freed, and not made while a graph is captured, whose memory pool would own them.
    """
    device = x.device
    place = device, _stream(device)
    known = _predictions.get(place)
    if known is None:
        known = _predictions[place] = {}
    key = id(ints), x.shape
    slot = known.get(key)
    if slot is None:
        if len(known) >= _SLOTS:
            slot = known.pop(next(iter(known)))
        else:
            free = _slots.setdefault(device, [])
            if not free:
                if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                    return None
                free += torch.ones(_SLOTS, dtype=torch.float64, device=device).unbind()
            slot = free.pop()
        known[key] = slot
    return slot


def _stream(device: torch.device) -> int:
    return torch._C._cuda_getCurrentRawStream(device.index) if device.type == "cuda" else 0


def loss(
    backend: str,
    ints: list[int],
    floats: list[float],
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    pixel_weight: Tensor | None,
    weights: list[Tensor],
    want_stats: bool = False,
    threshold: float = 0.5,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(loss, values [T] float64, counts int64 [N, C, 4]); the last two are None unless `want_stats`."""
    want = WANT_COUNTS if want_stats else 0
    if _compiling() or hidden(x):
        value, state, _ = LOSS[backend](x, y, mask, pixel_weight, weights, ints, floats, want, threshold, 1.0, None)
    elif x.requires_grad and torch.is_grad_enabled():
        function = _Loss if backend == "cpu" else _DeviceLoss
        found = function.apply(x, y, mask, pixel_weight, weights, ints, floats, backend, want, threshold)
        if not want_stats:
            return found, None, None
        value, state = found
    else:
        with _below_autograd():
            value, state, _ = _LOSS[backend](
                x, y, mask, pixel_weight, weights, ints, floats, want, threshold, 1.0, None
            )
    if not want_stats:
        return value, None, None
    return value, state[: ints[Header.TERMS]], _counts(x, ints, state)


def path(
    backend: str,
    ints: list[int],
    floats: list[float],
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    pixel_weight: Tensor | None,
    grad: bool,
    counts: bool,
) -> int:
    """Ask a C++ backend which of its kernels would take a call with gradient, with statistics: a CallPath."""
    with _below_autograd():
        return REGISTERED[backend][1].path.default(x, y, mask, pixel_weight, ints, floats, grad, counts)


def _counts(x: Tensor, ints: list[int], state: Tensor) -> Tensor:
    layout = layout_of(x.shape, ints)
    return state[layout.counts_at : -1].reshape(x.shape[0], layout.channels, COUNTS).to(torch.int64)


def sums(
    backend: str,
    ints: list[int],
    floats: list[float],
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    pixel_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return (sums [G, C, FIXED_SUMS + T], aux [T, AUX_COLUMNS]) in float64; the sums are differentiable in x."""
    return REGISTERED[backend][1].sums.default(x, y, mask, pixel_weight, ints, floats)


def elementwise(
    backend: str,
    ints: list[int],
    floats: list[float],
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    pixel_weight: Tensor | None,
) -> Tensor:
    """The elements of a single pointwise term: x's shape, or [N, *S] in mode multiclass."""
    return REGISTERED[backend][1].elementwise.default(x, y, mask, pixel_weight, ints, floats)


def counts(
    backend: str,
    spec: Spec,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    threshold: float,
) -> Tensor:
    """int64 [N, C, 4] of tp, fp, fn, tn; the terms of the spec do not matter."""
    region = Spec(spec.mode, (Term("tversky"),), spec.ignore_index)
    ints, floats = encode(region, 0) if _compiling() else region.encode(0)
    with torch.no_grad():
        found = loss(backend, ints, floats, x, y, mask, None, [], True, threshold)[2]
    assert found is not None
    return found

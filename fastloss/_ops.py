"""The ops: one table of schemas, stamped out for each compiled backend as `torch.ops.fastloss_<backend>`, with their
fake kernels and gradients; and the calls that the rest of the package makes.

Two ways to the gradient. Eager float32 and float64 write it in forward, scaled by the upstream gradient that this spec
saw last (1 at first); the first backward hands that buffer over if the guess was right. Everything else (half types, a
wrong guess, a second backward over a retained graph, torch.compile) computes it in backward from the inputs, with the
upstream gradient inside, so that half gradients are scaled before they are rounded. Both give the same bits.

On a device nobody may wait for a number, so the guess lives there too: a 0-d tensor for each spec and stream, which
forward multiplies by and the op `settle` compares with the upstream gradient, mending the gradient if it differs.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake

from . import _library, triton
from .spec import Spec, Term

BACKENDS = ("cpu", "cuda", "triton")  # those with ops; "reference" is plain PyTorch
INPUTS = "Tensor x, Tensor y, Tensor? mask, Tensor? pixel_weight"
SPEC = "int[] ints, float[] floats"
# state = [values of the terms | aux | d loss / d sums | counts | scale of the gradient], float64; csrc/math/sums.h
# names the columns. `predicted`, on the gradient's device, takes the place of the number `upstream`.
SCHEMAS = {
    "loss": f"({INPUTS}, Tensor[] weights, {SPEC}, int want, float threshold, float upstream, Tensor? predicted=None)"
    " -> (Tensor loss, Tensor state, Tensor grad)",
    "backward": f"(Tensor upstream, Tensor state, {INPUTS}, {SPEC}) -> Tensor",
    "sums": f"({INPUTS}, {SPEC}) -> (Tensor sums, Tensor aux)",
    "elementwise": f"({INPUTS}, {SPEC}) -> Tensor",
}
# Below autograd, of the device backends only: makes `grad`, which forward wrote for the scale in `state`, the gradient
# for `upstream`, and remembers that in `predicted`.
SETTLE = f"(Tensor upstream, Tensor(a!) grad, Tensor(b!)? predicted, Tensor state, {INPUTS}, {SPEC}) -> ()"
WANT_GRAD, WANT_COUNTS = 1, 2
FIXED_SUMS, AUX_COLUMNS, HEADER_INTS, TERM_INTS = 7, 4, 6, 12
BATCH_FIELD = 7  # of a term's integers

_compiling = torch.compiler.is_compiling
_below_autograd = torch._C._AutoDispatchBelowAutograd
# Identity of a spec's encoding, shape of x -> the upstream gradient seen last; levels of a pyramid differ in shape.
_expected: dict[tuple[int, torch.Size], float] = {}
_EXPECTATIONS = 4096


def available(backend: str) -> str | None:
    """None if the backend's ops can run here, else why not. Asks the driver, but takes no CUDA context."""
    if backend == "cpu":
        return _library.reason()
    if backend == "cuda":
        return _library.cuda_reason()
    return triton.reason()


def _layout(x: Tensor, ints: list[int]) -> tuple[int, int, int, int]:
    """(groups, channels, columns, terms) of the small tensors."""
    terms = ints[5]
    channels = 1 if ints[4] and x.dim() == 3 and x.shape[1] != 1 else x.shape[1]
    per_sample = any([ints[HEADER_INTS + i * TERM_INTS] == 4 and not ints[HEADER_INTS + i * TERM_INTS + BATCH_FIELD]
                      for i in range(terms)])  # fmt: skip
    return x.shape[0] if per_sample else 1, channels, FIXED_SUMS + terms, terms


def _value_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _fake_loss(x, y, mask, pixel_weight, weights, ints, floats, want, threshold, upstream, predicted=None):
    groups, channels, columns, terms = _layout(x, ints)
    size = terms * (1 + AUX_COLUMNS) + groups * channels * columns + 1
    if want & WANT_COUNTS:
        size = size + x.shape[0] * channels * 4
    grad = torch.empty_like(x) if want & WANT_GRAD else x.new_empty((0,))
    return x.new_empty((), dtype=_value_dtype(x)), x.new_empty((size,), dtype=torch.float64), grad


def _fake_backward(upstream, state, x, y, mask, pixel_weight, ints, floats):
    return torch.empty_like(x)


def _fake_sums(x, y, mask, pixel_weight, ints, floats):
    groups, channels, columns, terms = _layout(x, ints)
    return x.new_empty((groups, channels, columns), dtype=torch.float64), x.new_empty(
        (terms, AUX_COLUMNS), dtype=torch.float64
    )


def _fake_elementwise(x, y, mask, pixel_weight, ints, floats):
    shape = (x.shape[0], *x.shape[2:]) if ints[1] else x.shape
    return x.new_empty(shape, dtype=_value_dtype(x))


FAKES = {"loss": _fake_loss, "backward": _fake_backward, "sums": _fake_sums, "elementwise": _fake_elementwise}


class _Gradients:
    """The gradient formulas of one backend's ops, for torch.compile and for direct calls of the ops."""

    def __init__(self, ops: Any) -> None:
        self.ops = ops

    def save_loss(self, ctx: Any, inputs: tuple, output: tuple) -> None:
        x, y, mask, pixel_weight, weights, ctx.ints, ctx.floats, *_ = inputs
        ctx.weights = len(weights)
        ctx.save_for_backward(x, y, mask, pixel_weight, output[1])
        ctx.mark_non_differentiable(output[1], output[2])
        ctx.set_materialize_grads(False)

    def loss(self, ctx: Any, upstream: Tensor | None, *_: Any) -> tuple:
        *inputs, state = ctx.saved_tensors
        grad = None if upstream is None else self.ops.backward.default(upstream, state, *inputs, ctx.ints, ctx.floats)
        return grad, None, None, None, [None] * ctx.weights, *(None,) * 6

    def save_inputs(self, ctx: Any, inputs: tuple, output: Any) -> None:
        x, y, mask, pixel_weight, ctx.ints, ctx.floats = inputs
        aux = output[1] if isinstance(output, tuple) else None
        ctx.save_for_backward(x, y, mask, pixel_weight, aux)
        if aux is not None:
            ctx.mark_non_differentiable(aux)

    def sums(self, ctx: Any, dsums: Tensor, _: Any) -> tuple:
        x, y, mask, pixel_weight, aux = ctx.saved_tensors
        state = torch.cat([aux.new_zeros(aux.shape[0]), aux.reshape(-1), dsums.reshape(-1).to(torch.float64)])
        one = torch.ones((), dtype=torch.float64, device=x.device)
        return self.ops.backward.default(one, state, x, y, mask, pixel_weight, ctx.ints, ctx.floats), *(None,) * 5

    def elementwise(self, ctx: Any, upstream: Tensor) -> tuple:
        # An upstream gradient for each element is a pixel weight.
        x, y, mask, pixel_weight, _ = ctx.saved_tensors
        if pixel_weight is not None:
            if pixel_weight.dim() < upstream.dim():
                pixel_weight = pixel_weight.unsqueeze(1)
            elif pixel_weight.dim() > upstream.dim():
                pixel_weight = pixel_weight.squeeze(1)
            upstream = upstream * pixel_weight
        groups, channels, columns, terms = _layout(x, ctx.ints)
        dsums = torch.zeros(groups, channels, columns, dtype=torch.float64, device=x.device)
        dsums[..., FIXED_SUMS:] = 1.0
        state = torch.cat([dsums.new_zeros(terms * (1 + AUX_COLUMNS)), dsums.reshape(-1)])
        one = torch.ones((), dtype=torch.float64, device=x.device)
        return self.ops.backward.default(one, state, x, y, mask, upstream, ctx.ints, ctx.floats), *(None,) * 5

    def save_nothing(self, ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    def backward(self, ctx: Any, grad: Tensor) -> NoReturn:
        raise RuntimeError(
            "fastloss gradients cannot be differentiated again (double backward); use backend='reference' for that."
        )


def _register(backend: str) -> tuple[Library, Any]:
    namespace = f"fastloss_{backend}"
    library = Library(namespace, "DEF")
    for name, schema in SCHEMAS.items():
        library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        register_fake(f"{namespace}::{name}", FAKES[name], lib=library)
    ops = getattr(torch.ops, namespace)
    gradients = _Gradients(ops)
    saves = {"loss": gradients.save_loss, "backward": gradients.save_nothing}
    for name in SCHEMAS:
        save = saves.get(name, gradients.save_inputs)
        register_autograd(f"{namespace}::{name}", getattr(gradients, name), setup_context=save, lib=library)
    if backend != "cpu":
        library.define("settle" + SETTLE, tags=(torch.Tag.pt2_compliant_tag,))
        register_fake(f"{namespace}::settle", lambda *_: None, lib=library)
    return library, ops


_registered = {backend: _register(backend) for backend in BACKENDS}
_loss_ops = {backend: ops.loss.default for backend, (_, ops) in _registered.items()}
_backward_ops = {backend: ops.backward.default for backend, (_, ops) in _registered.items()}
_settle_ops = {backend: ops.settle.default for backend, (_, ops) in _registered.items() if backend != "cpu"}
_library.load()  # implements the cpu ops, and those of CUDA
if _library.EMULATED:
    torch.ops.load_library(_library.EMULATED)
triton.implement(_registered["triton"][0], [*SCHEMAS, "settle"])


class _Loss(torch.autograd.Function):
    """The eager way: see the head of this file."""

    @staticmethod
    def forward(ctx, x, y, mask, pixel_weight, weights, ints, floats, backend, want, threshold):
        ctx.ints, ctx.floats, ctx.backend = ints, floats, backend
        ctx.call = call = (id(ints), x.shape)
        ctx.scale = scale = _expected.get(call, 1.0)
        if x.dtype is torch.float32 or x.dtype is torch.float64:
            want |= WANT_GRAD
        with _below_autograd():
            value, state, grad = _loss_ops[backend](
                x, y, mask, pixel_weight, weights, ints, floats, want, threshold, scale, None
            )
        ctx.grad = grad if want & WANT_GRAD else None
        ctx.save_for_backward(x, y, mask, pixel_weight, state)
        ctx.mark_non_differentiable(state)
        return value, state

    @staticmethod
    def backward(ctx, upstream, _):
        grad, ctx.grad = ctx.grad, None
        scale = upstream.item()
        if len(_expected) >= _EXPECTATIONS:
            _expected.clear()
        _expected[ctx.call] = scale
        again = torch.is_grad_enabled()  # create_graph: the op's own gradient raises
        if grad is None or scale != ctx.scale or again:
            *inputs, state = ctx.saved_tensors
            backward = _backward_ops[ctx.backend]
            if again:
                grad = backward(upstream, state, *inputs, ctx.ints, ctx.floats)
            else:
                with _below_autograd():
                    grad = backward(upstream, state, *inputs, ctx.ints, ctx.floats)
        return grad, None, None, None, None, None, None, None, None, None


class _DeviceLoss(torch.autograd.Function):
    """The same on a device. The buffer that `settle` may rewrite has not left this node."""

    @staticmethod
    def forward(ctx, x, y, mask, pixel_weight, weights, ints, floats, backend, want, threshold):
        ctx.ints, ctx.floats, ctx.backend, ctx.predicted = ints, floats, backend, None
        if x.dtype is not torch.float16:
            want |= WANT_GRAD
            ctx.predicted = _prediction(ints, x)
        with _below_autograd():
            value, state, grad = _loss_ops[backend](
                x, y, mask, pixel_weight, weights, ints, floats, want, threshold, 1.0, ctx.predicted
            )
        ctx.grad = grad if want & WANT_GRAD else None
        ctx.save_for_backward(x, y, mask, pixel_weight, state)
        ctx.mark_non_differentiable(state)
        return value, state

    @staticmethod
    def backward(ctx, upstream, _):
        grad, ctx.grad = ctx.grad, None
        *inputs, state = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: the op's own gradient raises
            grad = _backward_ops[ctx.backend](upstream, state, *inputs, ctx.ints, ctx.floats)
        else:
            with _below_autograd():
                if grad is None:
                    grad = _backward_ops[ctx.backend](upstream, state, *inputs, ctx.ints, ctx.floats)
                else:
                    _settle_ops[ctx.backend](upstream, grad, ctx.predicted, state, *inputs, ctx.ints, ctx.floats)
        return grad, None, None, None, None, None, None, None, None, None


_SLOTS = 1024
_slots: dict[torch.device, list[Tensor]] = {}  # unused ones
_predictions: dict[tuple, Tensor] = {}  # (identity of a spec's encoding, shape, device, stream) -> its slot


def _prediction(ints: list[int], x: Tensor) -> Tensor | None:
    """Where the upstream gradient that this spec saw last on the current stream lies; None if that cannot be had.

    One for each stream, so that the kernels that read and write it run one after the other. Slots are cut from tensors
    that are never freed, and not made while a graph is captured, whose memory pool would own them.
    """
    device = x.device
    shape = x.shape if len(_predictions) < _EXPECTATIONS else None
    key = (id(ints), shape, device, _stream(device))
    slot = _predictions.get(key)
    if slot is None:
        free = _slots.setdefault(device, [])
        if not free:
            if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                return None
            free += torch.ones(_SLOTS, dtype=torch.float64, device=device).unbind()
        slot = _predictions[key] = free.pop()
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
    if _compiling():
        value, state, _ = _loss_ops[backend](
            x, y, mask, pixel_weight, weights, ints, floats, want, threshold, 1.0, None
        )
    elif x.requires_grad and torch.is_grad_enabled():
        function = _Loss if backend == "cpu" else _DeviceLoss
        value, state = function.apply(x, y, mask, pixel_weight, weights, ints, floats, backend, want, threshold)
    else:
        with _below_autograd():
            value, state, _ = _loss_ops[backend](
                x, y, mask, pixel_weight, weights, ints, floats, want, threshold, 1.0, None
            )
    if not want_stats:
        return value, None, None
    return value, state[: ints[5]], _counts(x, ints, state)


def _counts(x: Tensor, ints: list[int], state: Tensor) -> Tensor:
    groups, channels, columns, terms = _layout(x, ints)
    begin = terms * (1 + AUX_COLUMNS) + groups * channels * columns
    return state[begin:-1].reshape(x.shape[0], channels, 4).to(torch.int64)


def sums(
    backend: str,
    ints: list[int],
    floats: list[float],
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    pixel_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(sums [G, C, 7 + T], aux [T, 4]), differentiable in x."""
    return _registered[backend][1].sums.default(x, y, mask, pixel_weight, ints, floats)


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
    return _registered[backend][1].elementwise.default(x, y, mask, pixel_weight, ints, floats)


def counts(
    backend: str,
    spec: Spec,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    threshold: float,
) -> Tensor:
    """int64 [N, C, 4] of tp, fp, fn, tn; the terms of the spec do not matter."""
    ints, floats = Spec(spec.mode, (Term("tversky"),), spec.ignore_index).encode(x.shape[1])
    with torch.no_grad():
        found = loss(backend, ints, floats, x, y, mask, None, [], True, threshold)[2]
    assert found is not None
    return found

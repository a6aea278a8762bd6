"""The ops: one table of schemas, stamped out for each compiled backend as `torch.ops.fastloss_<backend>`, with their
fake kernels and the gradients that torch.compile traces. Importing this registers them.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake, register_vmap

from . import _library, triton

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


def layout(x: Tensor, ints: list[int]) -> tuple[int, int, int, int]:
    """(groups, channels, columns, terms) of the small tensors."""
    terms = ints[5]
    channels = 1 if ints[4] and x.dim() == 3 and x.shape[1] != 1 else x.shape[1]
    per_sample = any([ints[HEADER_INTS + i * TERM_INTS] == 4 and not ints[HEADER_INTS + i * TERM_INTS + BATCH_FIELD]
                      for i in range(terms)])  # fmt: skip
    return x.shape[0] if per_sample else 1, channels, FIXED_SUMS + terms, terms


def _value_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _fake_loss(x, y, mask, pixel_weight, weights, ints, floats, want, threshold, upstream, predicted=None):
    groups, channels, columns, terms = layout(x, ints)
    size = terms * (1 + AUX_COLUMNS) + groups * channels * columns + 1
    if want & WANT_COUNTS:
        size = size + x.shape[0] * channels * 4
    grad = torch.empty_like(x) if want & WANT_GRAD else x.new_empty((0,))
    return x.new_empty((), dtype=_value_dtype(x)), x.new_empty((size,), dtype=torch.float64), grad


def _fake_backward(upstream, state, x, y, mask, pixel_weight, ints, floats):
    return torch.empty_like(x)


def _fake_sums(x, y, mask, pixel_weight, ints, floats):
    groups, channels, columns, terms = layout(x, ints)
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
        grads = grad, None, None, None, [None] * ctx.weights, *(None,) * 6
        return grads[: len(ctx.needs_input_grad)]  # the dispatcher drops a last input that has its default

    def save_inputs(self, ctx: Any, inputs: tuple, output: Any) -> None:
        x, y, mask, pixel_weight, ctx.ints, ctx.floats = inputs
        aux = output[1] if isinstance(output, tuple) else None
        ctx.save_for_backward(x, y, mask, pixel_weight, aux)
        if aux is not None:
            ctx.mark_non_differentiable(aux)

    def sums(self, ctx: Any, dsums: Tensor, _: Any) -> tuple:
        x, y, mask, pixel_weight, aux = ctx.saved_tensors
        state = torch.cat([aux.new_zeros(aux.shape[0]), aux.reshape(-1), dsums.reshape(-1).to(torch.float64)])
        one = x.new_ones((), dtype=torch.float64)
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
        groups, channels, columns, terms = layout(x, ctx.ints)
        dsums = x.new_zeros((groups, channels, columns), dtype=torch.float64)
        dsums[..., FIXED_SUMS:] = 1.0
        state = torch.cat([dsums.new_zeros(terms * (1 + AUX_COLUMNS)), dsums.reshape(-1)])
        one = x.new_ones((), dtype=torch.float64)
        return self.ops.backward.default(one, state, x, y, mask, upstream, ctx.ints, ctx.floats), *(None,) * 5

    def batched(self, info: Any, in_dims: tuple, *args: Any) -> tuple[Tensor, int]:
        """The gradients of a batch of upstream gradients, one after the other."""

        def one(index: int) -> Tensor:
            return self.ops.backward.default(
                *[a.select(d, index) if isinstance(d, int) else a for a, d in zip(args, in_dims, strict=True)]
            )

        return torch.stack([one(index) for index in range(info.batch_size)]), 0

    def save_nothing(self, ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    def backward(self, ctx: Any, grad: Tensor) -> NoReturn:
        raise RuntimeError(
            "fastloss gradients cannot be differentiated again (double backward); `with fastloss.backends."
            "use('reference'):` around the loss allows it."
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
    register_vmap(f"{namespace}::backward", gradients.batched, lib=library)
    if backend != "cpu":
        library.define("settle" + SETTLE, tags=(torch.Tag.pt2_compliant_tag,))
        register_fake(f"{namespace}::settle", lambda *_: None, lib=library)
    return library, ops


REGISTERED = {backend: _register(backend) for backend in BACKENDS}
LOSS = {backend: ops.loss.default for backend, (_, ops) in REGISTERED.items()}
BACKWARD = {backend: ops.backward.default for backend, (_, ops) in REGISTERED.items()}
SETTLE_OPS = {backend: ops.settle.default for backend, (_, ops) in REGISTERED.items() if backend != "cpu"}
_library.load()  # implements the cpu ops, and those of CUDA
if _library.EMULATED:
    torch.ops.load_library(_library.EMULATED)
triton.implement(REGISTERED["triton"][0], [*SCHEMAS, "settle"])

"""The ops: one table of schemas, stamped out for each compiled backend as `torch.ops.fastloss_<backend>`, with their
fake kernels and the gradients that torch.compile traces. Importing this registers them.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake, register_vmap

from . import _library, triton
from .spec import AUX_COLUMNS, COUNTS, FIXED_SUMS, WANT_COUNTS, WANT_GRAD, Header, layout_of

BACKENDS = ("cpu", "cuda", "triton")  # those with ops; "reference" is plain PyTorch
INPUTS = "Tensor x, Tensor y, Tensor? mask, Tensor? pixel_weight"
SPEC = "int[] ints, float[] floats"
# `state`: spec.Layout. `predicted`, on the gradient's device, takes the place of the number `grad_output`.
SCHEMAS = {
    "loss": f"({INPUTS}, Tensor[] weights, {SPEC}, int want, float threshold, float grad_output, "
    "Tensor? predicted=None) -> (Tensor loss, Tensor state, Tensor grad)",
    "backward": f"(Tensor grad_output, Tensor state, {INPUTS}, {SPEC}) -> Tensor",
    "sums": f"({INPUTS}, {SPEC}) -> (Tensor sums, Tensor aux)",
    "elementwise": f"({INPUTS}, {SPEC}) -> Tensor",
}
# Below autograd, of the device backends only: makes `grad`, which forward wrote for the scale in `state`, the gradient
# for `grad_output`, and remembers that in `predicted`.
RESCALE_GRAD = f"(Tensor grad_output, Tensor(a!) grad, Tensor(b!)? predicted, Tensor state, {INPUTS}, {SPEC}) -> ()"
# Of the C++ backends: which kernels `loss` would take, as CallPath of csrc/problem.h.
PATH = f"({INPUTS}, {SPEC}, bool grad, bool counts) -> int"
# Of CUDA: sums and gradient of logits that are interpolated tile by tile (csrc/ops/cuda_upsampled.cpp).
TILED = f"{INPUTS}, {SPEC}, int mode, bool align_corners"
TILED_SUMS = f"(Tensor like, {TILED}) -> (Tensor, Tensor)"
TILED_BACKWARD = f"(Tensor state, Tensor like, {TILED}) -> Tensor"
DOUBLE_BACKWARD = (
    "fastloss gradients cannot be differentiated again (double backward); `with fastloss.backends.use('reference'):` "
    "around the loss allows it."
)


def _value_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _fake_loss(x, y, mask, pixel_weight, weights, ints, floats, want, threshold, grad_output, predicted=None):
    layout = layout_of(x.shape, ints)
    size = layout.counts_at + 1
    if want & WANT_COUNTS:
        size = size + x.shape[0] * layout.channels * COUNTS
    grad = torch.empty_like(x) if want & WANT_GRAD else x.new_empty((0,))
    return x.new_empty((), dtype=_value_dtype(x)), x.new_empty((size,), dtype=torch.float64), grad


def _fake_backward(grad_output, state, x, y, mask, pixel_weight, ints, floats):
    return torch.empty_like(x)


def _fake_sums(x, y, mask, pixel_weight, ints, floats):
    groups, channels, columns, terms, *_ = layout_of(x.shape, ints)
    sums = x.new_empty((groups, channels, columns), dtype=torch.float64)
    return sums, x.new_empty((terms, AUX_COLUMNS), dtype=torch.float64)


def _fake_elementwise(x, y, mask, pixel_weight, ints, floats):
    shape = (x.shape[0], *x.shape[2:]) if ints[Header.ACTIVATION] else x.shape
    return x.new_empty(shape, dtype=_value_dtype(x))


FAKES = {"loss": _fake_loss, "backward": _fake_backward, "sums": _fake_sums, "elementwise": _fake_elementwise}


def state_of(aux: Tensor, grad_sums: Tensor) -> Tensor:
    """Make a `state` for the op `backward` from aux [T, AUX_COLUMNS] and the gradients of the sums [G, C, columns]."""
    return torch.cat([aux.new_zeros(aux.shape[0]), aux.reshape(-1), grad_sums.reshape(-1).to(torch.float64)])


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

    def loss(self, ctx: Any, grad_output: Tensor | None, *_: Any) -> tuple:
        grad = None
        if grad_output is not None:
            *inputs, state = ctx.saved_tensors
            grad = self.ops.backward.default(grad_output, state, *inputs, ctx.ints, ctx.floats)
        grads = grad, None, None, None, [None] * ctx.weights, *(None,) * 6
        return grads[: len(ctx.needs_input_grad)]  # the dispatcher drops a last input that has its default

    def save_inputs(self, ctx: Any, inputs: tuple, output: Any) -> None:
        x, y, mask, pixel_weight, ctx.ints, ctx.floats = inputs
        aux = output[1] if isinstance(output, tuple) else None
        ctx.save_for_backward(x, y, mask, pixel_weight, aux)
        if aux is not None:
            ctx.mark_non_differentiable(aux)

    def sums(self, ctx: Any, grad_sums: Tensor, _: Any) -> tuple:
        x, y, mask, pixel_weight, aux = ctx.saved_tensors
        state = state_of(aux, grad_sums)
        one = x.new_ones((), dtype=torch.float64)
        return self.ops.backward.default(one, state, x, y, mask, pixel_weight, ctx.ints, ctx.floats), *(None,) * 5

    def elementwise(self, ctx: Any, grad_output: Tensor) -> tuple:
        # A gradient of each element is a pixel weight.
        x, y, mask, pixel_weight, _ = ctx.saved_tensors
        if pixel_weight is not None:
            if pixel_weight.dim() < grad_output.dim():
                pixel_weight = pixel_weight.unsqueeze(1)
            elif pixel_weight.dim() > grad_output.dim():
                pixel_weight = pixel_weight.squeeze(1)
            grad_output = grad_output * pixel_weight
        groups, channels, columns, terms, *_ = layout_of(x.shape, ctx.ints)
        grad_sums = x.new_zeros((groups, channels, columns), dtype=torch.float64)
        grad_sums[..., FIXED_SUMS:] = 1.0
        state = state_of(grad_sums.new_zeros((terms, AUX_COLUMNS)), grad_sums)
        one = x.new_ones((), dtype=torch.float64)
        return self.ops.backward.default(one, state, x, y, mask, grad_output, ctx.ints, ctx.floats), *(None,) * 5

    def batched(self, info: Any, in_dims: tuple, *args: Any) -> tuple[Tensor, int]:
        """The gradients for a batch of gradients of the loss, one after the other."""

        def one(index: int) -> Tensor:
            return self.ops.backward.default(
                *[a.select(d, index) if isinstance(d, int) else a for a, d in zip(args, in_dims, strict=True)]
            )

        return torch.stack([one(index) for index in range(info.batch_size)]), 0

    def save_nothing(self, ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    def backward(self, ctx: Any, grad: Tensor) -> NoReturn:
        raise RuntimeError(DOUBLE_BACKWARD)


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
        library.define("rescale_grad" + RESCALE_GRAD, tags=(torch.Tag.pt2_compliant_tag,))
        register_fake(f"{namespace}::rescale_grad", lambda *_: None, lib=library)
    if backend != "triton":
        library.define("path" + PATH)
    if backend == "cuda":
        library.define("upsampled_sums" + TILED_SUMS)
        library.define("upsampled_backward" + TILED_BACKWARD)
    return library, ops


REGISTERED = {backend: _register(backend) for backend in BACKENDS}
LOSS = {backend: ops.loss.default for backend, (_, ops) in REGISTERED.items()}
BACKWARD = {backend: ops.backward.default for backend, (_, ops) in REGISTERED.items()}
RESCALE = {backend: ops.rescale_grad.default for backend, (_, ops) in REGISTERED.items() if backend != "cpu"}
_library.load()  # implements the cpu ops, and those of CUDA
if _library.EMULATED:
    torch.ops.load_library(_library.EMULATED)
triton.implement(REGISTERED["triton"][0], [*SCHEMAS, "rescale_grad"])

"""The ops of bands, their gradients, and the way from a criterion to them.

One op for each of the three things that a loss of bands is asked for, opaque to torch.compile: `band_sums`,
`band_gradient` and `band_counts` in `torch.ops.fastloss`. What happens between sums and loss is differentiable PyTorch
of a few numbers (fastloss/distributed.py), as with `process_group=`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake, register_vmap

from . import _upsampled_cpu, _upsampled_cuda, backends, distributed, reference, validate
from ._modes import hidden, transformed
from ._registry import DOUBLE_BACKWARD
from ._sources import DTYPES, HEAD, SOURCES, cut, flattened
from .bands import Engine, Labels
from .explanation import noted
from .plan import Plan
from .spec import AUX_COLUMNS, FIXED_SUMS, decode, encode

_compiling = torch.compiler.is_compiling

GRADS = "(Tensor, Tensor, Tensor)"  # of up to three parts; empty where there is none or it is not wanted
MADE = "Tensor x, Tensor? weight, Tensor? bias, SymInt[] how"  # no list: torch batches none
LABELS = "Tensor y, Tensor? mask, Tensor? pixel_weight"
SPEC = "int[] ints, float[] floats, str backend, int band_bytes"
_library = Library("fastloss", "DEF")
_library.define(f"band_sums({MADE}, {LABELS}, {SPEC}, str group) -> (Tensor sums, Tensor aux)")
_library.define(f"band_gradient(Tensor grad_sums, Tensor aux, {MADE}, {LABELS}, {SPEC}, int[] wanted) -> {GRADS}")
_library.define(f"band_counts({MADE}, Tensor y, Tensor? mask, {SPEC}, float threshold) -> Tensor")


class Made(NamedTuple):
    """How logits come about: see `_sources`."""

    parts: tuple[Tensor, ...]
    how: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    def stand_in(self) -> Tensor:
        """A tensor of the logits' shape that takes no memory, for the checks of a call."""
        return self.parts[0].detach().new_zeros((), dtype=self.dtype).expand(self.shape)


class Job(NamedTuple):
    """What a call does, but for its tensors."""

    how: Sequence[int]
    ints: list[int]
    floats: list[float]
    backend: str
    band_bytes: int
    group: str


def _engine(job: Job, parts: Sequence[Tensor], labels: Sequence[Any], wanted: Sequence[bool] = ()) -> Engine:
    given: list[Any] = list(parts)
    if job.how[0] == HEAD:  # a head knows nothing of the places of its pixels
        axes = given[0].ndim - 2
        flat: list[Any] = flattened([given[0], *labels], axes)
        given[0], labels = flat[0], flat[1:]
    source = SOURCES[job.how[0]](given, job.how, wanted)
    bytes_each = source.shape[1] * source.dtype.itemsize
    bands = cut(source.shape, max(job.band_bytes // bytes_each, 1))
    spec = decode(tuple(job.ints), tuple(job.floats))
    return Engine(source, bands, Labels(source.shape, *labels), spec, job.backend, job.band_bytes)


def _walks(job: Job, parts: Sequence[Tensor]) -> Any:
    """The module whose ops walk over all of the logits at once; None: the engine does, band by band."""
    if _upsampled_cpu.takes(job):
        return _upsampled_cpu
    return _upsampled_cuda if _upsampled_cuda.takes(job, parts[0]) else None


def _plainly(function: Callable) -> Callable:
    """Outside autograd and autocast: a head's dtype has been decided before."""

    def run(*args: Any) -> Any:
        with torch.no_grad(), torch._C._DisableAutocast():
            return function(*args)

    return run


def _listed(*parts: Tensor | None) -> list[Tensor]:
    return [part for part in parts if part is not None]


def _three(parts: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [*parts, None, None][:3]


@_plainly
def _sums(parts, how, y, mask, pixel_weight, ints, floats, backend, band_bytes, group):
    job, labels = Job(how, ints, floats, backend, band_bytes, group), (y, mask, pixel_weight)
    walks = _walks(job, parts)
    if walks is not None:
        return walks.sums(parts, labels, job)
    return _engine(job, parts, labels).sums(_group(group))


@_plainly
def _gradient(grad_sums, aux, parts, how, y, mask, pixel_weight, ints, floats, backend, band_bytes, wanted):
    job, labels = Job(how, ints, floats, backend, band_bytes, ""), (y, mask, pixel_weight)
    walks = _walks(job, parts)
    if walks is not None:
        return tuple(_fitted(walks.gradient(grad_sums, aux, parts, labels, job), parts))
    return tuple(_fitted(_engine(job, parts, labels, wanted).gradient(grad_sums, aux), parts))


@_plainly
def _counts(parts, how, y, mask, ints, floats, backend, band_bytes, threshold):
    job, labels = Job(how, ints, floats, backend, band_bytes, ""), (y, mask, None)
    if _upsampled_cpu.takes(job):
        return _upsampled_cpu.counts(parts, labels, job, threshold)
    return _engine(job, parts, labels).counts(threshold)


def _fitted(grads: Sequence[Tensor | None], parts: Sequence[Tensor]) -> list[Tensor]:
    """Gradients in the shapes and dtypes of the parts; what is not wanted is empty."""
    found = [p.new_empty(0) if g is None else g.view(p.shape).to(p.dtype) for g, p in zip(grads, parts)]
    return [*found, *[parts[0].new_empty(0) for _ in range(3 - len(found))]]


def _group(name: str) -> Any:
    if not name:
        return None
    module: Any = torch.distributed.distributed_c10d
    return module._resolve_process_group(name)


def _shape(x: Tensor, weight: Tensor | None, how: Sequence[int]) -> tuple[int, ...]:
    return (*x.shape[:2], *how[3:]) if weight is None else (x.shape[0], weight.shape[0], *x.shape[2:])


def _fake_sums(x, weight, bias, how, y, mask, pixel_weight, ints, floats, backend, band_bytes, group):
    spec, (samples, channels, *_) = decode(tuple(ints), tuple(floats)), _shape(x, weight, how)
    groups, terms = samples if spec.per_sample else 1, len(spec.terms)
    double = {"dtype": torch.float64}
    return y.new_empty((groups, channels, FIXED_SUMS + terms), **double), y.new_empty((terms, AUX_COLUMNS), **double)


def _fake_gradient(grad_sums, aux, x, weight, bias, how, y, mask, pixel_weight, ints, floats, backend, band, wanted):
    parts = [*_listed(x, weight, bias)]
    found = [torch.empty_like(p) if want else p.new_empty(0) for p, want in zip(parts, wanted)]
    return (*found, *[x.new_empty(0) for _ in range(3 - len(found))])


def _fake_counts(x, weight, bias, how, y, mask, ints, floats, backend, band_bytes, threshold):
    return y.new_empty((*_shape(x, weight, how)[:2], 4), dtype=torch.int64)


def _save(ctx: Any, inputs: tuple, output: Any) -> None:
    x, weight, bias, how, y, mask, pixel_weight, ints, floats, backend, band_bytes, group = inputs
    parts = _listed(x, weight, bias)
    ctx.job = Job(how, ints, floats, backend, band_bytes, group)
    ctx.wanted = [p.requires_grad for p in parts]
    ctx.save_for_backward(*parts, y, mask, pixel_weight, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad_sums: Tensor) -> list[Tensor | None]:
    *parts, y, mask, pixel_weight, aux = ctx.saved_tensors
    job, wanted = ctx.job, [int(want) for want in ctx.wanted]
    given = job.how, y, mask, pixel_weight, job.ints, job.floats, job.backend, job.band_bytes, wanted
    found = torch.ops.fastloss.band_gradient.default(grad_sums, aux, *_three(parts), *given)
    return [g if want else None for g, want in zip(found, wanted)]


def _batched(info: Any, in_dims: tuple, grad_sums: Tensor, *rest: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The gradients of a batch of gradients of the sums, one after the other."""
    found = [torch.ops.fastloss.band_gradient.default(g, *rest) for g in grad_sums.unbind(in_dims[0])]
    return tuple([torch.stack(each) for each in zip(*found)]), (0, 0, 0)


def _never(ctx: Any, *_: Any) -> None:
    raise RuntimeError(DOUBLE_BACKWARD)


def _sums_op(x, weight, bias, how, *rest):
    return _sums(_listed(x, weight, bias), how, *rest)


def _gradient_op(grad_sums, aux, x, weight, bias, how, *rest):
    return _gradient(grad_sums, aux, _listed(x, weight, bias), how, *rest)


def _counts_op(x, weight, bias, how, *rest):
    return _counts(_listed(x, weight, bias), how, *rest)


for _name, _function, _fake in (
    ("band_sums", _sums_op, _fake_sums),
    ("band_gradient", _gradient_op, _fake_gradient),
    ("band_counts", _counts_op, _fake_counts),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    register_fake(f"fastloss::{_name}", _fake, lib=_library)
register_autograd(
    "fastloss::band_sums",
    lambda ctx, grad_sums, _: (*_three(_differentiate(ctx, grad_sums)), *(None,) * 9),
    setup_context=_save,
    lib=_library,
)
register_autograd("fastloss::band_gradient", _never, lib=_library)
register_vmap("fastloss::band_gradient", _batched, lib=_library)


class _Sums(torch.autograd.Function):
    """The eager way. Of pointwise terms alone the gradient is made in forward, for the loss's gradient of 1; the first
    backward scales it and hands it over, later ones make it anew, to the same bits."""

    @staticmethod
    def forward(ctx: Any, job: Job, labels: tuple, weights: list[Tensor], *parts: Tensor) -> tuple[Tensor, Tensor]:
        ctx.job, ctx.wanted = job, ctx.needs_input_grad[3:]
        ctx.grads = ctx.factors = None
        if any(ctx.wanted) and _one_walk(job, parts):
            aux, ctx.factors = _factors(job, labels, weights, parts)
            table, ctx.grads = _in_one_walk(job, labels, ctx.factors, parts, ctx.wanted)
        else:
            table, aux = _sums(parts, job.how, *labels, *job[1:])
        ctx.save_for_backward(*parts, *labels, aux)
        ctx.mark_non_differentiable(aux)
        return table, aux

    @staticmethod
    def backward(ctx: Any, grad_sums: Tensor, _: Any = None) -> tuple:
        none = (None,) * 3
        if torch.is_grad_enabled() or hidden(grad_sums):
            return *none, *_differentiate(ctx, grad_sums)
        *parts, y, mask, pixel_weight, aux = ctx.saved_tensors
        grads, ctx.grads = ctx.grads, None
        if ctx.factors is None:
            job = ctx.job
            found = _gradient(grad_sums, aux, parts, job.how, y, mask, pixel_weight, *job[1:-1], ctx.wanted)
            return *none, *[g if want else None for g, want in zip(found, ctx.wanted)]
        if grads is None:
            grads = _in_one_walk(ctx.job, (y, mask, pixel_weight), ctx.factors, parts, ctx.wanted)[1]
        # grad_sums is a multiple of the factors.
        columns = grad_sums[0, 0, FIXED_SUMS:]
        square = ctx.factors.square().sum()
        scale = (columns * ctx.factors).sum() / torch.where(square > 0, square, torch.ones_like(square))
        scaled = [None if g is None else g.mul_(scale) for g in grads]
        return *none, *[g if g is None else f for g, f in zip(scaled, _fitted(scaled, parts))]


def _one_walk(job: Job, parts: Sequence[Tensor]) -> bool:
    """Whether forward makes the gradient too: of pointwise terms alone, whose derivatives by the sums are known."""
    if job.backend == "reference" or _walks(job, parts) is not None:
        return False
    terms = decode(tuple(job.ints), tuple(job.floats)).terms
    return not any([term.region or term.kind == "topk" for term in terms])


@_plainly
def _factors(job, labels, weights, parts):
    return _engine(job, parts, labels).factors(weights)


@_plainly
def _in_one_walk(job, labels, factors, parts, wanted):
    return _engine(job, parts, labels, wanted).in_one_walk(factors)


def run(
    ready: Plan,
    weights: list[Tensor],
    made: Made,
    y: Tensor,
    mask: Tensor | None,
    pixel_weight: Tensor | None,
    band_bytes: int,
    want_stats: bool = False,
    threshold: float = 0.5,
) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
    """(loss, values, counts) as `Plan.run` returns them, or None where logits must exist: see `_whole`."""
    x, route = ready._begin(made.stand_in(), y, mask, pixel_weight, weights)
    backend, _, ints, floats, *_ = route
    if weights:
        validate.check_weights(weights, x)
    if _whole(ready, backend, made, y, pixel_weight, weights):
        return None
    learns = torch.is_grad_enabled() and any([part.requires_grad for part in made.parts])
    if not _compiling() and noted.calls is not None:
        job = Job(made.how, ints, floats, backend, band_bytes, "")
        gradient = ("early" if _one_walk(job, made.parts) else "late") if learns else "none"
        inputs, how = (x, y, mask, pixel_weight), _upsampled_cuda.told(job, made.parts[0])
        return ready.note("bands", route, inputs, weights, want_stats, x.shape, gradient, how)
    if ready.elements is not None:
        ints, floats = encode(ready.spec, int(x.shape[1]))
    job = Job(made.how, ints, floats, backend, band_bytes, _group_name(ready.group))
    if _compiling() or any([hidden(part) for part in made.parts]):
        sums, aux = torch.ops.fastloss.band_sums.default(*_three(made.parts), job.how, y, mask, pixel_weight, *job[1:])
    elif learns:
        sums, aux = _Sums.apply(job, (y, mask, pixel_weight), [w.detach() for w in weights], *made.parts)
    else:
        sums, aux = _sums(made.parts, job.how, y, mask, pixel_weight, *job[1:])
    sums = reference.add_label_columns(ready.spec, sums, x, y, mask)
    loss, values = distributed.finish(ready.spec, x, sums, aux, weights, ready.group)
    counts = None
    if want_stats:
        op = torch.ops.fastloss.band_counts.default
        counts = op(*_three([p.detach() for p in made.parts]), job.how, y, mask, *job[1:-1], threshold)
    return loss, values, counts


def _whole(
    ready: Plan, backend: str, made: Made, y: Tensor, pixel_weight: Tensor | None, weights: list[Tensor]
) -> bool:
    """Whether only whole logits will do: a loss of no terms, transforms of torch.func, forward-mode AD, targets that
    require a gradient, and the reference where it was asked for by name, which can be differentiated twice."""
    if not ready.spec.terms:
        return True
    if not _compiling() and transformed(*made.parts, y, pixel_weight, *weights):
        return True
    if backend != "reference":
        return False
    learning = any([t is not None and t.requires_grad for t in (y, pixel_weight)]) and torch.is_grad_enabled()
    return learning or _compiling() or backends.named(ready.backend) or any([hidden(p) for p in made.parts])


def _group_name(group: Any) -> str:
    if group is None:
        return ""
    distributed.check_ready()
    found: Any = torch.distributed.group.WORLD if group is True else group
    return found.group_name


__all__ = ["DTYPES", "Made", "run"]

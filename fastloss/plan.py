"""A spec made ready to run: validation cached by the inputs' metadata, then one call into a backend."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import backends, distributed, reference, validate
from ._modes import transformed
from .describe import describe
from .explanation import noted
from .reference.inputs import per_pixel, select
from .spec import AUX_COLUMNS, COUNTS, Spec, encode, layout_of

_CACHED_ROUTES = 64
_override = backends.override.get
_checking = backends.checking.get
_compiling = torch.compiler.is_compiling
_ops = backends._ops


class Plan:
    """How one spec runs. Immutable but for its cache; shared by equal losses."""

    __slots__ = ("backend", "elements", "elementwise", "encoding", "finished", "group", "routes", "spec", "summed",
                 "unbounded")  # fmt: skip

    def __init__(self, spec: Spec, backend: str | None, group: Any) -> None:
        self.spec = spec
        self.backend = backend
        self.group = group
        self.elementwise, self.unbounded = spec.elementwise, spec.unbounded
        self.finished = group is not None or spec.summed  # in PyTorch
        self.elements = None if group is None else distributed.elements_spec(spec)
        self.summed = spec if self.elements is None else distributed.summed_spec(spec)
        self.encoding = None if spec.by_channels else encode(self.summed, 0)
        self.routes: dict[tuple, validate.Route] = {}

    def __reduce__(self) -> tuple:
        return plan, (self.spec, self.backend, self.group)

    def __deepcopy__(self, memo: dict) -> Plan:
        return self  # a process group cannot be copied

    def route(self, x: Tensor, y: Tensor, mask: Tensor | None, pixel_weight: Tensor | None) -> validate.Route:
        """The checked route of these inputs; raises what `validate.prepare` raises."""
        try:
            key: tuple = (x.shape, x.dtype, x.device, x.layout, _override())
            key += (y.shape, y.dtype, y.device, y.layout, y.requires_grad and torch.is_grad_enabled())
            if mask is not None:
                key += _metadata(mask)
            if pixel_weight is not None:
                key += (None, *_metadata(pixel_weight))
            found = self.routes.get(key)
        except (AttributeError, TypeError):  # no tensors: the validator says so
            key, found = (), None
        if found is None:
            found = self._prepare(x, y, mask, pixel_weight)
            if len(self.routes) >= _CACHED_ROUTES:
                self.routes.clear()
            self.routes[key] = found
        return found

    def _prepare(self, x: Tensor, y: Tensor, mask: Tensor | None, pixel_weight: Tensor | None) -> validate.Route:
        name, unsqueeze, channels = validate.prepare(self.spec, self.backend, x, y, mask, pixel_weight)
        ints, floats = self.encoding or encode(self.summed, int(channels))
        return validate.Route(name, unsqueeze, ints, floats)

    def _begin(
        self, x: Tensor, y: Tensor, mask: Tensor | None, pixel_weight: Tensor | None, weights: list[Tensor]
    ) -> tuple[Tensor, validate.Route]:
        """(x with a channel axis, the checked route): also the targets' values, where only they are left to check."""
        if _compiling():
            found = self._prepare(x, y, mask, pixel_weight)
            return (x.unsqueeze(1) if found[1] else x), found
        found = self.route(x, y, mask, pixel_weight)
        if found[1]:
            x = x.unsqueeze(1)
        backend = found[0]
        if backend != "reference" and transformed(x, y, pixel_weight, *weights):
            backend, found = "reference", found._replace(backend="reference")
        self.check(backend, x, y, mask)
        return x, found

    def run(
        self,
        x: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        pixel_weight: Tensor | None = None,
        weights: list[Tensor] | None = None,
        want_stats: bool = False,
        threshold: float = 0.5,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(loss, values [T] float64, counts int64 [N, C, 4] or None); under reduction="none" the values are None."""
        spec, weights, given = self.spec, weights or [], x
        x, route = self._begin(x, y, mask, pixel_weight, weights)
        shape = given.shape  # x is a tensor: that was checked
        backend, unsqueeze, ints, floats = route
        if weights:
            validate.check_weights(weights, x)
        way = self._way(backend, weights)
        if not _compiling() and noted.calls is not None:
            return self.note(way, route, (x, y, mask, pixel_weight), weights, want_stats, shape)
        if way == "reference":
            if backend != "reference" and not _compiling():  # no kernel looks at the targets of no term
                self.check("reference", x, y, mask)
            return self._reference(x, y, mask, pixel_weight, weights, want_stats, threshold, shape)
        if way == "elementwise":
            value = _ops.elementwise(backend, ints, floats, x, y, mask, pixel_weight)
            return (value.reshape(shape) if unsqueeze else value), None, None
        if way == "loss":
            return _ops.loss(backend, ints, floats, x, y, mask, pixel_weight, weights, want_stats, threshold)
        sums, aux = _ops.sums(backend, ints, floats, x, y, mask, pixel_weight)
        if self.elements is not None:
            elements = _ops.elementwise(backend, *self.elements.encode(x.shape[1]), x, y, mask, pixel_weight)
            sums, aux = self._put_topk(x, y, mask, sums, aux, elements)
        sums = reference.add_label_columns(spec, sums, x, y, mask)
        loss, values = distributed.finish(spec, x, sums, aux, weights, self.group)
        counts = _ops.counts(backend, spec, x, y, mask, threshold) if want_stats else None
        return loss, values, counts

    def _way(self, backend: str, weights: list[Tensor]) -> str:
        """The way of a call: "reference", "elementwise", "sums" (finished in PyTorch) or "loss" (one op)."""
        if backend == "reference" or not self.spec.terms:
            return "reference"
        if self.elementwise:
            return "elementwise"
        learns = torch.is_grad_enabled() and any([w.requires_grad for w in weights])
        return "sums" if learns or self.finished else "loss"

    def note(
        self,
        way: str,
        route: validate.Route,
        inputs: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
        weights: list[Tensor],
        counts: bool,
        shape: torch.Size,
        gradient: str | None = None,
        made: str | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Note what a call would run, and give zeros in its place; `gradient` and how logits are `made` where they do
        not tell."""
        x, spec = inputs[0], self.spec
        assert noted.calls is not None
        noted.calls.append(
            describe(spec, route, way, inputs, weights, self.backend, self.group, counts, gradient, made)
        )
        with torch.no_grad():
            elements = shape if not spec.softmax else (x.shape[0], *x.shape[2:])
            value = x.new_zeros(elements if self.elementwise else (), dtype=_value_dtype(x))
            values = torch.zeros(len(spec.terms), dtype=torch.float64, device=x.device)
            return value, values, torch.zeros((*x.shape[:2], COUNTS), dtype=torch.int64, device=x.device)

    def check(self, backend: str, x: Tensor, y: Tensor, mask: Tensor | None) -> None:
        """Raises ValueError for a target out of range where no kernel would: in the reference on the CPU, and under
        `debug()` on devices."""
        checking = (backend != "cpu" or self.unbounded) and _checking()
        if checking or (backend == "reference" and x.device.type == "cpu"):
            validate.check_values(self.spec, x, y, mask)

    def sums(
        self, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (sums [G, C, FIXED_SUMS + T], aux [T, AUX_COLUMNS]) in float64, the sums differentiable in x: for
        losses that finish them themselves.

        Columns: `spec.SumColumn` and `spec.AuxColumn`. G is N if a term takes each sample by itself, else 1.
        """
        x, route = self._begin(x, y, mask, pixel_weight, [])
        backend, _, ints, floats = route
        if not _compiling() and noted.calls is not None:
            way = "reference" if backend == "reference" else "sums"
            self.note(way, route, (x, y, mask, pixel_weight), [], False, x.shape)
            layout = layout_of(x.shape, ints)
            sums = x.new_zeros((layout.groups, layout.channels, layout.columns), dtype=torch.float64)
            return sums, x.new_zeros((layout.terms, AUX_COLUMNS), dtype=torch.float64)
        if backend == "reference":
            return reference.sums(self.spec, x, y, mask, pixel_weight)
        return _ops.sums(backend, ints, floats, x, y, mask, pixel_weight)

    def counts(self, x: Tensor, y: Tensor, mask: Tensor | None, threshold: float) -> Tensor:
        """int64 [N, C, 4] without a loss."""
        x, (backend, *_) = self._begin(x, y, mask, None, [])
        if backend == "reference":
            return reference.counts(self.spec, x, y, mask, threshold)
        return _ops.counts(backend, self.spec, x, y, mask, threshold)

    def _put_topk(
        self, x: Tensor, y: Tensor, mask: Tensor | None, sums: Tensor, aux: Tensor, elements: Tensor
    ) -> tuple[Tensor, Tensor]:
        valid = select(self.spec, per_pixel(y, x), mask if mask is None else per_pixel(mask, x))
        elements = per_pixel(elements, x)
        return distributed.put_topk(self.spec, sums, aux, elements, valid, self.group)

    def _reference(
        self,
        x: Tensor,
        y: Tensor,
        mask: Tensor | None,
        pixel_weight: Tensor | None,
        weights: list[Tensor],
        want_stats: bool,
        threshold: float,
        shape: torch.Size,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        spec = self.spec
        if self.elementwise:
            value = reference.elementwise(spec, x, y, mask, pixel_weight)
            return (value if spec.softmax else value.reshape(shape)), None, None
        sums, aux = reference.sums(self.summed, x, y, mask, pixel_weight)
        if self.elements is not None:
            elements = reference.elementwise(self.elements, x, y, mask, pixel_weight)
            sums, aux = self._put_topk(x, y, mask, sums, aux, elements)
        sums = reference.add_label_columns(spec, sums, x, y, mask)
        loss, values = distributed.finish(spec, x, sums, aux, weights, self.group)
        return loss, values, reference.counts(spec, x, y, mask, threshold) if want_stats else None


def _value_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _metadata(t: Tensor) -> tuple:
    return t.shape, t.dtype, t.device, t.layout, t.requires_grad and torch.is_grad_enabled()


def plan(spec: Spec, backend: str | None = None, group: Any = None) -> Plan:
    """The plan of a spec, one for all losses that have the same."""
    return Plan(spec, backend, group) if _compiling() else _shared(spec, backend, group)


_shared = lru_cache(maxsize=256)(Plan)


def scaled_plan(ready: Plan, scale: float) -> Plan:
    """The plan of `scale` times the loss, the factor inside the fused pass."""
    if scale == 1.0:
        return ready
    make = _scaled_spec if _compiling() else _cached_scaled_spec
    return plan(make(ready.spec, scale), ready.backend, ready.group)


def _scaled_spec(spec: Spec, scale: float) -> Spec:
    terms = [term.weighted(scale * term.weight, term.weight_index) for term in spec.terms]
    return Spec(spec.mode, tuple(terms), spec.ignore_index)


_cached_scaled_spec = lru_cache(maxsize=256)(_scaled_spec)

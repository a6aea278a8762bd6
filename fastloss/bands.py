"""Losses of logits that are made band by band and never exist as a whole.

The sums of a loss add up over bands, and the gradient of each band needs only the derivatives by the sums. So the
bands are walked twice: for the sums, and, once the loss is known, for the gradient. Losses of pointwise terms alone
are linear in their sums, and one walk does both. The bands are added in order: a result does not depend on threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from . import _band_topk as topk
from . import _ops, distributed, reference
from ._sources import Band, Source
from .reference.inputs import constants, per_pixel, select, signed
from .spec import AUX_COLUMNS, FIXED_SUMS, WANT_GRAD, AuxColumn, Spec, encode


class Labels:
    """Target, mask and pixel weights beside logits of `shape`."""

    def __init__(self, shape: tuple[int, ...], y: Tensor, mask: Tensor | None, pixel_weight: Tensor | None) -> None:
        self._rank = len(shape)
        self.given = y, mask, pixel_weight

    def of(self, band: Band) -> list[Any]:
        return [t if t is None else band.of(t, t.ndim == self._rank) for t in self.given]


class Kernels:
    """What one backend computes of a band, for one spec."""

    def __init__(self, backend: str, spec: Spec, channels: int) -> None:
        self.spec = spec
        self.ops: Any = None if backend == "reference" else getattr(torch.ops, f"fastloss_{backend}")
        self.ints, self.floats = encode(spec, channels)

    def sums(self, x: Tensor, labels: list) -> tuple[Tensor, Tensor]:
        if self.ops is None:
            return reference.sums(self.spec, x, *labels)
        return self.ops.sums.default(x, *labels, self.ints, self.floats)

    def elements(self, x: Tensor, labels: list) -> Tensor:
        if self.ops is None:
            return reference.elementwise(self.spec, x, *labels)
        return self.ops.elementwise.default(x, *labels, self.ints, self.floats)

    def state(self, aux: Tensor, grad_sums: Tensor) -> Tensor:
        """What `gradient` needs to know of the loss: the gradient of the sums [1, C, columns]."""
        if self.ops is None:
            return grad_sums
        return torch.cat([aux.new_zeros(aux.shape[0]), aux.reshape(-1), grad_sums.reshape(-1)])

    def gradient(self, x: Tensor, labels: list, state: Tensor) -> Tensor:
        if self.ops is None:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return torch.autograd.grad(self.sums(x, labels)[0], x, state)[0]
        return self.ops.backward.default(state.new_ones(()), state, x, *labels, self.ints, self.floats)

    def values_and_gradient(self, x: Tensor, labels: list, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(value of each pointwise term [T], gradient of their weighted sum)."""
        _, state, grad = self.ops.loss.default(x, *labels, weights, self.ints, self.floats, WANT_GRAD, 0.5, 1.0, None)
        return state[: len(weights)], grad


class Engine:
    """A loss over the bands of a source."""

    def __init__(self, source: Source, bands: list[Band], labels: Labels, spec: Spec, backend: str, keep: int) -> None:
        """`keep`: how many bytes of elements top-k may keep between its passes; beyond, they are computed anew."""
        self.source, self.bands, self.labels, self.spec, self.backend = source, bands, labels, spec, backend
        self._keep = keep

    def _kernels(self, spec: Spec) -> Kernels:
        return Kernels(self.backend, spec, self.source.shape[1])

    def _each(self) -> Iterator[tuple[Band, Tensor, list]]:
        for band in self.bands:
            yield band, self.source.logits(band), self.labels.of(band)

    def _empty(self) -> tuple[Tensor, Tensor]:
        samples, channels = self.source.shape[:2]
        like, terms = self.labels.given[0], len(self.spec.terms)
        groups = samples if self.spec.per_sample else 1
        table = torch.zeros((groups, channels, FIXED_SUMS + terms), dtype=torch.float64, device=like.device)
        return table, table.new_zeros((terms, AUX_COLUMNS))

    def sums(self, group: Any = None) -> tuple[Tensor, Tensor]:
        """(sums [G, C, columns], aux [T, 4]) as the op `sums` gives them of whole logits."""
        table, aux = self._empty()
        kernels = self._kernels(distributed.summed_spec(self.spec))
        rows = table.unbind(0)
        for band, x, labels in self._each():
            found, denominators = kernels.sums(x, labels)
            rows[band.sample if len(rows) > 1 else 0].add_(found[0])
            aux += denominators
        if any(term.kind == "topk" for term in self.spec.terms):
            self._add_topk(table, aux, group)
        return table, aux

    def _elements(self) -> Iterator[tuple[Band, Tensor, Tensor]]:
        """The elements that top-k selects from, and which of them are valid."""
        spec = distributed.elements_spec(self.spec)
        assert spec is not None
        kernels = self._kernels(spec)
        for band, x, labels in self._each():
            y, mask, _ = labels
            elements = per_pixel(kernels.elements(x, labels), x)
            mask = mask if mask is None else per_pixel(mask, x)
            yield band, elements, select(spec, signed(per_pixel(y, x)), mask).expand_as(elements)

    def _add_topk(self, table: Tensor, aux: Tensor, group: Any) -> None:
        samples, channels, *space = self.source.shape
        numbers = samples * (1 if self.spec.softmax else channels) * torch.Size(space).numel()
        wide = torch.float64 if self.source.dtype == torch.float64 else torch.float32
        kept = list(self._elements()) if wide.itemsize * numbers <= self._keep else None
        for index, term in enumerate(self.spec.terms):
            if term.kind != "topk":
                continue
            again = self._elements if kept is None else kept.__iter__
            parts = lambda again=again: ((e, v) for _, e, v in again())  # noqa: E731
            aux[index] = topk.threshold(term.k, parts, wide, table.device, group)
            column = table[..., FIXED_SUMS + index]
            column *= 0  # stays NaN where a label is out of range
            for band, elements, valid in again():
                part = (elements * topk.share(elements, valid, aux[index])).sum((0, 2), dtype=torch.float64)
                column[band.sample if len(table) > 1 else 0, : len(part)] += part

    def gradient(self, grad_sums: Tensor, aux: Tensor) -> list[Tensor | None]:
        """The gradient of the source's parts from that of the sums [G, C, columns]."""
        terms = list(enumerate(self.spec.terms))
        largest = [(i, FIXED_SUMS + i) for i, term in terms if term.kind == "topk"]
        others = [i for i, term in terms if term.kind != "topk"]
        rest = self._kernels(replace(self.spec, terms=tuple([self.spec.terms[i] for i in others])))
        columns = [*range(FIXED_SUMS), *[FIXED_SUMS + i for i in others]]
        states = [rest.state(aux[others], group[None]) for group in grad_sums[..., columns]]
        spec = distributed.elements_spec(self.spec)
        for band, x, labels in self._each():
            row = band.sample if len(grad_sums) > 1 else 0
            grad = rest.gradient(x, labels, states[row]) if others else None
            if spec is not None:
                shares = [(aux[index], grad_sums[row, 0, column]) for index, column in largest]
                found = self._topk_gradient(self._kernels(spec), x, labels, shares)
                grad = found if grad is None else grad + found
            assert grad is not None
            self.source.take(band, grad)
        return self.source.grads()

    def _topk_gradient(self, kernels: Kernels, x: Tensor, labels: list, shares: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The elements' own gradient, each element weighted by its share of the top-k terms."""
        y, mask, pixel_weight = labels
        elements = per_pixel(kernels.elements(x, labels), x)
        weight = torch.zeros_like(elements)
        for aux, grad in shares:
            weight += topk.share(elements, None, aux) * grad.to(weight.dtype)
        if pixel_weight is not None:
            weight *= per_pixel(pixel_weight, x).to(weight.dtype)
        grad_sums = x.new_zeros((1, x.shape[1], FIXED_SUMS + 1), dtype=torch.float64)
        grad_sums[..., FIXED_SUMS:] = 1.0
        state = kernels.state(grad_sums.new_zeros((1, AUX_COLUMNS)), grad_sums)
        return kernels.gradient(x, [y, mask, weight.reshape(1, weight.shape[1], *x.shape[2:])], state)

    def factors(self, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(aux, factors [T]) of pointwise terms alone.

        The derivatives of such a loss by its sums are known beforehand: the terms' weights over their denominators.
        The factors are these, divided by the largest, so that no gradient of half logits is too small for its type.
        """
        aux = self._empty()[1]
        aux[:, AuxColumn.DENOMINATOR] = self.denominators()
        factors = []
        for below, term in zip(aux[:, AuxColumn.DENOMINATOR], self.spec.terms):
            weight = weights[term.weight_index].double() if term.weight_index >= 0 else torch.ones_like(below)
            below = torch.where(below == 0, torch.ones_like(below), below) if term.reduction == "mean" else 1.0
            factors.append(term.weight * weight / below)
        found = torch.stack(factors)
        largest = found.abs().max()
        return aux, found / torch.where(largest > 0, largest, torch.ones_like(largest))

    def in_one_walk(self, factors: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """(sums, gradient of the parts where that of each term's sum is its factor) of pointwise terms alone."""
        table, _ = self._empty()
        units = [replace(t, reduction="sum", weight=1.0, weight_index=i) for i, t in enumerate(self.spec.terms)]
        kernels = self._kernels(replace(self.spec, terms=tuple(units)))
        columns, weights = table[0, 0, FIXED_SUMS:], list(factors.unbind())
        for band, x, labels in self._each():
            values, grad = kernels.values_and_gradient(x, labels, weights)
            columns += values
            self.source.take(band, grad)
        return table, self.source.grads()

    def denominators(self) -> Tensor | float:
        """What the mean of each pointwise term divides by, from the labels alone: [T] or one number."""
        samples, channels, *space = self.source.shape
        spec, (y, mask, _) = self.spec, self.labels.given
        ids = spec.softmax and not y.is_floating_point()
        weighted = [term.weighted_mean and ids for term in spec.terms]
        ignores = spec.ignore_index is not None and (ids or not spec.softmax)
        if mask is None and not ignores and not any(weighted):
            return float(samples * (1 if spec.softmax else channels) * torch.Size(space).numel())
        total = torch.zeros(len(spec.terms), dtype=torch.float64, device=y.device)
        vectors = [constants(t.vector, total) if w else None for t, w in zip(spec.terms, weighted)]
        shape = self.source.shape
        for band in self.bands:
            like = y.new_empty(()).expand(1, *shape[1:])[(slice(None), slice(None), *band.box)]
            target, chosen, _ = self.labels.of(band)
            target = signed(per_pixel(target, like))
            valid = select(spec, target, chosen if chosen is None else per_pixel(chosen, like))
            if not spec.softmax:
                valid = valid.expand(1, channels, -1)
            for index, vector in enumerate(vectors):
                if vector is None:
                    total[index] += valid.sum()
                else:
                    weights = vector[target.long().clamp(0, channels - 1)]
                    total[index] += torch.where(valid, weights, torch.zeros_like(weights)).sum()
        return total

    def counts(self, threshold: float) -> Tensor:
        """int64 [N, C, 4] of tp, fp, fn, tn."""
        samples, channels = self.source.shape[:2]
        found = torch.zeros((samples, channels, 4), dtype=torch.int64, device=self.labels.given[0].device)
        for band, x, (y, mask, _) in self._each():
            if self.backend == "reference":
                found[band.sample] += reference.counts(self.spec, x, y, mask, threshold)[0]
            else:
                found[band.sample] += _ops.counts(self.backend, self.spec, x, y, mask, threshold)[0]
        return found

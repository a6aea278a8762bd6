"""Losses that are a constant plus a weighted sum of terms over one activation: what one fused pass computes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .._modes import unknown
from ..plan import Plan, plan
from ..spec import MAX_TERMS, Spec, Term


@dataclass(frozen=True)
class Linear:
    """constant + sum of terms; `run` computes both and the gradient of logits and a target in one pass.

    `undefined`: NaN, as a mean of torch's, where every class index is ignored; the kernels give 0.
    """

    mode: str
    terms: tuple[Term, ...]
    ignore_index: int | None = None
    constant: float = 0.0
    undefined: bool = False
    _plans: dict[bool | None, Plan] = field(default_factory=dict, init=False, repr=False, compare=False)

    def scaled(self, weight: float) -> Linear:
        if weight == 1:
            return self
        terms = tuple([term.weighted(weight * term.weight) for term in self.terms])
        return replace(self, terms=terms, constant=weight * self.constant)

    def plus(self, other: Linear) -> Linear | None:
        """Both in one pass, or None: another activation, other ignored labels, or too many terms."""
        ignored = [self.ignore_index, other.ignore_index]
        if self.mode == "multiclass" and None in ignored:
            # Who ignores no label takes a negative one for an error, and so must the sum.
            ignored = [label if label is None or label >= 0 else None for label in ignored]
        terms = self.terms + other.terms
        same = self.mode == other.mode and ignored[0] == ignored[1]
        if not same or len(terms) > MAX_TERMS or any([term.reduction == "none" for term in terms]):
            return None
        undefined = (self.undefined or other.undefined) and ignored[0] is not None
        return Linear(self.mode, terms, ignored[0], self.constant + other.constant, undefined)

    @property
    def plan(self) -> Plan:
        """All terms and the ignored label as they stand; `run` leaves out what changes nothing."""
        if torch.compiler.is_compiling():
            return plan(Spec(self.mode, self.terms, self.ignore_index))
        if None not in self._plans:
            self._plans[None] = plan(Spec(self.mode, self.terms, self.ignore_index))
        return self._plans[None]

    def run(self, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None) -> Tensor:
        ignores = representable(y, self.ignore_index)
        if ignores and self.mode != "multiclass":  # whose kernels look themselves
            ignores = may_ignore(y, self.ignore_index)
        ready = None if torch.compiler.is_compiling() else self._plans.get(ignores)
        value = (ready or self._plan(ignores)).run(x, y, mask, pixel_weight)[0]
        if self.undefined and ignores:
            value = nan_if_empty(value, x, y, self.ignore_index or 0)
        return value + self.constant if self.constant else value

    def _plan(self, ignores: bool) -> Plan:
        terms = tuple([term for term in self.terms if term.weight != 0])  # 0 * NaN is not 0
        ready = plan(Spec(self.mode, terms, self.ignore_index if ignores else None))
        if not torch.compiler.is_compiling():
            self._plans[ignores] = ready
        return ready


class Call(NamedTuple):
    """A loss and its inputs as the kernels take them; `factor` multiplies the value."""

    loss: Linear
    x: Tensor
    y: Tensor
    mask: Tensor | None = None
    pixel_weight: Tensor | None = None
    factor: float = 1.0

    def inputs(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        return self.x, self.y, self.mask, self.pixel_weight

    def scaled(self, weight: float) -> Call:
        """Return this call times `weight`, both factors inside the pass."""
        return Call(self.loss.scaled(self.factor).scaled(weight), *self.inputs())

    def run(self, scale: float) -> Tensor:
        return self.scaled(scale).loss.run(*self.inputs())


def representable(y: Tensor, ignore_index: int | None) -> bool:
    """Whether a label of this type can be the ignored one."""
    if ignore_index is None or y.is_floating_point():
        return ignore_index is not None
    if torch.compiler.is_compiling():
        return _fits(y.dtype, ignore_index)
    return _fits_cached(y.dtype, ignore_index)


def _fits(dtype: torch.dtype, label: int) -> bool:
    info = torch.iinfo(dtype)
    return info.min <= label <= info.max


_fits_cached = lru_cache(maxsize=256)(_fits)


def may_ignore(y: Tensor, ignore_index: int | None) -> bool:
    """Whether a label may be ignored. Eager code on the CPU looks: a search among the labels costs less than what the
    kernels save where every pixel counts, and libraries ignore some label by default."""
    if not representable(y, ignore_index):
        return False
    if unknown(y) or y.device.type != "cpu" or y.is_floating_point():
        return True
    negative = ignore_index is not None and ignore_index < 0
    if negative and y.numel() and y.amin().item() >= 0:  # the usual case, at a fifth of the cost of the search
        return False
    return bool((y == ignore_index).any())


def nan_if_empty(value: Tensor, x: Tensor, y: Tensor, ignore_index: int) -> Tensor:
    """NaN instead of the kernels' 0 if every class index is ignored."""
    if x.device.type == "cpu" and not unknown(value) and value.item() != 0:
        return value
    return torch.where((y == ignore_index).all(), torch.full_like(value, torch.nan), value)


def elementwise(
    loss: Linear, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None
) -> Tensor:
    """The elements of a loss of one pointwise term, times its weight."""
    (term,) = loss.terms
    if term.weight == 0:
        term = replace(term, weight=1.0)
        return elementwise(replace(loss, terms=(term,)), x, y, mask, pixel_weight) * 0.0
    spec = Spec(loss.mode, (replace(term, reduction="none"),), loss.ignore_index)
    return plan(spec).run(x, y, mask, pixel_weight)[0]

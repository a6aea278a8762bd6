"""Losses that are a constant plus a weighted sum of terms over one activation: what one fused pass computes."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from ..compound import MAX_TERMS
from ..plan import plan
from ..spec import Spec, Term


class Linear(NamedTuple):
    """constant + sum of terms. Called with logits and a target, it computes both and the gradient in one pass."""

    mode: str
    terms: tuple[Term, ...]
    ignore_index: int | None = None
    constant: float = 0.0

    def scaled(self, weight: float) -> Linear:
        terms = self.terms if weight == 1 else tuple([term.weighted(weight * term.weight) for term in self.terms])
        return self._replace(terms=terms, constant=weight * self.constant)

    def plus(self, other: Linear) -> Linear | None:
        """Both in one pass, or None: another activation, other ignored labels, or too many terms."""
        same = self.mode == other.mode and self.ignore_index == other.ignore_index
        terms = self.terms + other.terms
        if not same or len(terms) > MAX_TERMS or any([term.reduction == "none" for term in terms]):
            return None
        return self._replace(terms=terms, constant=self.constant + other.constant)

    def __call__(self, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None) -> Tensor:
        terms = tuple([term for term in self.terms if term.weight != 0])  # 0 * NaN is not 0
        value = plan(Spec(self.mode, terms, self.ignore_index)).run(x, y, mask, pixel_weight)[0]
        return value + self.constant if self.constant else value


def elementwise(
    loss: Linear, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None
) -> Tensor:
    """The elements of a loss of one pointwise term, times its weight."""
    (term,) = loss.terms
    if term.weight == 0:
        term = replace(term, weight=1.0)
        return elementwise(loss._replace(terms=(term,)), x, y, mask, pixel_weight) * 0.0
    spec = Spec(loss.mode, (replace(term, reduction="none"),), loss.ignore_index)
    return plan(spec).run(x, y, mask, pixel_weight)[0]

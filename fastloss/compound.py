"""Losses that add up: the base class of all losses, and their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from . import _arguments as check
from ._planned import Planned
from .plan import plan
from .spec import MAX_TERMS, Spec, Term
from .stats import Stats


class Part(NamedTuple):
    """One term of a loss: the name it has in `Stats.terms`, the text it has in `repr`, and the names of the weight
    tensors that multiply its weight."""

    name: str
    text: str
    term: Term
    factors: tuple[str, ...] = ()


class Criterion(Planned):
    """Base of every loss: called with logits and a target, and closed under `+`, `-`, `*` and `/`.

    Attributes: mode, ignore_index, backend and process_group as given to the constructor (read-only). A setting that is
    assigned later raises AttributeError: a loss is made once, and another one costs nothing.
    """

    __array_ufunc__ = None  # numpy scalars leave `scalar * loss` to the loss

    def __init__(
        self,
        parts: list[Part],
        mode: str,
        ignore_index: int | None = None,
        backend: str | None = None,
        process_group: Any = None,
    ) -> None:
        super().__init__()
        self._parts = tuple(parts)
        self._factors = tuple(dict.fromkeys([part.factors for part in parts if part.factors]))
        terms, rows = [], []
        for part in parts:
            index = self._factors.index(part.factors) if part.factors else -1
            kept = part.term.weight != 0 or index >= 0  # 0 * NaN is not 0: such a term is not computed at all
            rows.append(len(terms) if kept else -1)
            if kept:
                terms.append(part.term.weighted(part.term.weight, index))
        self._rows = tuple(rows)
        self._names = tuple([part.name for part in parts])
        self._plan = plan(Spec(mode, tuple(terms), ignore_index), backend, process_group)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._buffers or name in self._parameters:  # weight tensors
            _weight(value)
        super().__setattr__(name, value)

    @property
    def spec(self) -> Spec:
        """What is computed, as immutable data."""
        return self._plan.spec

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None) -> Tensor:
        """Compute the loss of logits x and target y.

        Args:
            x: logits [N, C, *S] with 1 to 3 spatial axes (binary: [N, 1, *S] or [N, H, W]).
            y: binary, multilabel: the shape of x, or [N, *S] for one channel, with values in [0, 1] (floats that
                rounding left outside, by 1e-5 or the eps of a half type, are clamped); multiclass: class indices
                [N, *S] or [N, 1, *S], or probabilities of x's shape.
            mask: bool [N, *S] or [N, 1, *S] (or x's shape, unless multiclass); only True elements count.
            pixel_weight: floating, the shapes of mask, not negative; multiplies the elements of pointwise terms (BCE,
                CE, focal, top-k), whose mean still divides by the number of valid elements.

        Returns:
            0-d, float32 (float64 for float64 logits); with reduction="none" the elements.

        Raises:
            TypeError, ValueError: an argument does not fit; the sentence says which, what came and what is expected.
            RuntimeError: the backend that was asked for cannot run here.
        """
        return self._plan.run(x, y, mask, pixel_weight, self._weights() if self._factors else None)[0]

    def with_stats(
        self,
        x: Tensor,
        y: Tensor,
        threshold: float = 0.5,
        mask: Tensor | None = None,
        pixel_weight: Tensor | None = None,
    ) -> tuple[Tensor, Stats]:
        """(loss, `Stats`) of the same pass; a pixel is predicted positive where sigmoid(x) >= threshold.

        Raises what the plain call raises, and ValueError for reduction="none" or a threshold outside [0, 1].
        """
        if self._plan.elementwise:
            raise ValueError("with_stats needs reduction 'mean' or 'sum', this loss has 'none'.")
        check.threshold(threshold)
        weights = self._weights() if self._factors else None
        loss, values, counts = self._plan.run(x, y, mask, pixel_weight, weights, True, threshold)
        assert values is not None and counts is not None
        return loss, self._named(values, counts)

    def _named(self, values: Tensor, counts: Tensor) -> Stats:
        """Statistics from the values of the terms that are computed."""
        if len(values) != len(self._rows):
            missing = values.new_full((), math.nan)
            values = torch.stack([missing if row < 0 else values[row] for row in self._rows])
        return Stats(counts, self._names, values)

    def _weights(self) -> list[Tensor]:
        """The effective weight tensors, in the order of Term.weight_index."""
        weights = []
        for factors in self._factors:
            weight = self._tensor(factors[0])
            for name in factors[1:]:
                weight = weight * self._tensor(name)
            weights.append(weight if weight.dtype in (torch.float32, torch.float64) else weight.float())
        return weights

    def _tensor(self, name: str) -> Tensor:
        found: Any = self._buffers.get(name)
        parameter: Any = self._parameters.get(name)
        return parameter if found is None else found

    def __add__(self, other: object) -> Criterion:
        if isinstance(other, Real) and other == 0:
            return self  # sum() starts from 0
        return CompoundLoss([(1.0, self), (1.0, other)]) if _addable(other) else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: object) -> Criterion:
        return CompoundLoss([(1.0, self), (-1.0, other)]) if _addable(other) else NotImplemented

    def __rsub__(self, other: object) -> Criterion:
        _addable(other)  # losses of fastloss subtract by themselves
        return NotImplemented

    def __neg__(self) -> Criterion:
        return CompoundLoss([(-1.0, self)])

    def __mul__(self, weight: Any) -> Criterion:
        pair: Any = (weight, self)
        return CompoundLoss([pair]) if isinstance(weight, Real | Tensor) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, number: object) -> Criterion:
        if not isinstance(number, Real):
            return NotImplemented
        if number == 0:
            raise ValueError("a loss cannot be divided by 0.")
        return CompoundLoss([(1.0 / float(number), self)])


class CompoundLoss(Criterion):
    """A weighted sum of losses, computed in one pass over the inputs: what `0.5 * A + 0.5 * B` gives.

    It is flat: compounds inside it are spread out and their weights multiplied. Weight tensors become buffers (or
    parameters) `weight_0`, `weight_1` …, the very tensors that were given until `.to` moves them: fill them in place to
    change a weight without recompiling or re-capturing a graph. One that requires a gradient gets it.
    """

    def __init__(self, terms: Iterable[tuple[float | Tensor, Criterion]]) -> None:
        """Make the sum of weight * loss.

        Args:
            terms: pairs (weight, loss), at most 16 terms in all; a weight is a finite number or a 0-d floating tensor.

        Raises:
            ValueError: losses of different mode, ignore_index, backend or process group (pointwise losses but top-k
                have none), reduction="none", no or too many terms, or a weight that is not finite or not 0-d.
            TypeError: a weight is no number or floating-point tensor, or a loss is none of fastloss.
        """
        pairs = [(weight, _checked(loss)) for weight, loss in check.pairs("terms", terms, "(weight, loss)")]
        mode, ignore_index, backend, group = _common([loss for _, loss in pairs])
        tensors: dict[str, Tensor] = {}
        parts: list[Part] = []
        numbers, owned = [], []
        for weight, _ in pairs:  # before the tensors inside the losses: `weight_0` is the first one given here
            number, factor = _weight(weight)
            numbers.append(number)
            owned.append(() if factor is None else (_register(tensors, factor),))
        for (_, loss), number, own in zip(pairs, numbers, owned):
            for part in loss._parts:
                factors = own + tuple([_register(tensors, loss._tensor(name)) for name in part.factors])
                name = _unused(part.name, [p.name for p in parts])
                parts.append(Part(name, part.text, part.term.weighted(number * part.term.weight), factors))
        if len(parts) > MAX_TERMS:
            raise ValueError(f"a compound holds at most {MAX_TERMS} terms, got {len(parts)}.")
        super().__init__(parts, mode, ignore_index, backend, group)
        for name, tensor in tensors.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)

    def __repr__(self) -> str:
        lines = []
        for part in self._parts:
            factors = "".join([f" * {name}={check.shown(self._tensor(name))}" for name in part.factors])
            lines.append(f"  {part.term.weight:+.6g}{factors} * {part.text}")
        return "CompoundLoss(\n" + "\n".join(lines) + "\n)"


def _addable(other: object) -> TypeGuard[Criterion]:
    """Whether it is a loss of fastloss; raises TypeError for a module that is none and cannot add itself."""
    if isinstance(other, nn.Module) and not isinstance(other, Criterion) and not hasattr(type(other), "__radd__"):
        _checked(other)
    return isinstance(other, Criterion)


def _checked(loss: object) -> Criterion:
    if not isinstance(loss, Criterion):
        hint = "; fastloss.fuse([(weight, loss), …]) adds losses of any library" if isinstance(loss, nn.Module) else ""
        raise TypeError(f"a compound is made of fastloss losses, got {type(loss).__name__}{hint}.")
    if loss._plan.elementwise:
        raise ValueError("reduction='none' cannot be used inside a compound; use 'mean' or 'sum'.")
    return loss


def _common(losses: list[Criterion]) -> tuple[str, int | None, str | None, Any]:
    """The settings that all losses share; pointwise losses but top-k have no opinion about the process group."""
    first = losses[0]
    for loss in losses[1:]:
        for name in ("mode", "ignore_index", "backend"):
            a, b = getattr(first, name), getattr(loss, name)
            if a != b:
                raise ValueError(f"losses of one compound must share their {name}, got {a!r} and {b!r}.")
    if len({loss.spec.unbounded for loss in losses}) > 1:
        raise ValueError("a boundary loss takes a distance map as its target, other losses labels; add their values.")
    pooled = [loss for loss in losses if any([part.term.region or part.term.kind == "topk" for part in loss._parts])]
    groups = [loss.process_group for loss in pooled]
    for group in groups[1:]:
        if group is not groups[0]:
            raise ValueError(f"losses of one compound must share their process_group, got {groups[0]!r} and {group!r}.")
    group = groups[0] if groups else None
    return first.mode, first.ignore_index, first.backend, group


def _weight(weight: object) -> tuple[float, Tensor | None]:
    """(number, None) or (1.0, tensor)."""
    if isinstance(weight, Tensor):
        if weight.ndim != 0:
            raise ValueError(f"a weight tensor must be 0-d, got the shape {list(weight.shape)}.")
        if not weight.is_floating_point():
            raise TypeError(f"a weight tensor must be floating-point, got {str(weight.dtype).removeprefix('torch.')}.")
        return 1.0, weight
    if isinstance(weight, bool) or not isinstance(weight, Real):
        raise TypeError(f"a weight must be a number or a 0-d tensor, got {type(weight).__name__}.")
    if not math.isfinite(weight):
        raise ValueError(f"a weight must be finite, got {weight}.")
    return float(weight), None


def _register(tensors: dict[str, Tensor], tensor: Tensor) -> str:
    """The name of a weight tensor; the same tensor keeps its one name."""
    for name, known in tensors.items():
        if known is tensor:
            return name
    name = f"weight_{len(tensors)}"
    tensors[name] = tensor
    return name


def _unused(name: str, taken: list[str]) -> str:
    stem = name.split("_")[0]
    candidate, number = stem, 1
    while candidate in taken:
        number += 1
        candidate = f"{stem}_{number}"
    return candidate

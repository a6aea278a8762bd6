"""What a loss is, as data: the one thing that crosses every boundary (C++, Triton, reference).

A `Spec` is a mode and a tuple of `Term`s. It is immutable and hashable, holds no tensors, and is encoded as two flat
lists of numbers for the kernels. A new kind of term is one row in `KINDS`; a new parameter is one field with a default.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

ENCODING_VERSION = 1
MODES = ("binary", "multilabel", "multiclass")
KINDS = ("bce", "ce", "focal", "topk", "tversky")
REDUCTIONS = ("mean", "sum", "none")
EMPTY = ("zero", "skip", "score")


@dataclass(frozen=True)
class Term:
    """One term: its kind, its weight in the sum, and its parameters (those of other kinds keep their defaults)."""

    kind: str
    weight: float = 1.0
    weight_index: int = -1  # into the list of 0-d weight tensors; the effective weight is weight * tensor
    reduction: str = "mean"
    gamma: float = 1.0
    alpha: float = 0.5  # weighs FP
    beta: float = 0.5  # weighs FN
    smooth: float = 0.0
    eps: float = 1e-7
    label_smoothing: float = 0.0
    k: Fraction | None = None
    log_loss: bool = False
    squared: bool = False
    l1: bool = False
    batch: bool = True
    empty: str = "zero"
    vector: tuple[float, ...] = ()  # bce: pos_weight, ce: class_weights, focal: alpha, tversky: class_weights
    classes: tuple[int, ...] | None = None
    margin: bool = False  # focal, sigmoid, soft labels: 1 - p_t is sigmoid(-x (2y - 1)), as in MONAI

    def __post_init__(self) -> None:
        if self.label_smoothing != 0 and self.kind not in ("bce", "ce"):  # no kernel of another kind reads it
            given = f"{self.label_smoothing} for {self.kind!r}"
            raise ValueError(f"label_smoothing needs a term of the kind 'bce' or 'ce', got {given}.")

    @property
    def region(self) -> bool:
        return self.kind == "tversky"

    def weighted(self, weight: float, weight_index: int = -1) -> Term:
        return replace(self, weight=float(weight), weight_index=weight_index)

    def per_class(self, channels: int) -> tuple[float, ...]:
        """The vector that the kernels read: `classes` becomes a weight of 0 for the channels that do not count."""
        if self.classes is None:
            return self.vector
        weights = self.vector or (1.0,) * channels
        return tuple([weights[c] if c in self.classes else 0.0 for c in range(channels)])


@dataclass(frozen=True)
class Spec:
    """A weighted sum of terms over one activation: sigmoid (binary, multilabel) or softmax (multiclass)."""

    mode: str
    terms: tuple[Term, ...]
    ignore_index: int | None = None

    @property
    def softmax(self) -> bool:
        return self.mode == "multiclass"

    @property
    def per_sample(self) -> bool:
        """Whether some term needs the sums of each sample apart."""
        return any([not term.batch for term in self.terms])

    @property
    def elementwise(self) -> bool:
        return any([term.reduction == "none" for term in self.terms])

    def encode(self, channels: int) -> tuple[list[int], list[float]]:
        """The spec as (ints, floats) for inputs of `channels` channels; the layout is that of csrc/math/spec.h.

        The lists are cached and shared: read them only.
        """
        return _cached_encode(self, channels if self.by_channels else 0)

    @property
    def by_channels(self) -> bool:
        """Whether the encoding depends on the number of channels."""
        return any([term.classes is not None for term in self.terms])


def _ratio(k: Fraction | None) -> tuple[int, int]:
    if k is None:
        return 0, 1
    return (k.numerator, k.denominator) if k.denominator < 2**62 else (0, 1)  # so tiny that one element is the top


def encode(spec: Spec, channels: int) -> tuple[list[int], list[float]]:
    has_ignore = spec.ignore_index is not None
    ints = [ENCODING_VERSION, int(spec.softmax), int(has_ignore), spec.ignore_index if has_ignore else 0]
    ints += [int(spec.mode == "binary"), len(spec.terms)]
    floats: list[float] = []  # first 8 a term, then the pool of vectors
    pool: list[float] = []
    for t in spec.terms:
        vector = t.per_class(channels)
        ints += [KINDS.index(t.kind), t.weight_index, REDUCTIONS.index(t.reduction)]
        ints += [int(t.log_loss), int(t.squared), int(t.l1), EMPTY.index(t.empty), int(t.batch), *_ratio(t.k)]
        ints += [len(pool), len(vector)]
        floats += [t.weight, t.gamma, t.alpha, t.beta, t.smooth, t.eps, t.label_smoothing, float(t.margin)]
        pool += vector
    return ints, floats + pool


_cached_encode = lru_cache(maxsize=512)(encode)

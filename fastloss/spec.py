"""What a loss is, as data: the one thing that crosses every boundary (C++, Triton, reference).

A `Spec` is a mode and a tuple of `Term`s. It is immutable and hashable, holds no tensors, and is encoded as two flat
lists of numbers for the kernels. A new kind of term is one row in `KINDS`; a new parameter is one field with a default
and one name in `TermInt` or `TermFloat`. csrc/math/spec.h and sums.h have the same layouts, which
tests/backends/test_mirrors.py compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

ENCODING_VERSION = 3
MAX_TERMS = 16
MODES = ("binary", "multilabel", "multiclass")
# Those that kernels know.
KINDS = ("bce", "ce", "focal", "topk", "tversky", "poly", "log_power", "boundary", "wasserstein")
# Region kinds that PyTorch finishes (reference/overlap.py): to the kernels they are a Tversky term, of the same sums.
SUMMED_KINDS = ("mcc", "generalized_dice", "tvmf_dice", "boundary_dou", "sensitivity_specificity", "weighted_dice")
REGION_KINDS = ("tversky", *SUMMED_KINDS)  # functions of the sums of a class; the others are pointwise
REDUCTIONS = ("mean", "sum", "none")
EMPTY = ("zero", "skip", "score")
CURVES = ("power", "log_cosh", "root", "log")  # what becomes of the score of a region term
WANT_GRAD, WANT_COUNTS = 1, 2  # flags of the op `loss`


# Layouts by name. Plain integers and no enums, which not every torch.compile traces.
class SumColumn:
    """Columns of the sums of a class and of their gradients, [G, C, FIXED_SUMS + T]; p is the activation, y the target.

    Column FIXED_SUMS + i holds the sum of the elements of term i, if that is pointwise.
    """

    VALID = 0  # number of valid elements
    INTER = 1  # sum of p y
    PRED = 2  # of p
    TARGET = 3  # of y
    PRED_SQ = 4  # of p^2
    TARGET_SQ = 5  # of y^2
    ABS_DIFF = 6  # of |p - y|
    PRED_SQ_TARGET = 7  # of p^2 y


class AuxColumn:
    """Columns of `aux` [T, AUX_COLUMNS]: what a pointwise term needs besides its sum."""

    DENOMINATOR = 0  # of its mean
    THRESHOLD = 1  # of top-k: the smallest selected element,
    TIE_WEIGHT = 2  # the weight of the elements that equal it,
    TOP_COUNT = 3  # and the number of selected elements


class Header:
    """Integers at the head of an encoded spec."""

    VERSION = 0
    ACTIVATION = 1  # 0 sigmoid, 1 softmax
    HAS_IGNORE = 2
    IGNORE_INDEX = 3
    BINARY = 4
    TERMS = 5


class TermInt:
    """Integers of an encoded term, TERM_INTS of them."""

    KIND = 0
    WEIGHT_INDEX = 1
    REDUCTION = 2
    CURVE = 3
    SQUARED = 4
    L1 = 5
    EMPTY = 6
    BATCH = 7
    K_NUM = 8
    K_DEN = 9
    VECTOR_BEGIN = 10  # in the pool, which follows the floats of all terms
    VECTOR_LENGTH = 11
    CROSSED = 12


class TermFloat:
    """Floats of an encoded term, TERM_FLOATS of them."""

    WEIGHT = 0
    GAMMA = 1
    ALPHA = 2
    BETA = 3
    SMOOTH = 4
    EPS = 5
    LABEL_SMOOTHING = 6
    MARGIN = 7


def names_of(layout: type) -> list[str]:
    """The names of a layout, in order."""
    return [name for name in vars(layout) if name.isupper()]


FIXED_SUMS, AUX_COLUMNS = len(names_of(SumColumn)), len(names_of(AuxColumn))
HEADER_INTS, TERM_INTS, TERM_FLOATS = len(names_of(Header)), len(names_of(TermInt)), len(names_of(TermFloat))
COUNTS = 4  # tp, fp, fn, tn
_REGION_CODES = (KINDS.index("tversky"),)


class Layout(NamedTuple):
    """Sizes of the small float64 tensors of a call, and where the parts of its `state` begin.

    state = [values [T] | aux [T, AUX_COLUMNS] | grad_sums [G, C, columns] | counts [N, C, COUNTS] or nothing | scale].
    G is N if some term takes each sample by itself, else 1; scale is what forward multiplied the gradient by.
    """

    groups: int
    channels: int
    columns: int
    terms: int
    aux_at: int
    grad_sums_at: int
    counts_at: int


def layout_of(shape: Sequence[int], ints: Sequence[int]) -> Layout:
    """The layout of a call with logits of that shape ([N, C, *S], binary also [N, H, W]) and an encoded spec."""
    terms = ints[Header.TERMS]
    channels = 1 if ints[Header.BINARY] and len(shape) == 3 and shape[1] != 1 else shape[1]
    first = range(HEADER_INTS, HEADER_INTS + terms * TERM_INTS, TERM_INTS)
    per_sample = any([ints[i + TermInt.KIND] in _REGION_CODES and not ints[i + TermInt.BATCH] for i in first])
    groups, columns = shape[0] if per_sample else 1, FIXED_SUMS + terms
    grad_sums_at = terms * (1 + AUX_COLUMNS)
    return Layout(groups, channels, columns, terms, terms, grad_sums_at, grad_sums_at + groups * channels * columns)


@dataclass(frozen=True)
class Term:
    """One term: its kind, its weight in the sum, and its parameters (those of other kinds keep their defaults)."""

    kind: str
    weight: float = 1.0
    weight_index: int = -1  # into the list of 0-d weight tensors; the effective weight is weight * tensor
    reduction: str = "mean"
    gamma: float = 1.0  # focal and log_power: the exponent
    alpha: float = 0.5  # weighs FP
    beta: float = 0.5  # weighs FN
    smooth: float = 0.0
    eps: float = 1e-7  # poly: the coefficient of 1 - p_t
    label_smoothing: float = 0.0
    k: Fraction | None = None
    curve: str = "power"
    squared: bool = False
    l1: bool = False
    crossed: bool = False  # needs the sum of p^2 y too; with squared only
    batch: bool = True
    empty: str = "zero"
    # bce: pos_weight, focal: alpha, wasserstein: the matrix of distances by rows, others: class_weights (or pos_weight)
    vector: tuple[float, ...] = ()
    classes: tuple[int, ...] | None = None
    kappa: tuple[float, ...] = ()  # tvmf_dice: one number, or one for each class; no kernel reads it
    margin: bool = False  # focal, sigmoid, soft labels: 1 - p_t is sigmoid(-x (2y - 1)), as in MONAI

    def __post_init__(self) -> None:
        if self.label_smoothing != 0 and self.kind not in ("bce", "ce", "poly"):  # no kernel of another kind reads it
            given = f"{self.label_smoothing} for {self.kind!r}"
            raise ValueError(f"label_smoothing needs a term of the kind 'bce', 'ce' or 'poly', got {given}.")

    @property
    def region(self) -> bool:
        return self.kind in REGION_KINDS

    @property
    def summed(self) -> bool:
        """Whether the kernels make its sums only."""
        return self.kind in SUMMED_KINDS

    @property
    def weighted_mean(self) -> bool:
        """Whether the mean over class indices divides by the sum of the pixels' class weights."""
        return self.kind in ("ce", "poly") and bool(self.vector)

    def weighted(self, weight: float, weight_index: int = -1) -> Term:
        return replace(self, weight=float(weight), weight_index=weight_index)

    def per_class(self, channels: int, softmax: bool = False) -> tuple[float, ...]:
        """The vector that the kernels read: `classes` becomes a weight of 0 for the channels that do not count.

        A boundary term's mean is over pixels and the classes that count, where that of other terms is over pixels
        (softmax) or over all channels.
        """
        if self.kind == "boundary" and not self.vector:
            chosen = range(channels) if self.classes is None else self.classes
            each = (1 if softmax else channels) / len(chosen) if self.reduction == "mean" else 1.0
            return tuple([each if c in chosen else 0.0 for c in range(channels)])
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
    def summed(self) -> bool:
        """Whether PyTorch finishes some term."""
        return any([term.summed for term in self.terms])

    @property
    def elementwise(self) -> bool:
        return any([term.reduction == "none" for term in self.terms])

    @property
    def unbounded(self) -> bool:
        """Whether the target is a map of distances, not labels."""
        return any([term.kind == "boundary" for term in self.terms])

    def encode(self, channels: int) -> tuple[list[int], list[float]]:
        """The spec as (ints, floats) for inputs of `channels` channels; the layout is that of csrc/math/spec.h.

        The lists are cached and shared: read them only.
        """
        return _cached_encode(self, channels if self.by_channels else 0)

    @property
    def by_channels(self) -> bool:
        """Whether the encoding depends on the number of channels."""
        return any([t.classes is not None or (t.kind == "boundary" and not t.vector) for t in self.terms])


def _ratio(k: Fraction | None) -> tuple[int, int]:
    if k is None:
        return 0, 1
    return (k.numerator, k.denominator) if k.denominator < 2**62 else (0, 1)  # so tiny that one element is the top


def encode(spec: Spec, channels: int) -> tuple[list[int], list[float]]:
    """See `Spec.encode`; the order is that of `Header`, `TermInt` and `TermFloat`."""
    has_ignore = spec.ignore_index is not None
    ints = [ENCODING_VERSION, int(spec.softmax), int(has_ignore), spec.ignore_index if has_ignore else 0]
    ints += [int(spec.mode == "binary"), len(spec.terms)]
    floats: list[float] = []
    pool: list[float] = []
    for t in spec.terms:
        vector = t.per_class(channels, spec.softmax)
        ints += [KINDS.index("tversky" if t.summed else t.kind), t.weight_index, REDUCTIONS.index(t.reduction)]
        ints += [CURVES.index(t.curve), int(t.squared), int(t.l1), EMPTY.index(t.empty), int(t.batch), *_ratio(t.k)]
        ints += [len(pool), len(vector), int(t.crossed)]
        floats += [t.weight, t.gamma, t.alpha, t.beta, t.smooth, t.eps, t.label_smoothing, float(t.margin)]
        pool += vector
    return ints, floats + pool


_cached_encode = lru_cache(maxsize=512)(encode)


@lru_cache(maxsize=256)
def decode(ints: tuple[int, ...], floats: tuple[float, ...]) -> Spec:
    """The spec of an encoding, for what runs Python inside an op; `classes` has become a part of the vector."""
    count = ints[Header.TERMS]
    pool, terms = floats[TERM_FLOATS * count :], []
    for t in range(count):
        i, f = ints[HEADER_INTS + TERM_INTS * t :], floats[TERM_FLOATS * t :]
        kind, begin = KINDS[i[TermInt.KIND]], i[TermInt.VECTOR_BEGIN]
        k = Fraction(i[TermInt.K_NUM], i[TermInt.K_DEN]) if i[TermInt.K_NUM] else Fraction(1, 2**62)
        terms.append(
            Term(
                kind,
                weight=f[TermFloat.WEIGHT],
                weight_index=i[TermInt.WEIGHT_INDEX],
                reduction=REDUCTIONS[i[TermInt.REDUCTION]],
                gamma=f[TermFloat.GAMMA],
                alpha=f[TermFloat.ALPHA],
                beta=f[TermFloat.BETA],
                smooth=f[TermFloat.SMOOTH],
                eps=f[TermFloat.EPS],
                label_smoothing=f[TermFloat.LABEL_SMOOTHING],
                k=k if kind == "topk" else None,
                curve=CURVES[i[TermInt.CURVE]],
                squared=bool(i[TermInt.SQUARED]),
                l1=bool(i[TermInt.L1]),
                crossed=bool(i[TermInt.CROSSED]),
                batch=bool(i[TermInt.BATCH]),
                empty=EMPTY[i[TermInt.EMPTY]],
                vector=tuple(pool[begin : begin + i[TermInt.VECTOR_LENGTH]]),
                margin=bool(f[TermFloat.MARGIN]),
            )
        )
    mode = "multiclass" if ints[Header.ACTIVATION] else "binary" if ints[Header.BINARY] else "multilabel"
    return Spec(mode, tuple(terms), ints[Header.IGNORE_INDEX] if ints[Header.HAS_IGNORE] else None)

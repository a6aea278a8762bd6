"""From encoded specs to what the kernels take: compile-time constants of the terms, and numbers on a device."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..spec import (
    AUX_COLUMNS,
    CURVES,
    EMPTY,
    ENCODING_VERSION,
    FIXED_SUMS,
    HEADER_INTS,
    KINDS,
    MAX_TERMS,
    REDUCTIONS,
    REGION_KINDS,
    TERM_FLOATS,
    TERM_INTS,
    AuxColumn,
    Header,
    SumColumn,
    TermFloat,
    TermInt,
    names_of,
)
from .layout import require


class KernelTerm(NamedTuple):
    """A term as a compile-time constant of the kernels. What ends in _at says where a number lies: in `numbers` (the
    floats of the encoded spec), in a row of the sums, or in aux.

    Kernels get names this way, not as global constants: Triton compares those at each launch, 3 us each.
    """

    focal: int
    margin: int  # focal, and Term.margin
    poly: int
    log_power: int
    boundary: int
    matrix: int  # wasserstein: a row of the vector, which the class index names, is the label
    topk: int
    region: int
    power: int  # (1 - p_t)^gamma: 0, 1 and 2 are exponents that cost no logarithm, 3 is any other
    mean: int
    log_cosh: int  # the curve, if it is no power
    root: int
    log: int
    squared: int
    l1: int
    skip: int  # EMPTY of a class without target pixels: "skip"; "score"
    score: int
    batch: int
    vector: int  # 0: none, 1: one number for all channels, 2: one for each
    weighted_mean: int  # of class indices the mean divides by the weights of the classes
    weight_index: int
    weight_at: int
    gamma_at: int
    alpha_at: int
    beta_at: int
    smooth_at: int
    eps_at: int
    smoothing_at: int
    vector_at: int
    sum_at: int
    denominator_at: int
    threshold_at: int
    tie_at: int
    top_count_at: int


class Columns(NamedTuple):
    """`SumColumn` as a compile-time constant of the kernels; `first_term`: FIXED_SUMS."""

    valid: int
    inter: int
    pred: int
    target: int
    pred_sq: int
    target_sq: int
    abs_diff: int
    pred_sq_target: int
    first_term: int


class AuxColumns(NamedTuple):
    """`AuxColumn` as a compile-time constant of the kernels."""

    denominator: int
    threshold: int
    tie_weight: int
    top_count: int


SUM_COLUMNS = Columns(**{name.lower(): getattr(SumColumn, name) for name in names_of(SumColumn)}, first_term=FIXED_SUMS)
AUX = AuxColumns(**{name.lower(): getattr(AuxColumn, name) for name in names_of(AuxColumn)})


class KernelSpec:
    """A spec as the kernels take it: structure as constants, settings as numbers in a small device tensor."""

    def __init__(self, ints: tuple[int, ...], floats: tuple[float, ...]) -> None:
        require(len(ints) >= HEADER_INTS and ints[Header.VERSION] == ENCODING_VERSION, "unknown spec encoding")
        self.count = ints[Header.TERMS]
        require(ints[Header.ACTIVATION] in (0, 1), "unknown activation")
        require(1 <= self.count <= MAX_TERMS, f"a compound holds 1 to {MAX_TERMS} terms")
        pool = TERM_FLOATS * self.count
        good = len(ints) == HEADER_INTS + self.count * TERM_INTS and len(floats) >= pool
        require(good, "spec encoding of the wrong length")
        self.softmax, self.binary = bool(ints[Header.ACTIVATION]), bool(ints[Header.BINARY])
        self.has_ignore, self.ignore_index = bool(ints[Header.HAS_IGNORE]), ints[Header.IGNORE_INDEX]
        self.terms: tuple[KernelTerm, ...] = ()
        self.topk: tuple[tuple[int, int, int], ...] = ()  # (index of the term, numerator and denominator of k)
        self.vector, self.weights = 0, 0  # channels and weight tensors that must be there
        self.smoothing = False  # under softmax: every class has a label also where class indices are given
        self.unbounded = 0  # targets are distances: no label is out of range
        for i in range(self.count):
            a = ints[HEADER_INTS + i * TERM_INTS :][:TERM_INTS]
            f = floats[TERM_FLOATS * i :][:TERM_FLOATS]
            self._add(i, a, f, pool, len(floats) - pool)
        regions = [t for t in self.terms if t.region]
        # How focal elements are computed does not matter to the kernel `finalize`.
        self.pixel_terms = tuple([t for t in self.terms if not t.region])
        self.terms = tuple([t._replace(power=0, margin=0, matrix=0) for t in self.terms])
        if self.topk:  # what top-k selects from: BCE or cross-entropy as it is
            self.topk_elements = self.terms[self.topk[0][0]]._replace(topk=0, vector=0, weight_index=-1)
        self.region, self.extra = int(bool(regions)), int(any([t.squared or t.l1 for t in regions]))
        self.per_sample = int(any([not t.batch for t in regions]))
        self.weighted = any([t.weighted_mean for t in self.terms])
        self.columns = FIXED_SUMS + self.count
        self.width = 16 if self.columns <= 16 else 32
        self.ints, self.floats = ints, floats
        self._numbers: dict[tuple, Tensor] = {}

    def _add(self, i: int, a: tuple[int, ...], f: tuple[float, ...], pool: int, room: int) -> None:
        kind, weight_index, reduction, empty = [
            a[field] for field in (TermInt.KIND, TermInt.WEIGHT_INDEX, TermInt.REDUCTION, TermInt.EMPTY)
        ]
        k, begin, length = a[TermInt.K_NUM], a[TermInt.VECTOR_BEGIN], a[TermInt.VECTOR_LENGTH]
        require(0 <= kind < len(KINDS), "unknown term kind")
        require(0 <= reduction < len(REDUCTIONS) and 0 <= empty < len(EMPTY), "unknown setting of a term")
        require(0 <= a[TermInt.CURVE] < len(CURVES), "unknown curve of a term")
        require(begin >= 0 and length >= 0 and begin + length <= room, "term vector outside the pool")
        name, gamma = KINDS[kind], f[TermFloat.GAMMA]
        require(name != "topk" or a[TermInt.K_DEN] >= 1, "top-k fraction with a denominator below 1")
        self.weights = max(self.weights, weight_index + 1)
        self.vector = max(self.vector, math.isqrt(length) if name == "wasserstein" else length if length > 1 else 0)
        self.smoothing |= name == "wasserstein" or f[TermFloat.LABEL_SMOOTHING] != 0.0
        self.unbounded |= int(name == "boundary")
        if name == "topk":
            self.topk += ((i, k, a[TermInt.K_DEN]),)
        at, aux = TERM_FLOATS * i, AUX_COLUMNS * i
        self.terms += (
            KernelTerm(
                focal=int(name == "focal"),
                margin=int(name == "focal" and f[TermFloat.MARGIN] != 0.0),
                poly=int(name == "poly"),
                log_power=int(name == "log_power"),
                boundary=int(name == "boundary"),
                matrix=int(name == "wasserstein"),
                topk=int(name == "topk"),
                region=int(name in REGION_KINDS),
                power=int(gamma) if name == "focal" and gamma in (0.0, 1.0, 2.0) else 3,
                mean=int(REDUCTIONS[reduction] == "mean"),
                log_cosh=int(CURVES[a[TermInt.CURVE]] == "log_cosh"),
                root=int(CURVES[a[TermInt.CURVE]] == "root"),
                log=int(CURVES[a[TermInt.CURVE]] == "log"),
                squared=a[TermInt.SQUARED],
                l1=a[TermInt.L1],
                skip=int(EMPTY[empty] == "skip"),
                score=int(EMPTY[empty] == "score"),
                batch=a[TermInt.BATCH],
                vector=min(length, 2),
                weighted_mean=int(self.softmax and name in ("ce", "poly") and length > 0),
                weight_index=weight_index,
                weight_at=at + TermFloat.WEIGHT,
                gamma_at=at + TermFloat.GAMMA,
                alpha_at=at + TermFloat.ALPHA,
                beta_at=at + TermFloat.BETA,
                smooth_at=at + TermFloat.SMOOTH,
                eps_at=at + TermFloat.EPS,
                smoothing_at=at + TermFloat.LABEL_SMOOTHING,
                vector_at=pool + begin,
                sum_at=FIXED_SUMS + i,
                denominator_at=aux + AuxColumn.DENOMINATOR,
                threshold_at=aux + AuxColumn.THRESHOLD,
                tie_at=aux + AuxColumn.TIE_WEIGHT,
                top_count_at=aux + AuxColumn.TOP_COUNT,
            ),
        )

    def numbers(self, device: torch.device) -> Tensor:
        """The numbers on a device, uploaded once for each stream; no copy from the host inside a graph capture."""
        if device.type != "cuda":
            return self._kept((device, 0), device)
        key = (device, torch._C._cuda_getCurrentRawStream(device.index))
        if key in self._numbers or not torch.cuda.is_current_stream_capturing():
            return self._kept(key, device)
        ready = [numbers for (own, _), numbers in self._numbers.items() if own == device]
        # A capture starts when the device is idle, so that what another stream has uploaded is there.
        return ready[0] if ready else torch.stack([_filled(value, device) for value in self.floats])

    def _kept(self, key: tuple, device: torch.device) -> Tensor:
        numbers = self._numbers.get(key)
        if numbers is None:
            numbers = torch.tensor(self.floats, dtype=torch.float64)
            if device.type == "cuda":
                numbers = numbers.pin_memory().to(device, non_blocking=True)
            self._numbers[key] = numbers
        return numbers


def _filled(value: float, device: torch.device) -> Tensor:
    return torch.full((), value, dtype=torch.float64, device=device)


kernel_spec_of = functools.lru_cache(maxsize=512)(KernelSpec)

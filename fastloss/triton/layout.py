"""From tensors and encoded specs to what the kernels take: compile-time codes of the terms, strides, partition.

Python has validated shapes and types; what is checked here keeps a direct call of an op from reading out of bounds.
"""

from __future__ import annotations

import functools
from math import prod

import torch
from torch import Tensor

from ..compound import MAX_TERMS
from ..spec import EMPTY, ENCODING_VERSION, KINDS, REDUCTIONS

HEADER_INTS, TERM_INTS, TERM_FLOATS, FIXED_SUMS, AUX_COLUMNS = 6, 12, 8, 7, 4
BCE, CE, FOCAL, TOPK, TVERSKY = range(5)
FOCAL_MARGIN = 5  # of the pixels' terms only: focal with Term.margin
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)
INTEGERS = (torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, *SIGNED)
TARGET_PROGRAMS, MOST_LOOPS = 1024, 64  # enough to fill a GPU; tiles that one program adds up in float32


def require(good: bool, message: str) -> None:
    if not good:
        raise ValueError(f"fastloss: {message}")


class Plan:
    """A spec as the kernels take it: structure as constants, settings as numbers in a small device tensor."""

    def __init__(self, ints: tuple[int, ...], floats: tuple[float, ...]) -> None:
        require(len(ints) >= HEADER_INTS and ints[0] == ENCODING_VERSION, "unknown spec encoding")
        _, softmax, has_ignore, self.ignore_index, binary, self.count = ints[:HEADER_INTS]
        require(softmax in (0, 1), "unknown activation")
        require(1 <= self.count <= MAX_TERMS, f"a compound holds 1 to {MAX_TERMS} terms")
        pool = TERM_FLOATS * self.count
        good = len(ints) == HEADER_INTS + self.count * TERM_INTS and len(floats) >= pool
        require(good, "spec encoding of the wrong length")
        self.softmax, self.has_ignore, self.binary = bool(softmax), bool(has_ignore), bool(binary)
        self.pixel_terms, self.terms, self.topk = (), (), ()
        self.vector, self.weights = 0, 0  # channels and weight tensors that must be there
        self.weighted = self.smoothing = False
        for i in range(self.count):
            a = ints[HEADER_INTS + i * TERM_INTS :][:TERM_INTS]
            f = floats[TERM_FLOATS * i :][:TERM_FLOATS]
            self._add(i, a, f, pool, len(floats) - pool)
        region = [t for t in self.terms if t[1] == TVERSKY]
        self.region, self.extra = int(bool(region)), int(any([t[4] or t[5] for t in region]))
        self.per_sample = int(any([not t[7] for t in region]))
        self.columns = FIXED_SUMS + self.count
        self.width = 16 if self.columns <= 16 else 32
        self.floats = floats
        self._numbers: dict[tuple, Tensor] = {}

    def _add(self, i: int, a: tuple[int, ...], f: tuple[float, ...], pool: int, room: int) -> None:
        kind, weight_index, reduction, log_loss, squared, l1, empty, batch, k_num, k_den, begin, length = a
        require(0 <= kind < len(KINDS), "unknown term kind")
        require(0 <= reduction < len(REDUCTIONS) and 0 <= empty < len(EMPTY), "unknown setting of a term")
        require(begin >= 0 and length >= 0 and begin + length <= room, "term vector outside the pool")
        require(kind != TOPK or k_den >= 1, "top-k fraction with a denominator below 1")
        where = (min(length, 2), pool + begin)
        mean = int(reduction == 0)
        self.weights = max(self.weights, weight_index + 1)
        self.vector = max(self.vector, length if length > 1 else 0)
        if kind == TOPK:
            self.topk += ((i, k_num, k_den),)
        if kind != TVERSKY:
            power = int(f[1]) if kind == FOCAL and f[1] in (0.0, 1.0, 2.0) else 3
            pixel_kind = FOCAL_MARGIN if kind == FOCAL and f[7] else kind
            self.pixel_terms += ((i, pixel_kind, power, *where, mean, weight_index),)
        self.weighted |= kind == CE and length > 0
        self.smoothing |= kind == CE and f[6] != 0.0
        self.terms += ((i, kind, mean, log_loss, squared, l1, empty, batch, *where, weight_index),)

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


plan_of = functools.lru_cache(maxsize=512)(Plan)


class Geometry:
    """How every array is walked, and how the walk is cut into programs. Depends on sizes alone, never on the device:
    the partition decides the bits of a sum."""

    def __init__(self, shape: tuple, binary: bool, arrays: tuple, merge: bool) -> None:
        channel_axis = not (binary and len(shape) == 3 and shape[1] != 1)
        axes = len(shape) - (2 if channel_axis else 1)
        require(1 <= axes <= 3, "logits need one to three spatial axes")
        self.samples, self.channels = shape[0], shape[1] if channel_axis else 1
        sizes = shape[-axes:]
        self.pixels = prod(sizes)
        strides = [self._strides(sizes, *array) for array in arrays]
        steps = [_one_step(sizes, s[2:]) for s in strides if s]
        if None not in steps:
            taken = iter(steps)
            strides = [s and (*s[:2], next(taken)) for s in strides]
            self.space: tuple[int, ...] = (self.pixels,)
            whole = [s for s in strides if s]
            if merge and self.channels == 1 and all([s[0] == self.pixels * s[2] for s in whole]):
                self.space = (self.pixels * self.samples,)
                self.pixels, self.samples = self.pixels * self.samples, 1
        else:
            rest = (1,) * (3 - axes) + tuple(sizes)
            strides = [s and (*s[:2], *(0,) * (3 - axes), *s[2:]) for s in strides]
            self.space = (self.pixels, rest[1], rest[2])
        self.strides = [s or (0, 0, *(0,) * (len(self.space) if len(self.space) > 1 else 1)) for s in strides]

    def _strides(self, sizes: tuple, shape: tuple | None, stride: tuple, needs_channels: bool) -> tuple | None:
        """(sample, channel, each axis) of an array with as many channels as the logits, one, or no channel axis."""
        if shape is None:
            return None
        axes, rank = len(sizes), len(shape)
        require(rank in (axes + 1, axes + 2), "an input has the wrong number of axes")
        require(shape[0] == self.samples, "an input has another batch size than the logits")
        planes = shape[1] if rank == axes + 2 else 1
        good = planes == self.channels or (planes == 1 and not needs_channels)
        require(good, "an input has another number of channels")
        require(shape[-axes:] == sizes, "an input has another spatial size than the logits")
        return (stride[0], stride[1] if planes > 1 else 0, *stride[-axes:])

    def blocks(self, planes: int, block: int, most_loops: int) -> tuple[int, int]:
        """(programs of a plane, tiles that each walks over)"""
        tiles = -(-self.pixels // block)
        loops = 1
        while loops < most_loops and loops < tiles and planes * tiles > loops * TARGET_PROGRAMS:
            loops *= 2
        return -(-tiles // loops), loops


def _one_step(sizes: tuple, strides: tuple) -> int | None:
    """The step by which all axes can be walked as one; None if they cannot."""
    step, run = None, 1
    for size, stride in zip(reversed(sizes), reversed(strides)):
        if size == 1:
            continue
        if step is None:
            step = stride
        if stride != step * run:
            return None
        run *= size
    return 1 if step is None else step


geometry_of = functools.lru_cache(maxsize=1024)(Geometry)

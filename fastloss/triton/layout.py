"""From the shapes and strides of tensors to what the kernels take: how each is walked, and the partition.

Python has validated shapes and types; what is checked here keeps a direct call of an op from reading out of bounds.
"""

from __future__ import annotations

import functools
from math import prod

import torch

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)
INTEGERS = (torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, *SIGNED)
TARGET_PROGRAMS, MOST_LOOPS = 1024, 64  # enough to fill a GPU; tiles that one program adds up in float32


def require(good: bool, message: str) -> None:
    if not good:
        raise ValueError(f"fastloss: {message}")


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

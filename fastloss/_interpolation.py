"""Interpolation of a part of the outputs, and its transpose, in plain PyTorch: the formulas of
`torch.nn.functional.interpolate`, one axis after the other. Mirrors csrc/math/interpolate.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

MODES = ("nearest", "nearest-exact", "linear", "bilinear", "trilinear")
NEAREST, NEAREST_EXACT = 0, 1  # every other mode is linear along each axis


@dataclass(frozen=True)
class Axis:
    """One axis: how many inputs become how many outputs."""

    inputs: int
    outputs: int
    mode: int  # its place in MODES
    align_corners: bool

    @property
    def identity(self) -> bool:
        return self.inputs == self.outputs

    def table(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """(first input, second input, weight of the second) of each output; int64, int64 and `dtype`."""
        linear = self.mode > NEAREST_EXACT
        # A step is where torch finds it, in float32; weights are as exact as they can be.
        places = torch.float64 if linear and device.type != "mps" else torch.float32
        o = torch.arange(self.outputs, device=device, dtype=places)
        if self.align_corners:
            source = o * ((self.inputs - 1) / (self.outputs - 1) if self.outputs > 1 else 0.0)
        elif linear:
            source = (o + 0.5) * (self.inputs / self.outputs) - 0.5
        else:
            scale = (torch.tensor(self.inputs, dtype=places, device="cpu") / self.outputs).item()
            source = (o if self.mode == NEAREST else o + 0.5) * scale
        source = source.clamp_min(0)
        first = source.long().clamp_max(self.inputs - 1)
        second = (first + 1).clamp_max(self.inputs - 1) if linear else first
        weight = (source - first).clamp(0, 1) if linear else torch.zeros_like(source)
        return first, second, weight.to(dtype)

    def reads(self, part: slice, dtype: torch.dtype) -> slice:
        """The inputs that the outputs of `part` are made of."""
        if self.identity:
            return part
        first, second = _on_the_host(self, dtype)
        return slice(first[part.start], second[part.stop - 1] + 1)

    def spread(self, t: Tensor, dim: int, part: slice, table: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The outputs of `part` from the inputs that they read."""
        if self.identity:
            return t
        begin = self.reads(part, t.dtype).start
        first, second, weight = [column[part] for column in table]
        found = t.index_select(dim, first - begin)
        if self.mode <= NEAREST_EXACT:
            return found
        weight = weight.reshape(-1, *[1] * (t.ndim - 1 - dim))
        return found.mul_(1 - weight).addcmul_(t.index_select(dim, second - begin), weight)

    def gather(self, g: Tensor, dim: int, part: slice, table: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The transpose: what the gradient of the outputs of `part` gives the inputs that they read.

        The outputs that read an input lie side by side, so each input adds up a short run of them: in the same order
        on every device.
        """
        if self.identity:
            return g
        reads = self.reads(part, g.dtype)
        first, second, weight = table
        inputs = torch.arange(reads.start, reads.stop, device=g.device)
        begin = torch.searchsorted(second, inputs).clamp_min(part.start)
        longest = min(_longest_run(self, g.dtype), part.stop - part.start)
        run = begin[:, None] + torch.arange(longest, device=g.device)
        place = run.clamp_max(part.stop - 1)
        share = torch.where(first[place] == inputs[:, None], 1 - weight[place], torch.zeros_like(weight[place]))
        if self.mode > NEAREST_EXACT:
            share = share + torch.where(second[place] == inputs[:, None], weight[place], torch.zeros_like(share))
        share = torch.where(run == place, share, torch.zeros_like(share))
        found = g.index_select(dim, (place - part.start).flatten()).unflatten(dim, place.shape)
        return found.mul_(share.reshape(*share.shape, *[1] * (g.ndim - 1 - dim))).sum(dim + 1)


@lru_cache(maxsize=64)
def _on_the_host(axis: Axis, dtype: torch.dtype) -> tuple[list[int], list[int]]:
    first, second, _ = axis.table(dtype, torch.device("cpu"))
    return first.tolist(), second.tolist()


@lru_cache(maxsize=64)
def _longest_run(axis: Axis, dtype: torch.dtype) -> int:
    """How many outputs read one input, at most."""
    first, second = _on_the_host(axis, dtype)
    count = [0] * axis.inputs
    for a, b in zip(first, second):
        count[a] += 1
        count[b] += a != b
    return max(count)

"""What makes the logits of a band and takes the band's gradient back: a head, or an interpolation.

A source is encoded as a few tensors and integers (`how`), which is what the ops of bands take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ._interpolation import Axis

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
HEAD, UPSAMPLED = 0, 1  # the first integer of `how`


class Band(NamedTuple):
    """A sample and a box of its pixels: one slice for each spatial axis."""

    sample: int
    box: tuple[slice, ...]

    def of(self, t: Tensor, channels: bool = True) -> Tensor:
        """This part of t [N, C, *S], or [N, *S]; the batch axis stays."""
        return t[(slice(self.sample, self.sample + 1), *[slice(None)] * channels, *self.box)]


class Source(Protocol):
    """Logits of `shape` [N, C, *S] and `dtype`, band by band."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def logits(self, band: Band) -> Tensor:
        """[1, C, *box]; valid until the next call."""
        ...

    def take(self, band: Band, grad: Tensor) -> None:
        """Adds what the gradient of the band's logits, which were made last, gives the parts."""
        ...

    def grads(self) -> list[Tensor | None]:
        """The gradient of each part, in the precision in which it was added up."""
        ...


class Head:
    """A linear map of the channels: logits = weight @ features + bias.

    Parts: features [N, F, *S], weight [C, F], bias [C] or none; how: (HEAD, place of the dtype in DTYPES).
    """

    def __init__(self, parts: Sequence[Tensor], how: Sequence[int], wanted: Sequence[bool] = ()) -> None:
        self.features, weight, *bias = parts
        self.dtype = DTYPES[how[1]]
        self.weight = weight.to(self.dtype).flatten(1)
        self.bias = bias[0].to(self.dtype).unsqueeze(1) if bias else None
        self.shape = (self.features.shape[0], weight.shape[0], *self.features.shape[2:])
        self._buffer: Any = None
        self._band_features: Any = None
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        self._grads: list[Tensor | None] = [None] * len(parts)
        if wanted:
            kept = [torch.empty_like, *[lambda t: t.new_zeros(t.shape[:2], dtype=wide)] * 2]
            self._grads = [make(t) if want else None for make, t, want in zip(kept, parts, wanted)]

    def logits(self, band: Band) -> Tensor:
        features = band.of(self.features)
        f = self._band_features = features.reshape(features.shape[1], -1).to(self.dtype)
        size = self.shape[1] * f.shape[1]
        if self._buffer is None or self._buffer.numel() < size:
            self._buffer = f.new_empty(size)
        out = self._buffer[:size].view(-1, f.shape[1])
        if self.bias is None:
            torch.mm(self.weight, f, out=out)
        else:
            torch.addmm(self.bias, self.weight, f, out=out)
        return out.view(1, -1, *features.shape[2:])

    def take(self, band: Band, grad: Tensor) -> None:
        g = grad.reshape(grad.shape[1], -1)
        features, weight, bias = [*self._grads, None][:3]
        if features is not None:
            place = band.of(features)[0]
            if place.ndim == 2 and place.dtype == g.dtype:
                torch.mm(self.weight.t(), g, out=place)
            else:
                place.copy_(torch.mm(self.weight.t(), g).view(place.shape))
        if weight is not None:
            if weight.dtype == g.dtype:
                weight.addmm_(g, self._band_features.t())
            else:
                weight += torch.mm(g, self._band_features.t())
        if bias is not None:
            bias += g.sum(1, dtype=bias.dtype)

    def grads(self) -> list[Tensor | None]:
        return self._grads


class Upsampled:
    """An interpolation: computed in float32, or in float64 if x is.

    Parts: x [N, C, *s]; how: (UPSAMPLED, place in MODES, align_corners, *S).
    """

    def __init__(self, parts: Sequence[Tensor], how: Sequence[int], wanted: Sequence[bool] = ()) -> None:
        (self.x,) = parts
        _, mode, align_corners, *size = how
        self.dtype = torch.float64 if self.x.dtype == torch.float64 else torch.float32
        self.shape = (*self.x.shape[:2], *size)
        self._axes = [Axis(a, b, mode, bool(align_corners)) for a, b in zip(self.x.shape[2:], size)]
        self._tables = [axis.table(self.dtype, self.x.device) for axis in self._axes]
        self._grad = torch.zeros(self.x.shape, dtype=self.dtype, device=self.x.device) if any(wanted) else None

    def _reads(self, band: Band) -> Band:
        box = [axis.reads(part, self.dtype) for axis, part in zip(self._axes, band.box)]
        return Band(band.sample, tuple(box))

    def logits(self, band: Band) -> Tensor:
        t = self._reads(band).of(self.x).to(self.dtype)
        for dim in range(t.ndim - 1, 1, -1):
            t = self._axes[dim - 2].spread(t, dim, band.box[dim - 2], self._tables[dim - 2])
        return t

    def take(self, band: Band, grad: Tensor) -> None:
        assert self._grad is not None
        for dim in range(2, grad.ndim):
            grad = self._axes[dim - 2].gather(grad, dim, band.box[dim - 2], self._tables[dim - 2])
        place = self._reads(band).of(self._grad)
        place += grad

    def grads(self) -> list[Tensor | None]:
        return [self._grad]


SOURCES = {HEAD: Head, UPSAMPLED: Upsampled}


def cut(shape: Sequence[int], pixels: int) -> list[Band]:
    """The samples of logits [N, C, *S] cut into boxes of at most `pixels`, in the order of memory."""
    samples, _, *space = shape
    steps, inner = [], math.prod(space)
    for size in space:
        inner //= max(size, 1)
        steps.append(min(max(pixels // max(inner, 1), 1), max(size, 1)))
    boxes: list[tuple[slice, ...]] = [()]
    for size, step in zip(space, steps):
        parts = [slice(at, min(at + step, size)) for at in range(0, size, step)]
        boxes = [(*box, part) for box in boxes for part in parts]
    return [Band(sample, box) for sample in range(samples) for box in boxes]


def flattened(tensors: Sequence[Tensor | None], axes: int) -> list[Tensor | None]:
    """The tensors with their last `axes` axes as one, or all as they are if one of them would need a copy."""
    try:
        return [t if t is None else t.view(*t.shape[: t.ndim - axes], -1) for t in tensors]
    except RuntimeError:
        return list(tensors)

"""From what the user passes to what the terms read: one layout, valid elements selected, activated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..spec import Spec
from . import activation
from .label import clamp_label, label_tolerance


@dataclass
class Inputs:
    """Selected inputs: x, y, p [N, C, P] (log_p under softmax), class_indices [N, 1, P] or None, valid bool like the
    pointwise elements, weight the same or None, bad whether y is out of range (0-d bool)."""

    x: Tensor
    y: Tensor
    class_indices: Tensor | None
    valid: Tensor
    weight: Tensor | None
    bad: Tensor
    p: Tensor
    log_p: Tensor | None


def constants(values: tuple[float, ...], like: Tensor) -> Tensor:
    """1-d tensor filled on the device of `like`: a copy from the host would stop the capture of a CUDA graph."""
    return torch.stack([like.new_full((), value) for value in values])


def per_pixel(t: Tensor, x: Tensor) -> Tensor:
    """y, mask or pixel_weight, of shape [N, *S] or [N, 1 or C, *S], as [N, 1 or C, P] for x [N, C, *S]."""
    channels, spatial = (t.shape[1], t.shape[2:]) if t.ndim == x.ndim else (1, t.shape[1:])
    return t.reshape(t.shape[0], channels, math.prod(spatial))


def class_counts(labels: Tensor, counted: Tensor, channels: int) -> Tensor:
    """int64 [N, C]: how many of the pixels that are `counted` have each class; labels, counted [N, 1, *S].

    One addition a pixel, whatever the number of classes; integers, so that their order does not matter.
    """
    inside = counted & (labels >= 0) & (labels < channels)
    first = torch.arange(len(labels), device=labels.device).reshape(-1, *[1] * (labels.ndim - 1)) * channels
    at = first + labels.long().clamp(0, channels - 1)
    counts = torch.zeros(len(labels) * channels, dtype=torch.int64, device=labels.device)
    return counts.scatter_add(0, at.flatten(), inside.long().flatten()).reshape(len(labels), channels)


def equals_ignored(y: Tensor, ignore_index: int) -> Tensor:
    """y == ignore_index; false where y's type cannot hold the value (torch would wrap -100 to 156 in uint8)."""
    if not y.is_floating_point() and y.dtype != torch.bool:
        info = torch.iinfo(y.dtype)
        if not info.min <= ignore_index <= info.max:
            return torch.zeros_like(y, dtype=torch.bool)
    return y == ignore_index


def signed(y: Tensor) -> Tensor:
    """Labels of a type that PyTorch stores but does not compare (uint16, uint32, uint64) as int64; what that cannot
    hold becomes its largest number."""
    if y.dtype not in (torch.uint16, torch.uint32, torch.uint64):
        return y
    y = y.long()
    return torch.where(y < 0, torch.full_like(y, torch.iinfo(torch.int64).max), y)


def clamped(y: Tensor) -> Tensor:
    """Float targets without what rounding left outside [0, 1]; integers as they are."""
    return clamp_label(y, label_tolerance(torch.finfo(y.dtype).eps)) if y.is_floating_point() else y


def select(spec: Spec, y: Tensor, mask: Tensor | None) -> Tensor:
    """The valid elements, bool, broadcastable to y [N, 1 or C, P]."""
    valid = torch.ones_like(y[:, :1] if spec.softmax else y, dtype=torch.bool) if mask is None else mask
    if spec.ignore_index is not None and not (spec.softmax and y.is_floating_point()):
        valid = valid & ~equals_ignored(y, spec.ignore_index)
    return valid


def out_of_range(spec: Spec, y: Tensor, valid: Tensor, channels: int) -> Tensor:
    """Whether a valid target is no class index, or outside [0, 1] (binary, multilabel); 0-d bool."""
    if spec.softmax:
        if y.is_floating_point():
            return torch.zeros((), dtype=torch.bool, device=y.device)
        indices = y.long()
        return (valid & ((indices < 0) | (indices >= channels))).any()
    if y.dtype == torch.bool or spec.unbounded:
        return torch.zeros((), dtype=torch.bool, device=y.device)
    y = clamped(y)
    return (valid & ~((y >= 0) & (y <= 1))).any()


def prepare(spec: Spec, x: Tensor, y: Tensor, mask: Tensor | None, pixel_weight: Tensor | None) -> Inputs:
    """Flatten, select the valid elements before any arithmetic, and activate."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    y = signed(per_pixel(y, x))
    mask, pixel_weight = [t if t is None else per_pixel(t, x) for t in (mask, pixel_weight)]
    x = per_pixel(x, x).to(dtype)
    valid = select(spec, y, mask)
    bad = out_of_range(spec, y, valid, x.shape[1])
    x = torch.where(valid, x, torch.zeros_like(x))
    indices = None
    if spec.softmax and not y.is_floating_point():
        indices = torch.where(valid, y, torch.zeros_like(y)).long().clamp(0, x.shape[1] - 1)
        channels = torch.arange(x.shape[1], device=x.device).reshape(1, -1, 1)
        y = ((indices == channels) & valid).to(dtype)
    else:
        y = torch.where(valid, y if spec.unbounded else clamped(y), torch.zeros_like(y)).to(dtype)
    if pixel_weight is not None:
        pixel_weight = torch.where(valid, pixel_weight, torch.zeros_like(pixel_weight)).to(dtype)
    if spec.softmax:
        p, log_p = activation.softmax(x)
    else:
        p, log_p = activation.sigmoid(x), None
    p = torch.where(valid, p, torch.zeros_like(p))
    return Inputs(x, y, indices, valid, pixel_weight, bad, p, log_p)

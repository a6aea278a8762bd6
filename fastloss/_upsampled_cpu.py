"""Interpolated logits on the CPU: one op for the walk over all bands, in C++ (csrc/cpu/upsampled.h). It takes several
bands at a time, one for each thread, and gives the same bits for any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import register_fake

from . import _library
from ._sources import UPSAMPLED
from .spec import AUX_COLUMNS, COUNTS, decode, layout_of


def takes(job: Any) -> bool:
    """Whether the op computes this; top-k selects among the elements of all bands."""
    if job.how[0] != UPSAMPLED or job.backend != "cpu":
        return False
    return not any([term.kind == "topk" for term in decode(tuple(job.ints), tuple(job.floats)).terms])


def _arguments(parts: Sequence[Tensor], how: Sequence[int], labels: Sequence[Any], job: Any) -> tuple:
    (x,) = parts
    _, mode, align_corners, *size = how
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    like = x.new_zeros((), dtype=dtype).expand(*x.shape[:2], *size)
    pixels = max(job.band_bytes // (x.shape[1] * dtype.itemsize), 1)
    return like, x, *labels, job.ints, job.floats, mode, bool(align_corners), pixels


def sums(parts: Sequence[Tensor], labels: Sequence[Any], job: Any) -> tuple[Tensor, Tensor]:
    """See `Engine.sums`."""
    op = torch.ops.fastloss_cpu.upsampled_sums.default
    return op(*_arguments(parts, job.how, labels, job), False, 0.5)[:2]


def counts(parts: Sequence[Tensor], labels: Sequence[Any], job: Any, threshold: float) -> Tensor:
    """See `Engine.counts`."""
    op = torch.ops.fastloss_cpu.upsampled_sums.default
    return op(*_arguments(parts, job.how, labels, job), True, threshold)[2]


def gradient(
    grad_sums: Tensor, aux: Tensor, parts: Sequence[Tensor], labels: Sequence[Any], job: Any
) -> list[Tensor | None]:
    """See `Engine.gradient`."""
    state = torch.cat([aux.new_zeros(len(aux)), aux.reshape(-1), grad_sums.reshape(-1)])
    op = torch.ops.fastloss_cpu.upsampled_backward.default
    return [op(state, *_arguments(parts, job.how, labels, job))]


def _fake_sums(like, x, y, mask, pixel_weight, ints, floats, mode, align_corners, band_pixels, want_counts, threshold):
    sizes = layout_of(like.shape, ints)
    double = {"dtype": torch.float64}
    table = x.new_empty((sizes.groups, sizes.channels, sizes.columns), **double)
    aux = x.new_empty((sizes.terms, AUX_COLUMNS), **double)
    return table, aux, x.new_empty((x.shape[0] if want_counts else 0, x.shape[1], COUNTS), dtype=torch.int64)


def _fake_backward(state, like, x, y, mask, pixel_weight, ints, floats, mode, align_corners, band_pixels):
    return x.new_empty(x.shape, dtype=like.dtype)


if _library.reason() is None:  # the ops are the extension's own
    register_fake("fastloss_cpu::upsampled_sums", _fake_sums)
    register_fake("fastloss_cpu::upsampled_backward", _fake_backward)

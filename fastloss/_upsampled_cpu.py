"""Interpolated logits on the CPU: one op for the walk over all bands, in C++ (csrc/cpu/upsampled.h). It takes several
bands at a time, one for each thread, and gives the same bits for any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._sources import UPSAMPLED
from .spec import decode


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

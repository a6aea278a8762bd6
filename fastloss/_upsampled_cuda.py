"""Interpolated logits on CUDA: one op for the sums, one for the gradient, tile by tile (csrc/cuda/upsampled)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._sources import UPSAMPLED
from .spec import decode

_CLASSES, _RATIO = 320, 32  # kTileClasses and kTileRatio of csrc/cuda/problem.h


def why_not(job: Any, x: Tensor) -> str | None:
    """None if the ops compute this, else why the bands of pixels do: a clause."""
    if job.how[0] != UPSAMPLED or job.backend != "cuda":
        return "these logits are not interpolated by CUDA kernels"
    spec = decode(tuple(job.ints), tuple(job.floats))
    if x.dtype == torch.float64:
        return "float64 logits"
    if any([term.kind == "topk" for term in spec.terms]):
        return "top-k, which selects among the elements of all tiles"
    rare = [term.kind for term in spec.terms if not term.region and term.kind not in ("bce", "ce", "focal")]
    if rare:
        return f"a term of the kind {rare[0]!r}"
    if spec.softmax and x.shape[1] > _CLASSES:
        return f"more than {_CLASSES} classes"
    if any([b > _RATIO * a for a, b in zip(x.shape[2:], job.how[3:])]):
        return f"an axis that grows more than {_RATIO}-fold"
    return None if x.numel() else "no logits"


def takes(job: Any, x: Tensor) -> bool:
    return why_not(job, x) is None


def told(job: Any, x: Tensor) -> str | None:
    """How a band's logits come about, for `explain`; None where it goes without saying."""
    if job.how[0] != UPSAMPLED or job.backend != "cuda":
        return None
    why = why_not(job, x)
    return f": PyTorch interpolates them, for {why}" if why else ": the kernels interpolate a tile of them"


def _arguments(parts: Sequence[Tensor], how: Sequence[int], labels: Sequence[Any], job: Any) -> tuple:
    (x,) = parts
    _, mode, align_corners, *size = how
    like = x.new_zeros((), dtype=torch.float32).expand(*x.shape[:2], *size)
    return like, x, *labels, job.ints, job.floats, mode, bool(align_corners)


def sums(parts: Sequence[Tensor], labels: Sequence[Any], job: Any) -> tuple[Tensor, Tensor]:
    """See `Engine.sums`."""
    return torch.ops.fastloss_cuda.upsampled_sums.default(*_arguments(parts, job.how, labels, job))


def gradient(
    grad_sums: Tensor, aux: Tensor, parts: Sequence[Tensor], labels: Sequence[Any], job: Any
) -> list[Tensor | None]:
    """See `Engine.gradient`."""
    state = torch.cat([aux.new_zeros(len(aux)), aux.reshape(-1), grad_sums.reshape(-1)])
    op = torch.ops.fastloss_cuda.upsampled_backward.default
    return [op(state, *_arguments(parts, job.how, labels, job))]

"""The length of a class's boundary, from the labels alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..spec import Spec
from .inputs import class_counts, per_pixel, select, signed


def boundary_counts(spec: Spec, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """Number of the pixels of each class that are not surrounded by their class along every axis: int64 [N, C].

    What lies outside the image, or is not valid, is of no class (Sun et al. 2023 pad with zeros). A soft label belongs
    to the object from 0.5 on, a pixel with probabilities to the most probable class. No floating-point one-hot labels:
    a few bytes a pixel.

    Args:
        spec: mode and ignore_index.
        x: logits [N, C, *S], whose shape is all that matters.
        y, mask: as in the call of a loss.
    """
    y = y.detach()
    space = x.shape[2:]
    labels = signed(per_pixel(y, x))
    valid = select(spec, labels, mask if mask is None else per_pixel(mask, x))
    if spec.softmax:
        labels = labels.argmax(1, keepdim=True) if labels.is_floating_point() else labels.long()
        labels = torch.where(valid, labels, torch.full_like(labels, -1))
    else:
        labels = (labels if labels.dtype == torch.bool else labels >= 0.5) & valid
    labels = labels.unflatten(2, space)
    edge = ~surrounded(labels)
    if not spec.softmax:
        return (edge & labels).flatten(2).sum(2)
    return class_counts(labels, edge, x.shape[1])


def surrounded(labels: Tensor) -> Tensor:
    """Whether both neighbours along every axis of [N, C, *S] have the label of the pixel."""
    found = torch.ones_like(labels, dtype=torch.bool)
    for axis in range(2, labels.ndim):
        whole = [slice(None)] * axis
        same = labels[(*whole, slice(1, None))] == labels[(*whole, slice(None, -1))]
        before = [0, 0] * (labels.ndim - 1 - axis)
        found = found & pad(same, [*before, 1, 0]) & pad(same, [*before, 0, 1])
    return found


def add_label_columns(spec: Spec, sums: Tensor, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """`sums` with one more column, the boundary counts, where a term needs them: what the labels alone decide. The
    counts add up over samples and processes as the other sums do."""
    if not any([term.kind == "boundary_dou" for term in spec.terms]):
        return sums
    counts = boundary_counts(spec, x, y, mask).to(sums.dtype)
    counts = counts if len(sums) == len(counts) else counts.sum(0, keepdim=True)
    return torch.cat([sums, counts.unsqueeze(-1)], -1)

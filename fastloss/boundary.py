"""The boundary loss, whose target is a signed distance map, and the maps for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _arguments as check
from ._types import Backend, Mode, Reduction
from .losses import SingleLoss, reduced
from .spec import Term


class BoundaryLoss(SingleLoss):
    """Boundary loss (Kervadec et al. 2019, "Boundary loss for highly unbalanced segmentation"): the mean of p phi over
    pixels and classes.

    phi is the signed distance to the border of the class, negative inside, of x's shape and any size (see
    `fastloss.signed_distance`). It says where to push, not how far it is wrong: add it to a region loss of the labels,
    `dice(x, labels) + 0.01 * boundary(x, phi)`, two calls, because the targets differ. Shapes of the call: see
    `Criterion.forward`; y is phi, [N, C, *S] floating.
    """

    def __init__(
        self,
        mode: Mode = "multiclass",
        *,
        classes: Sequence[int] | None = None,
        reduction: Reduction = "mean",
        backend: Backend | None = None,
    ) -> None:
        """Make a boundary loss.

        Args:
            mode: "binary", "multilabel" or "multiclass".
            classes: channels that count (not binary); published as idc.
            reduction: "mean" (over valid pixels and the classes that count), "sum" or "none" (x's shape; multiclass
                [N, *S], summed over classes).
            backend: "reference", "cpu", "cuda" or "triton"; None chooses by device.

        Raises:
            ValueError, TypeError: an argument that does not fit.
        """
        if check.mode(mode) == "binary" and classes is not None:
            raise ValueError("classes needs mode 'multilabel' or 'multiclass', got 'binary', which has one channel.")
        term = Term("boundary", classes=check.classes(classes), reduction=check.reduction(reduction))
        shown = {"classes": None if term.classes is None else list(term.classes), **reduced(reduction)}
        super().__init__("boundary", term, mode, shown, None, backend)

    def with_stats(self, *inputs: Any, **named: Any) -> Any:
        """Raises ValueError: a distance map has no labels to count."""
        raise ValueError("with_stats needs labels as the target, and that of BoundaryLoss is a distance map.")


def signed_distance(labels: Any, classes: int | None = None, *, spacing: Sequence[float] | float = 1.0) -> Any:
    """Return the signed distance maps of a label image, for `BoundaryLoss`: in a data loader, once for each image.

    As in the published code (LIVIAETS/boundary-loss): outside of a class the Euclidean distance to it, inside 1 minus
    the distance to the outside, so that the innermost border pixels are 0; zeros for a class that is absent or fills
    the image, which says nothing about a border. Exact, by `scipy.ndimage.distance_transform_edt`.

    Args:
        labels: an array or tensor of integers or bools [*S] with one to three axes; class indices, or a mask.
        classes: their number C; None for a mask, nonzero inside.
        spacing: distance between pixels, a number or one for each axis, greater than 0.

    Returns:
        float32 [C, *S] ([1, *S] for a mask): an array for an array, a tensor on the CPU for a tensor.

    Raises:
        ImportError: scipy is missing.
        TypeError, ValueError: an argument that does not fit.
    """
    try:
        from scipy.ndimage import distance_transform_edt as distance
    except ImportError:
        raise ImportError("signed_distance needs scipy, which is not installed (pip install scipy).") from None
    import numpy as np

    given = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if given.dtype.kind not in "biu":
        raise TypeError(f"labels must hold integers or bools, got {given.dtype}.")
    if not 1 <= given.ndim <= 3:
        raise ValueError(f"labels must have one to three axes, got the shape {list(given.shape)}.")
    steps = _spacing(spacing, given.ndim)
    if classes is None:
        masks = [given != 0]
    else:
        count = check.count("classes", classes, 1)
        if given.size and not 0 <= given.min() <= given.max() < count:
            wrong = given.max() if given.max() >= count else given.min()
            raise ValueError(f"labels must hold class ids from 0 to {count - 1}, got {wrong}.")
        masks = [given == c for c in range(count)]
    maps = np.zeros((len(masks), *given.shape), dtype=np.float32)
    for c, inside in enumerate(masks):
        if inside.any() and not inside.all():
            away = np.asarray(distance(~inside, sampling=steps))
            maps[c] = np.where(inside, 1.0 - np.asarray(distance(inside, sampling=steps)), away)
    return torch.from_numpy(maps) if isinstance(labels, Tensor) else maps


def _spacing(spacing: Any, axes: int) -> list[float]:
    given = [spacing] * axes if not isinstance(spacing, Sequence) else list(spacing)
    if len(given) != axes:
        raise ValueError(f"spacing must have one number for each of the {axes} axes, got {len(given)}.")
    return [check.number("spacing", value, 0.0, open_low=True) for value in given]

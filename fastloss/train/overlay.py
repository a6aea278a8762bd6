"""A slice with what was found on it."""

from __future__ import annotations

from typing import Any

import numpy as np

SIDE = 512  # pixels that the longer side of a picture has at least
SHARE = 0.5  # of the colour
COLOURS = np.array(  # of classes 1, 2, …: matplotlib's tab10 without grey
    [(214, 39, 40), (31, 119, 180), (44, 160, 44), (255, 127, 14), (148, 103, 189), (23, 190, 207), (227, 119, 194),
     (188, 189, 34), (140, 86, 75)], np.float64,
)  # fmt: skip


def draw(slices: np.ndarray, labels: np.ndarray) -> Any:
    """Draw the slice with the most labelled pixels (the middle one if there are none) as a PIL image.

    Args:
        slices: [D, H, W], shown in grey from the 1st to the 99th percentile of the slice.
        labels: uint8 [D, H, W].
    """
    from PIL import Image

    found = (labels > 0).sum((1, 2))
    at = int(found.argmax()) if found.any() else len(found) // 2
    low, high = np.percentile(slices[at], (1, 99))
    grey = np.clip((slices[at] - low) / max(high - low, 1e-6), 0, 1)[..., None] * np.full(3, 255.0)
    colour = COLOURS[(labels[at].astype(int) - 1) % len(COLOURS)]
    mixed = np.where(labels[at][..., None] > 0, (1 - SHARE) * grey + SHARE * colour, grey).round().astype(np.uint8)
    times = -(-SIDE // max(mixed.shape[:2]))
    return Image.fromarray(mixed.repeat(times, 0).repeat(times, 1))

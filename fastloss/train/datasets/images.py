"""From what the files hold to what the store holds: intensities, label maps, sizes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastloss.cli import CommandError

UNKNOWN = 255
ROUNDING = 1e-4  # between a label and the integer that a resampling or a scale factor made it miss


def normalise(volume: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray:
    """Scale a volume to float32 [D, H, W] by the setting `normalise`.

    Raises:
        ValueError: an intensity is not finite.
    """
    if not np.isfinite(volume.sum(dtype=np.float64)) and not np.isfinite(volume).all():
        raise ValueError("it holds an intensity that is not finite")
    rule = settings["normalise"]
    if rule == "window":
        return _scaled(volume, *settings["window"])
    if rule == "percentile":
        low, high = np.percentile(volume, (1, 99))
        return _scaled(volume, low, max(high, low + 1e-6))
    if rule == "zscore":
        return (volume - volume.mean()) / max(float(volume.std()), 1e-6)
    if rule == "max":
        return volume / np.maximum(volume.max((1, 2), keepdims=True), 1e-6)
    return volume


def _scaled(volume: np.ndarray, low: float, high: float) -> np.ndarray:
    return (np.clip(volume, low, high) - np.float32(low)) / np.float32(high - low)


def map_labels(labels: np.ndarray, ids: Mapping[int, int], where: object) -> np.ndarray:
    """Map labels of any type to uint8 classes.

    Raises:
        CommandError: a label that the map does not have.
    """
    table = np.full(256, UNKNOWN, np.uint8)
    for raw, value in ids.items():
        table[raw] = value
    if labels.dtype == np.uint8:
        small = labels
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # NaN becomes some integer, and is then found to differ
            small = labels.astype(np.uint8)
            exact = np.array_equal(small, labels)
            if not exact:
                small = np.rint(labels).astype(np.uint8)
        if not exact and (wrong := ~(np.abs(labels - small.astype(labels.dtype)) <= ROUNDING)).any():
            _refuse(labels[wrong].flat[0], ids, where)
    classes = table[small]
    if (classes == UNKNOWN).any():
        _refuse(labels[classes == UNKNOWN].flat[0], ids, where)
    return classes


def _refuse(label: Any, ids: Mapping[int, int], where: object) -> None:
    known = ", ".join(map(str, sorted(ids))) if len(ids) < 20 else f"{min(ids)}..{max(ids)}"
    words = f"which is not in the map of labels ({known}); see `labels`"
    raise CommandError(f"{where} holds the label {label:.7g}, {words}")


def resize(image: np.ndarray, size: int | None, how: str) -> np.ndarray:
    """Resize an image [H, W] to [size, size], float32."""
    if size is None or image.shape == (size, size):
        return image
    if how == "crop":
        return _cropped(image, size)
    if how == "cubic":
        return _zoomed(image, size, order=3)
    return _interpolated(image, size, mode="bilinear", align_corners=False)


def resize_label(label: np.ndarray, size: int | None, how: str) -> np.ndarray:
    """Resize a label [..., H, W] to [..., size, size], from the nearest pixels."""
    if size is None or label.shape[-2:] == (size, size):
        return label
    if how == "crop":
        return _cropped(label, size)
    if how == "cubic":
        return _zoomed(label, size, order=0)
    return _interpolated(label, size, mode="nearest")


def restore_grid(masks: np.ndarray, shape: tuple[int, ...], how: str) -> np.ndarray:
    """Bring masks [..., H, W] of a resized slice back to its own grid: the nearest pixel, or at its place."""
    if masks.shape[-2:] == tuple(shape):
        return masks
    if how == "crop":
        return _placed(masks, shape)
    if how == "cubic":
        from scipy import ndimage

        factors = [1.0] * (masks.ndim - 2) + [new / old for new, old in zip(shape, masks.shape[-2:])]
        return ndimage.zoom(masks.astype(np.uint8), factors, order=0).astype(masks.dtype)
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(shape, masks.shape[-2:]))
    return masks[..., rows[:, None], columns]


def _placed(masks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Put what `_cropped` takes from a slice, in an empty one."""
    whole = np.arange(np.prod(shape)).reshape(shape) + 1
    source = _cropped(whole, masks.shape[-1])
    result = np.zeros((*masks.shape[:-2], whole.size), masks.dtype)
    result[..., source[source > 0] - 1] = masks[..., source > 0]
    return result.reshape(*masks.shape[:-2], *shape)


def _cropped(array: np.ndarray, size: int) -> np.ndarray:
    height, width = array.shape[-2:]
    short, narrow = max(size - height, 0), max(size - width, 0)
    pads = [(0, 0)] * (array.ndim - 2) + [(short // 2, short - short // 2), (narrow // 2, narrow - narrow // 2)]
    array = np.pad(array, pads)
    top, left = (array.shape[-2] - size) // 2, (array.shape[-1] - size) // 2
    return array[..., top : top + size, left : left + size]


def _zoomed(array: np.ndarray, size: int, order: int) -> np.ndarray:
    from scipy import ndimage

    height, width = array.shape[-2:]
    factors = [1.0] * (array.ndim - 2) + [size / height, size / width]
    return ndimage.zoom(array, factors, order=order)


def _interpolated(array: np.ndarray, size: int, **how: Any) -> np.ndarray:
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(array)).reshape(1, -1, *array.shape[-2:])
    result = torch.nn.functional.interpolate(tensor, (size, size), **how)
    return result.reshape(*array.shape[:-2], size, size).numpy()

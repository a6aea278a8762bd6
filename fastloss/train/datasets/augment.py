"""The augmentations, as functions of an image, its label and a random generator and of nothing else.

Images are float32 [H, W]; labels uint8 [H, W], or [C, H, W] if multilabel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fastloss.cli import CommandError

Pair = tuple[np.ndarray, np.ndarray]
Warp = Callable[[np.ndarray], np.ndarray]  # coordinates [2, H, W] of the result to those in the source, in pixels


BIAS, NOISE = 0.2, 0.05  # log amplitude of the bias field; standard deviation of the noise, as a share of full scale


def get(name: str) -> Callable[[np.ndarray, np.ndarray, Any], Pair]:
    if name not in BY_NAME:
        raise CommandError(f"augment must be one of {', '.join(BY_NAME)}, got {name!r}")
    return BY_NAME[name]


def draws(name: str, *key: int) -> Any:
    """Make the random generator that an augmentation takes; it depends on the key and on nothing else."""
    return generator(*key) if name == "mri" else np.random.default_rng(key)


def generator(*key: int) -> torch.Generator:
    """Make torch's generator that depends on the key and on nothing else."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def _none(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> Pair:
    return image, label


def _flip(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> Pair:
    """Swap left and right in every second item."""
    return (image[:, ::-1], label[..., ::-1]) if rng.random() < 0.5 else (image, label)


def _mri(image: np.ndarray, label: np.ndarray, rng: torch.Generator) -> Pair:
    """Swap left and right in every second item; add a bias field and noise."""
    if torch.rand((), generator=rng) < 0.5:
        image, label = image[:, ::-1], label[..., ::-1]
    return degrade(image, rng), label


def degrade(image: np.ndarray, rng: torch.Generator) -> np.ndarray:
    """Put a smooth multiplicative bias field and Gaussian noise on an image [H, W]."""
    clean = torch.from_numpy(np.ascontiguousarray(image))
    coarse = torch.rand(1, 1, 3, 3, generator=rng) * 2 - 1
    field = F.interpolate(coarse, size=clean.shape, mode="bicubic", align_corners=True)[0, 0]
    return (clean * torch.exp(BIAS * field) + NOISE * torch.randn(clean.shape, generator=rng)).numpy()


def _transunet(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> Pair:
    """TransUNet's RandomGenerator: half of the items are turned by a multiple of 90 degrees and flipped along one axis;
    half of the others are rotated by -20 to 19 whole degrees, nearest pixel for image and label."""
    if rng.random() > 0.5:
        quarter, axis = int(rng.integers(4)), int(rng.integers(2)) - 2
        return tuple(np.flip(np.rot90(array, quarter, (-2, -1)), axis) for array in (image, label))
    if rng.random() > 0.5:
        from scipy import ndimage

        angle = int(rng.integers(-20, 20))
        image = ndimage.rotate(image, angle, axes=(-1, -2), order=0, reshape=False)
        label = ndimage.rotate(label, angle, axes=(-1, -2), order=0, reshape=False)
    return image, label


def _uwmgi(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> Pair:
    """The Kaggle template's: flip; shift, scale and rotate; grid or elastic distortion; holes. All of the geometry is
    one interpolation here (the template interpolates after each), linear for the image, nearest for the label."""
    image, label = _flip(image, label, rng)
    warps = []
    if rng.random() < 0.5:
        warps.append(_shift_scale_rotate(image.shape, rng))
    if rng.random() < 0.25:
        warps.append((_grid if rng.random() < 0.5 else _elastic)(image.shape, rng))
    if warps:
        at = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij")).astype(np.float64)
        for warp in reversed(warps):
            at = warp(at)
        image, label = _sampled(image, at, "bilinear"), _sampled(label, at, "nearest")
    return _holes(image, label, rng) if rng.random() < 0.5 else (image, label)


def _shift_scale_rotate(shape: tuple[int, int], rng: np.random.Generator) -> Warp:
    """Move by up to 1/16 of the side, 5% and 10 degrees, about the centre."""
    shift = rng.uniform(-0.0625, 0.0625, 2) * shape
    scale, angle = 1 + rng.uniform(-0.05, 0.05), np.deg2rad(rng.uniform(-10, 10))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    centre = (np.array(shape) - 1) / 2
    return lambda at: np.tensordot(turn, at - (centre + shift)[:, None, None], 1) + centre[:, None, None]


def _grid(shape: tuple[int, int], rng: np.random.Generator) -> Warp:
    """Stretch or shrink five cells along each axis by up to 5% each."""
    tables = []
    for side in shape:
        widths = 1 + rng.uniform(-0.05, 0.05, 6)
        knots = np.concatenate([[0], np.cumsum(widths) * (side // 5)])
        tables.append(np.interp(np.arange(side), np.arange(7) * (side // 5), knots))
    return lambda at: np.stack([np.interp(at[axis], np.arange(shape[axis]), tables[axis]) for axis in (0, 1)])


def _elastic(shape: tuple[int, int], rng: np.random.Generator) -> Warp:
    """Move three points about the centre by up to 50 pixels. The template's elastic field beside that (alpha 1, sigma
    50) has a standard deviation of 0.003 pixels and is left out."""
    centre, arm = np.array(shape) / 2, min(shape) // 3
    source = centre + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = source + rng.uniform(-50, 50, source.shape)
    matrix = np.linalg.solve(np.column_stack([moved, np.ones(3)]), source)
    return lambda at: np.tensordot(matrix[:2].T, at, 1) + matrix[2][:, None, None]


def _sampled(array: np.ndarray, at: np.ndarray, mode: str) -> np.ndarray:
    """Interpolate with reflection at the borders."""
    height, width = array.shape[-2:]
    scale = np.array([max(width - 1, 1), max(height - 1, 1)])
    grid = torch.from_numpy(at[::-1].transpose(1, 2, 0) / scale * 2 - 1).float()[None]
    planes = torch.from_numpy(np.ascontiguousarray(array)).float().reshape(1, -1, height, width)
    result = F.grid_sample(planes, grid, mode=mode, padding_mode="reflection", align_corners=True)
    return result.reshape(array.shape).numpy().astype(array.dtype)


def _holes(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> Pair:
    """Empty five to eight rectangles of a twentieth of the side in image and label."""
    image, label = image.copy(), label.copy()
    height, width = (max(side // 20, 1) for side in image.shape)
    for _ in range(int(rng.integers(5, 9))):
        top, left = int(rng.integers(image.shape[0] - height + 1)), int(rng.integers(image.shape[1] - width + 1))
        image[top : top + height, left : left + width] = 0
        label[..., top : top + height, left : left + width] = 0
    return image, label


BY_NAME = {"none": _none, "flip": _flip, "mri": _mri, "transunet": _transunet, "uwmgi": _uwmgi}

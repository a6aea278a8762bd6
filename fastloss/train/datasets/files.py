"""Reading files that may be missing or half-copied."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fastloss.cli import CommandError

# What nibabel, h5py, Pillow, zipfile and zlib raise for broken files; HeaderDataError is a bare Exception of nibabel.
BROKEN = (OSError, EOFError, ValueError, KeyError, SyntaxError, struct.error, zlib.error, zipfile.BadZipFile)


SAME_AFFINE = 1e-3  # of a voxel, for each voxel along an axis
SAME_ORIGIN = 1e-2  # of a voxel


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a broken file raises into a CommandError that names it."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        yield
    except (*BROKEN, ImageFileError, HeaderDataError) as error:
        reason = "it does not exist" if isinstance(error, FileNotFoundError) else str(error) or type(error).__name__
        raise CommandError(f"{path} cannot be read: {' '.join(reason.split())[:200]}") from error


def read_text(path: Path) -> str:
    """Read UTF-8, with or without the byte order mark that some editors write."""
    with reading(path):
        return path.read_text(encoding="utf-8-sig")


def read_json(path: Path) -> Any:
    text = read_text(path)
    with reading(path):
        return json.loads(text)


def find_volume(path: Path) -> Path:
    """Find where a volume expected at `path` lies: perhaps unpacked, or in a folder of its own name, as on Kaggle."""
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    names = dict.fromkeys((path.name, f"{stem}.nii.gz", f"{stem}.nii"))
    places = [path.with_name(name) for name in names]
    places += [place / name for place in places for name in names]
    return next((place for place in places if place.is_file()), path)


def npz_pair(path: Path, keys: tuple[str, str], dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Read (image, label) of one shape with as many dimensions."""
    with reading(path), np.load(path) as arrays:
        image, label = (arrays[key] for key in keys)
        if image.ndim != dimensions or image.shape != label.shape:
            raise ValueError(f"image and label must be of one {dimensions}D shape, got {image.shape} and {label.shape}")
    return image, label


def nifti_pair(image: Path, label: Path) -> tuple[tuple[int, int, int], list[str]]:
    """Read (shape of the axes as stored, notes) of an image and its label, from their headers alone.

    Raises:
        CommandError: they are not of one 3D shape, or their affines turn or scale them differently: a label whose
            header was lost lies elsewhere than its object.
    """
    shape, affine = voxel_axes(image)
    other, theirs = voxel_axes(label)
    if len(shape) != 3 or shape != other:
        also = f"{label} the shape {list(other)}; both must be one 3D shape"
        raise CommandError(f"{image} has the shape {list(shape)} and {also}")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if (np.abs(affine[:3, :3] - theirs[:3, :3]).max(0) > SAME_AFFINE * spacing).any():
        raise CommandError(f"{image} has {_axes(affine)} and its label {label} {_axes(theirs)}; they must agree")
    if (np.abs(affine[:3, 3] - theirs[:3, 3]) > SAME_ORIGIN * spacing.min()).any():
        return shape, [f"{image} and its label {label} have different origins; voxels are paired as they are stored"]
    return shape, []


def voxel_axes(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Read (shape, affine) from a header; CommandError if the affine maps no voxels to millimetres."""
    import nibabel

    with reading(path):
        found = nibabel.load(path)
        affine = np.asarray(found.affine, np.float64)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ValueError("its affine does not map voxels to millimetres")
        return tuple(found.shape), affine


def _axes(affine: np.ndarray) -> str:
    import nibabel

    spacing = "x".join([f"{side:.6g}" for side in np.linalg.norm(affine[:3, :3], axis=0)])
    return f"the orientation {''.join(nibabel.aff2axcodes(affine))} and the spacing {spacing}"


def nifti(path: Path, canonical: bool) -> np.ndarray:
    """Read float32 [z, y, x], with the axes as stored; if `canonical`, by the affine, the front at the top."""
    import nibabel

    with reading(path):
        image = nibabel.load(path)
        if canonical:
            image = nibabel.as_closest_canonical(image)
        volume = image.get_fdata(dtype=np.float32, caching="unchanged")
    slices = volume.transpose(2, 1, 0)
    return np.ascontiguousarray(slices[:, ::-1] if canonical else slices)

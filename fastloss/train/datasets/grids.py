"""Volumes that a trained network looks at: read as its training data were, and labels brought back to their grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastloss.cli import CommandError

from . import images
from .files import nifti, reading, voxel_axes
from .readers import mni152
from .specs import get

NIFTI, TRANSUNET = (".nii.gz", ".nii"), (".npy.h5",)


class Volume(NamedTuple):
    """`slices` float32 [D, H, W] as they are seen, and `back`, which makes a NIfTI image of labels uint8 [D, H, W] on
    the grid of the file: its size, orientation, spacing and affine."""

    slices: np.ndarray
    back: Callable[[np.ndarray], Any]


def endings(kind: str) -> tuple[str, ...]:
    """Return the endings of the files that a network of this dataset can look at; CommandError if there are none."""
    known = {"upright": NIFTI, "stored": NIFTI, "transunet": TRANSUNET}
    if get(kind).volumes not in known:
        raise CommandError(f"predict reads volumes, and networks of {kind} are trained on single images")
    return known[get(kind).volumes]


def stem(path: Path, kind: str) -> str:
    """Return the name of a file without its ending; CommandError for another ending."""
    for ending in endings(kind):
        if path.name.endswith(ending) and path.name != ending:
            return path.name.removesuffix(ending)
    raise CommandError(f"{path} must end in {' or '.join(endings(kind))} for a network of {kind}")


def check(path: Path, kind: str) -> None:
    """Read the header alone.

    Raises:
        CommandError: the file cannot be read, is not one volume of real numbers, or does not say which way is up.
    """
    stem(path, kind)
    if get(kind).volumes == "transunet":
        _h5(path)
        return
    import nibabel

    with reading(path):
        found = nibabel.load(path)
        if not isinstance(found, (nibabel.Nifti1Image, nibabel.Nifti2Image)):
            raise ValueError(f"it is {type(found).__name__}, not NIfTI")
    header, shape = found.header, list(found.shape)
    dtype = header.get_data_dtype()
    if len(shape) != 3 or not all(shape):
        raise CommandError(f"{path} must be one volume with three axes and one channel, got the shape {shape}")
    if dtype.fields or np.issubdtype(dtype, np.complexfloating):
        what = "colours" if dtype.fields else str(dtype)
        raise CommandError(f"{path} must have one channel of real numbers, got {what}")
    if get(kind).volumes == "upright" and not (header["sform_code"] or header["qform_code"]):
        raise CommandError(f"{path} has no affine (sform and qform are unset), which must say how the slices lie")
    voxel_axes(path)
    needed = found.dataobj.offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if path.suffix == ".nii" and path.stat().st_size < needed:
        raise CommandError(f"{path} is cut short: it has {path.stat().st_size} of {needed} bytes")


def read(path: Path, kind: str) -> Volume:
    """Read a volume that `check` has let through; CommandError if what follows its header is broken."""
    if get(kind).volumes == "transunet":
        return Volume(_h5(path)[:].astype(np.float32), _without_place)
    import nibabel
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    upright = get(kind).volumes == "upright"
    with reading(path):
        source: Any = nibabel.load(path)
    turned = ornt_transform([[0, 1], [1, 1], [2, 1]], io_orientation(source.affine)) if upright else None

    def back(labels: np.ndarray) -> Any:
        if turned is None:
            data = labels.transpose(2, 1, 0)
        else:
            data = apply_orientation(labels[:, ::-1].transpose(2, 1, 0), turned)
        header = source.header.copy()
        header.set_data_dtype(np.uint8)
        header["cal_min"] = header["cal_max"] = 0  # a window for the intensities
        return type(source)(np.ascontiguousarray(data, np.uint8), source.affine, header)

    return Volume(nifti(path, canonical=upright), back)


def _h5(path: Path) -> Any:
    import h5py

    with reading(path):
        found = h5py.File(path)["image"]
        if found.ndim != 3 or not np.issubdtype(found.dtype, np.number):
            raise ValueError(f"image must be of three axes, got the shape {list(found.shape)} of {found.dtype}")
    return found


def _without_place(labels: np.ndarray) -> Any:
    import nibabel

    return nibabel.Nifti1Image(np.ascontiguousarray(labels.transpose(2, 1, 0)), np.eye(4))


def prepare(slices: np.ndarray, kind: str, settings: Mapping[str, Any], size: int, augmented_later: bool) -> np.ndarray:
    """Bring slices [D, H, W] to what the network was trained on: float32 [D, size, size].

    Args:
        settings: of the store that it was trained on.
        augmented_later: the demo: slices are degraded anew in each epoch, and never stored.

    Raises:
        ValueError: intensities that are not finite, or not of the range that the demo's network knows.
    """
    if kind == "demo":
        if not (np.isfinite(slices).all() and slices.min() >= 0 and slices.max() <= 255):
            raise ValueError("intensities must be from 0 to 255, as MNI152's are, "
                             f"got {slices.min():g} to {slices.max():g}")  # fmt: skip
        slices = mni152.squared(slices / np.float32(255), size if augmented_later else mni152.SIDE)
        if augmented_later:
            return slices
    else:
        slices = images.normalise(slices, settings)
    how = get(kind).resize
    stored = [images.resize(image, settings["size"], how).astype(np.float16).astype(np.float32) for image in slices]
    return np.stack([images.resize(image, size, how) for image in stored])


def restore(labels: np.ndarray, kind: str, shape: tuple[int, int]) -> np.ndarray:
    """Bring labels [D, size, size] back to [D, H, W], from the nearest pixels."""
    if kind != "demo":
        return images.restore_grid(labels, shape, get(kind).resize)
    side = max(shape)
    above, left = ((side - length) // 2 for length in shape)
    whole = images.restore_grid(labels, (side, side), "linear")
    return whole[:, above : above + shape[0], left : left + shape[1]]

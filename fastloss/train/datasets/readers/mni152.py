"""The brain of `fastloss demo`: axial slices of a real MRI volume with the mask of its deep grey matter.

The volume is the MNI152 T1 template (nonlinear, symmetric, 2009a) with its grey-matter map, as the nilearn wheel ships
it: ONE brain, the average of 152. All its grey or all its white matter falls to an intensity threshold (Dice 0.96), so
the target is the grey matter more than DEPTH_MM inside the outline of its slice (basal ganglia, thalamus, insula, parts
of the cerebellum): it has the intensity of the cortex and takes position and shape. A bias field and noise are added.

As a dataset its slabs count as patients, with gaps between, so that splits have something to split. `fastloss demo`
itself trains on clean slices, degraded anew in each epoch: `training_store`.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from fastloss.cli import CommandError

from ..augment import degrade, generator
from ..records import Case, Found, Slice
from ..store import MemoryStore

SIDE = 233  # pixels: the longer side of the volume
SLAB = 16  # slices (mm) of a patient
DEPTH_MM = 20
LEAST_BRAIN_MM2 = 400  # a slice with less brain is left out
TRAIN, GAP, VALID = 16, 4, 6  # slices (mm) of a slab of the demo; slabs repeat train, gap, valid, gap
FIXED = -1  # the seed of what is degraded once and for all: validation, and what the thresholds are fitted on


class Brain(NamedTuple):
    """Images float32 [N, H, W] in [0, 1], masks uint8 of that shape, z the slice numbers."""

    images: np.ndarray
    masks: np.ndarray
    z: list[int]


def packaged() -> Path:
    """Find nilearn's volumes; ModuleNotFoundError if it is not installed."""
    # The folder is found without importing nilearn, which would load scikit-learn and pandas for three files.
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'nilearn'", name="nilearn")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data"


def scan(root: Path, settings: Mapping[str, Any]) -> Found:
    files = tuple(sorted(root.glob("mni_icbm152_*_tal_nlin_sym_09a_converted.nii.gz")))
    z = _whole(SIDE, root).z
    slabs = [z[start : start + SLAB] for start in range(0, len(z) - SLAB + 1, SLAB + GAP)]
    names = [f"slab-z{slab[0]:03d}" for slab in slabs]
    return Found([Case(name, name, files, tuple(slab), (SIDE, SIDE)) for name, slab in zip(names, slabs)])


def read(case: Case) -> tuple[np.ndarray, np.ndarray]:
    brain = _whole(SIDE, case.files[0].parent)
    first = brain.z.index(case.slices[0])
    rows = slice(first, first + len(case.slices))
    return degrade_once(brain.images[rows], brain.z[rows]), brain.masks[rows]


def degrade_once(images: np.ndarray, z: list[int]) -> np.ndarray:
    """Give every slice a bias field and noise of its own, the same on every call."""
    return np.stack([degrade(image, generator(FIXED, number)) for image, number in zip(images, z)])


def training_store(size: int, folder: Path | None = None) -> MemoryStore:
    """Read the slices of `fastloss demo`: clean ones to train on first, then degraded ones to validate.

    Raises:
        ModuleNotFoundError: nilearn is not installed.
        CommandError: a volume is missing, cannot be read, or has another shape than the rest.
    """
    brain = _whole(size, folder or packaged())
    train, valid = split(len(brain.z))
    images = np.concatenate([brain.images[train], degrade_once(brain.images[valid], [brain.z[row] for row in valid])])
    records = [
        Slice(name, name, brain.z[row], (size, size), part, "", (1,) * bool(brain.masks[row].any()), True)
        for part, rows in (("train", train), ("test", valid))
        for row in rows
        if (name := f"slab{row // (TRAIN + GAP + VALID + GAP)}-{part}")
    ]
    return MemoryStore("demo", {"size": size}, records, images, brain.masks[train + valid])


def split(count: int) -> tuple[list[int], list[int]]:
    """Return the rows of `count` neighbouring slices that train and that validate: slabs with GAP slices between, in
    neither."""
    period = TRAIN + GAP + VALID + GAP
    train = [row for row in range(count) if row % period < TRAIN]
    valid = [row for row in range(count) if TRAIN + GAP <= row % period < TRAIN + GAP + VALID]
    return train, valid


@functools.lru_cache(maxsize=1)
def _whole(size: int, folder: Path) -> Brain:
    """Read all slices with enough brain, resized to size x size pixels."""
    t1, grey = _volume(folder, "t1"), _volume(folder, "gm")
    if t1.shape != grey.shape:
        raise CommandError(f"the volumes in {folder} must have one shape, got {t1.shape} (t1) and {grey.shape} (gm)")
    brain = t1 > 0
    z = np.flatnonzero(brain.sum((0, 1)) >= LEAST_BRAIN_MM2)
    if len(z) < TRAIN + GAP + VALID:
        raise CommandError(f"the volume in {folder} must have {TRAIN + GAP + VALID} slices with brain, got {len(z)}")
    deep = np.stack([_deep(brain[:, :, k]) for k in z], axis=-1)
    images = _resized(t1[:, :, z] / np.float32(255), size)
    masks = (_resized(grey[:, :, z] / np.float32(255) * deep, size) >= 0.5).astype(np.uint8)
    return Brain(images, masks, z.tolist())


def _volume(folder: Path, tissue: str) -> np.ndarray:
    """Read one uint8 volume [x, y, z] of 1 mm voxels."""
    import nibabel

    path = folder / f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz"
    try:
        return np.asarray(nibabel.load(path).dataobj)
    except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise CommandError(f"{path} cannot be read: {str(error) or type(error).__name__}") from error


def _deep(brain: np.ndarray) -> np.ndarray:
    """Find where a slice is more than DEPTH_MM inside its outline (ventricles count as inside)."""
    from scipy import ndimage

    return ndimage.distance_transform_edt(ndimage.binary_fill_holes(brain)) > DEPTH_MM


def _resized(volume: np.ndarray, size: int) -> np.ndarray:
    """Turn [x, y, z] into [z, size, size], upright (front at the top)."""
    return squared(volume.transpose(2, 1, 0)[:, ::-1], size)


def squared(images: np.ndarray, size: int) -> np.ndarray:
    """Pad slices [D, H, W] to squares and resize them to [D, size, size]."""
    slices = torch.from_numpy(np.ascontiguousarray(images)).float()[:, None]
    height, width = slices.shape[-2:]
    side = max(height, width)
    above, left = (side - height) // 2, (side - width) // 2
    slices = F.pad(slices, (left, side - width - left, above, side - height - above))
    return F.interpolate(slices, size=(size, size), mode="bilinear", antialias=True).clamp_(0, 1)[:, 0].numpy()

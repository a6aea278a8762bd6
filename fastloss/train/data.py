"""Axial slices of a real MRI volume with the mask of its deep grey matter.

The volume is the MNI152 T1 template (nonlinear, symmetric, 2009a) with its grey-matter map, as the nilearn wheel ships
it: ONE brain, the average of 152. All its grey or all its white matter falls to an intensity threshold (Dice 0.96), so
the target is the grey matter more than DEPTH_MM inside the outline of its slice (basal ganglia, thalamus, insula, parts
of the cerebellum): it has the intensity of the cortex and takes position and shape. A bias field and noise are added.

Order, flips, bias field and noise are pure functions of (seed, epoch, slice), so that a run continues with the same
bits.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.cli import CommandError

DEPTH_MM = 20
LEAST_BRAIN_MM2 = 400  # a slice with less brain is left out
TRAIN, GAP, VALID = 16, 4, 6  # slices (mm) of a slab; slabs repeat train, gap, valid, gap
BIAS, NOISE = 0.2, 0.05  # log amplitude of the bias field; standard deviation of the noise, as a share of full scale
FIXED = -1  # the seed of what is degraded once and for all: validation, and what the thresholds are fitted on


@dataclass(frozen=True)
class Slices:
    """Degraded on demand: images float32 [N, 1, H, W] in [0, 1], masks uint8 of that shape, `z` the slice numbers."""

    images: Tensor
    masks: Tensor
    z: Tensor

    def __len__(self) -> int:
        return len(self.z)

    def pick(self, rows: list[int]) -> Slices:
        return Slices(self.images[rows], self.masks[rows], self.z[rows])

    def degraded(self) -> Slices:
        """Every slice with a bias field and noise of its own, the same on every call."""
        images = [degrade(image, generator(FIXED, int(z))) for image, z in zip(self.images, self.z)]
        return Slices(torch.stack(images), self.masks, self.z)

    def batches(self, seed: int, epoch: int, batch: int, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from number `skip` on, shuffled, flipped and degraded; the last may be smaller."""
        order = torch.randperm(len(self), generator=generator(seed, epoch)).tolist()
        for start in range(skip * batch, len(order), batch):
            pairs = [self._sample(seed, epoch, index) for index in order[start : start + batch]]
            yield torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])

    def _sample(self, seed: int, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        rng = generator(seed, epoch, index)
        image, mask = self.images[index], self.masks[index]
        if torch.rand((), generator=rng) < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        return degrade(image, rng), mask


def generator(*key: int) -> torch.Generator:
    """A random generator that depends on the key and on nothing else."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def degrade(image: Tensor, rng: torch.Generator) -> Tensor:
    """A smooth multiplicative bias field and Gaussian noise on an image [1, H, W]."""
    coarse = torch.rand(1, 1, 3, 3, generator=rng) * 2 - 1
    field = F.interpolate(coarse, size=image.shape[-2:], mode="bicubic", align_corners=True)[0]
    return image * torch.exp(BIAS * field) + NOISE * torch.randn(image.shape, generator=rng)


def split(count: int) -> tuple[list[int], list[int]]:
    """Rows of `count` neighbouring slices that train and that validate: slabs with GAP slices between, in neither."""
    period = TRAIN + GAP + VALID + GAP
    train = [row for row in range(count) if row % period < TRAIN]
    valid = [row for row in range(count) if TRAIN + GAP <= row % period < TRAIN + GAP + VALID]
    return train, valid


def load(size: int, folder: Path | None = None) -> tuple[Slices, Slices]:
    """(training, validation) slices, resized to size x size pixels; raises what `whole` raises."""
    slices = whole(size, folder)
    train, valid = split(len(slices))
    return slices.pick(train), slices.pick(valid).degraded()


def whole(size: int, folder: Path | None = None) -> Slices:
    """All slices with enough brain, resized to size x size pixels.

    Raises:
        ModuleNotFoundError: nilearn is not installed.
        CommandError: a volume is missing, cannot be read, or has another shape than the rest.
    """
    folder = folder or nilearn_data()
    t1, grey = _volume(folder, "t1"), _volume(folder, "gm")
    if t1.shape != grey.shape:
        raise CommandError(f"the volumes in {folder} must have one shape, got {t1.shape} (t1) and {grey.shape} (gm)")
    brain = t1 > 0
    z = np.flatnonzero(brain.sum((0, 1)) >= LEAST_BRAIN_MM2)
    if len(z) < TRAIN + GAP + VALID:
        raise CommandError(f"the volume in {folder} must have {TRAIN + GAP + VALID} slices with brain, got {len(z)}")
    deep = np.stack([_deep(brain[:, :, k]) for k in z], axis=-1)
    images = _resized(t1[:, :, z] / np.float32(255), size)
    masks = (_resized(grey[:, :, z] / np.float32(255) * deep, size) >= 0.5).to(torch.uint8)
    return Slices(images, masks, torch.from_numpy(z))


def nilearn_data() -> Path:
    """Where nilearn keeps its volumes; ModuleNotFoundError if it is not installed."""
    # The folder is found without importing nilearn, which would load scikit-learn and pandas for three files.
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'nilearn'", name="nilearn")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data"


def _volume(folder: Path, tissue: str) -> np.ndarray:
    """One uint8 volume [x, y, z] of 1 mm voxels."""
    import nibabel

    path = folder / f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz"
    try:
        return np.asarray(nibabel.load(path).dataobj)
    except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise CommandError(f"{path} cannot be read: {str(error) or type(error).__name__}") from error


def _deep(brain: np.ndarray) -> np.ndarray:
    """Where a slice is more than DEPTH_MM inside its outline (ventricles count as inside)."""
    from scipy import ndimage

    return ndimage.distance_transform_edt(ndimage.binary_fill_holes(brain)) > DEPTH_MM


def _resized(volume: np.ndarray, size: int) -> Tensor:
    """[x, y, z] -> [z, 1, size, size], padded to a square first and upright (front at the top)."""
    slices = torch.from_numpy(np.ascontiguousarray(volume.transpose(2, 1, 0)[:, ::-1])).float()[:, None]
    height, width = slices.shape[-2:]
    side = max(height, width)
    above, left = (side - height) // 2, (side - width) // 2
    slices = F.pad(slices, (left, side - width - left, above, side - height - above))
    return F.interpolate(slices, size=(size, size), mode="bilinear", antialias=True).clamp_(0, 1)

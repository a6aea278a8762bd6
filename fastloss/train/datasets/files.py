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


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever a broken file raises into a CommandError that names it."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        yield
    except (*BROKEN, ImageFileError, HeaderDataError) as error:
        reason = "it does not exist" if isinstance(error, FileNotFoundError) else str(error) or type(error).__name__
        raise CommandError(f"{path} cannot be read: {' '.join(reason.split())[:200]}") from error


def read_json(path: Path) -> Any:
    with reading(path):
        return json.loads(path.read_text())


def nifti_shape(path: Path) -> tuple[int, ...]:
    """Of the axes as stored, from the header alone."""
    import nibabel

    with reading(path):
        return tuple(nibabel.load(path).shape)


def nifti(path: Path, canonical: bool) -> np.ndarray:
    """float32 [z, y, x], with the axes as stored; if `canonical`, by the affine, the front at the top."""
    import nibabel

    with reading(path):
        image = nibabel.load(path)
        if canonical:
            image = nibabel.as_closest_canonical(image)
        volume = image.get_fdata(dtype=np.float32, caching="unchanged")
    slices = volume.transpose(2, 1, 0)
    return np.ascontiguousarray(slices[:, ::-1] if canonical else slices)

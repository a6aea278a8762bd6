"""The brain of `fastloss demo` as a dataset: slabs of it count as patients, with gaps between, so that splits have
something to split. The bias fields and the noise are those of the demo's validation."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastloss.train import data

from ..records import Case, Found

SIDE = 233  # pixels: the longer side of the volume
SLAB, GAP = 16, 4  # slices (mm)


def packaged() -> Path:
    return data.nilearn_data()


def scan(root: Path, settings: Mapping[str, Any]) -> Found:
    files = tuple(sorted(root.glob("mni_icbm152_*_tal_nlin_sym_09a_converted.nii.gz")))
    z = _brain(root).z.tolist()
    slabs = [z[start : start + SLAB] for start in range(0, len(z) - SLAB + 1, SLAB + GAP)]
    names = [f"slab-z{slab[0]:03d}" for slab in slabs]
    return Found([Case(name, name, files, tuple(slab), (SIDE, SIDE)) for name, slab in zip(names, slabs)])


@functools.lru_cache(maxsize=1)
def _brain(root: Path) -> data.Slices:
    return data.whole(SIDE, root)


def read(case: Case) -> tuple[np.ndarray, np.ndarray]:
    brain = _brain(case.files[0].parent)
    first = brain.z.tolist().index(case.slices[0])
    slab = brain.pick(list(range(first, first + len(case.slices)))).degraded()
    return slab.images[:, 0].numpy(), slab.masks[:, 0].numpy()

"""The Automated Cardiac Diagnosis Challenge: two labelled frames of each patient, named by Info.cfg; or as slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastloss.cli import CommandError

from ..files import find_volume, nifti, nifti_pair, read_text
from ..records import Case, Found
from . import acdc_slices

EXPECTED = "training/patientNNN/ with Info.cfg and patientNNN_frameMM.nii.gz, or train/case_NNN_slice{ED,ES}_M.npz"
PHASES = ("ED", "ES")


def find(folder: Path) -> Path | None:
    roots = (folder, folder / "database", folder / "ACDC", folder / "ACDC" / "database")
    return next((root for root in roots if _official(root) or acdc_slices.found_in(root)), None)


def _official(root: Path) -> bool:
    return next((root / "training").glob("patient*"), None) is not None


def scan(root: Path, settings: Mapping[str, Any]) -> Found:
    """Find the labelled frames of training/ and of testing/; the early releases have no labels in testing/."""
    if not _official(root):
        return acdc_slices.scan(root)
    found, unlabelled = Found(), 0
    for part, folder in (("train", root / "training"), ("test", root / "testing")):
        for patient in sorted(path for path in folder.glob("patient*") if path.is_dir()):
            if part == "test" and not any(patient.glob("*_gt.nii*")):
                unlabelled += 1
                continue
            try:
                found.cases += _cases(patient, part, found)
            except CommandError as error:
                found.problems.append(str(error))
    if unlabelled:
        found.notes.append(f"{unlabelled} patients in testing/ have no labels and are left out")
    return found


def info(path: Path) -> dict[str, str]:
    """Read the lines `key: value` of an Info.cfg."""
    lines = read_text(path).splitlines()
    return {key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon}


def _cases(patient: Path, part: str, found: Found) -> Iterator[Case]:
    config = patient / "Info.cfg"
    values = info(config)
    for phase in PHASES:
        if not values.get(phase, "").isdecimal():
            raise CommandError(f"{config} must name the frame of {phase} by a number, got {values.get(phase)!r}")
        frame = f"{patient.name}_frame{int(values[phase]):02d}"
        image, label = (_nifti(patient, name) for name in (frame, f"{frame}_gt"))
        shape, notes = nifti_pair(image, label)
        found.notes += notes
        slices, size = tuple(range(shape[2])), (shape[1], shape[0])
        yield Case(
            patient.name,
            f"{patient.name}-{phase}",
            (image, label, config),
            slices,
            size,
            part,
            values.get("Group", ""),
        )


def _nifti(folder: Path, name: str) -> Path:
    path = find_volume(folder / f"{name}.nii.gz")
    if path.is_file():
        return path
    raise CommandError(f"{folder / name}.nii.gz is missing, which Info.cfg asks for")


def read(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Read short-axis slices as stored: the affine of a heart's short axis is oblique, so that turning could swap
    axes."""
    if case.files[0].suffix == ".npz":
        return acdc_slices.read(case)
    image, label = (nifti(path, canonical=False) for path in case.files[:2])
    return image, label

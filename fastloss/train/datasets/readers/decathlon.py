"""The Medical Segmentation Decathlon: dataset.json beside imagesTr and labelsTr, NIfTI volumes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fastloss.cli import CommandError

from ..files import find_volume, nifti, nifti_pair, read_json
from ..records import Case, Found

EXPECTED = "dataset.json (Decathlon's or nnU-Net v2's) beside imagesTr/ and labelsTr/"


def find(folder: Path) -> Path | None:
    return next((root for root in (folder, folder / "Task10_Colon") if (root / "dataset.json").is_file()), None)


def scan(root: Path, settings: Mapping[str, Any]) -> Found:
    found = Found()
    listed = _listed(root / "dataset.json")
    for image, label in listed:
        name = image.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_0000")
        missing = [path for path in (image, label) if not path.is_file()]
        found.problems += [f"{path} is missing, which dataset.json lists" for path in missing]
        if missing:
            continue
        try:
            shape, notes = nifti_pair(image, label)
        except CommandError as error:
            found.problems.append(str(error))
            continue
        found.notes += notes
        # Sizes are those of the axes as stored; `read` says what the slices are after turning the patient upright.
        found.cases.append(Case(name, name, (image, label), tuple(range(shape[2])), (shape[1], shape[0])))
    known = {part for image, _ in listed for part in (image.name, image.parent.name)}
    extra = {path.name for path in (root / "imagesTr").glob("[!.]*.nii*")} - known
    if extra:
        found.notes.append(f"{len(extra)} volumes in imagesTr are not listed in dataset.json and are left out")
    return found


def _listed(path: Path) -> list[tuple[Path, Path]]:
    """Return the pairs sorted by name, so that an index cut is by patient. `._*`, which macOS left in the archive, are
    not data."""
    content = read_json(path)
    if isinstance(content, dict) and "training" not in content and "file_ending" in content:
        pairs = _of_nnunet(path, content)
    else:
        entries = content.get("training") if isinstance(content, dict) else None
        if not isinstance(entries, list) or not entries:
            raise CommandError(f'{path} must list the volumes under "training", which is missing or empty')
        try:
            pairs = [(path.parent / entry["image"], path.parent / entry["label"]) for entry in entries]
        except (KeyError, TypeError) as error:
            raise CommandError(f'{path} must give an "image" and a "label" for each volume of "training"') from error
    pairs = sorted(pair for pair in pairs if not pair[0].name.startswith("._"))
    for (image, _), (again, _) in pairwise(pairs):
        if image.name == again.name:
            raise CommandError(f"{path} lists {image.name} twice")
    return [(find_volume(image), find_volume(label)) for image, label in pairs]


def _of_nnunet(path: Path, content: Mapping[str, Any]) -> list[tuple[Path, Path]]:
    """Pair volumes by name, as nnU-Net v2's file names none: every label has an image of channel 0000."""
    ending, channels = content["file_ending"], content.get("channel_names", {"0": "CT"})
    if ending not in (".nii.gz", ".nii") or len(channels) != 1:
        given = f"{len(channels)} of {ending}"
        raise CommandError(f"{path} must be of volumes with one channel in .nii.gz or .nii, got {given}")
    labels = sorted((path.parent / "labelsTr").glob(f"[!.]*{ending}"))
    if not labels:
        raise CommandError(f"{path.parent / 'labelsTr'} holds no labels in {ending}, which dataset.json announces")
    images = path.parent / "imagesTr"
    return [(images / f"{label.name.removesuffix(ending)}_0000{ending}", label) for label in labels]


def read(case: Case) -> tuple[np.ndarray, np.ndarray]:
    image, label = (nifti(path, canonical=True) for path in case.files)
    if len(image) != len(case.slices):
        turned = f"{len(image)} slices from below to above, and {len(case.slices)} along its last axis"
        raise CommandError(f"{case.files[0]} must be stored as axial slices, its affine says otherwise ({turned})")
    return image, label

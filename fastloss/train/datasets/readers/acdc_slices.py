"""ACDC as the code around TransUNet prepares it, as npz: slices that train or choose the epoch, volumes that test."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from fastloss.cli import CommandError

from ..files import npz_pair
from ..records import Case, Found
from .synapse import gaps, list_names

SLICE = re.compile(r"(case_\d+)_slice(ED|ES)_(\d+)$")
VOLUME = re.compile(r"(case_\d+)_volume_(ED|ES)$")
KEYS = ("img", "label")


def found_in(root: Path) -> bool:
    return next((root / "train").glob("case_*_slice*.npz"), None) is not None


def scan(root: Path) -> Found:
    """Find train/ and valid/ by slices, test/ by volumes; of lists_ACDC/ what it names, else what there is."""
    found = Found()
    for part in ("train", "valid"):
        cases: dict[tuple[str, str], list[int]] = defaultdict(list)
        for _, match in _names(root, part, SLICE, found):
            cases[match[1], match[2]].append(int(match[3]))
        for (patient, phase), numbers in sorted(cases.items()):
            numbers.sort()
            stem = f"{root / part / patient}_slice{phase}_"
            found.problems += gaps(stem, numbers)
            files = tuple(Path(f"{stem}{number}.npz") for number in numbers)
            _add(found, Case(patient, f"{patient}-{phase}", files, tuple(numbers), (0, 0), part))
    for name, match in _names(root, "test", VOLUME, found):
        _add(found, Case(match[1], f"{match[1]}-{match[2]}", (root / "test" / f"{name}.npz",), (), (0, 0), "test"))
    return found


def _names(root: Path, part: str, pattern: re.Pattern[str], found: Found) -> list[tuple[str, re.Match[str]]]:
    matches = []
    try:
        names = list_names(root, ("lists_ACDC", "lists/lists_ACDC"), f"{part}.txt", part, ".npz")
    except CommandError as error:
        found.problems.append(str(error))
        return []
    for name in sorted(names):
        match = pattern.match(name)
        if match is None:
            example = "case_001_sliceED_0" if pattern is SLICE else "case_002_volume_ED"
            found.problems.append(f"{root / part / name}.npz must be named like {example}.npz")
        else:
            matches.append((name, match))
    return matches


def _add(found: Found, case: Case) -> None:
    """Add a case with the shape that the first file says."""
    try:
        missing = next((path for path in case.files if not path.is_file()), None)
        if missing is not None:
            raise CommandError(f"{missing} is missing, which the list of {case.part} names")
        shape = npz_pair(case.files[0], KEYS, 3 if case.part == "test" else 2)[0].shape
    except CommandError as error:
        found.problems.append(str(error))
        return
    slices = tuple(range(shape[0])) if case.part == "test" else case.slices
    found.cases.append(Case(case.patient, case.name, case.files, slices, shape[-2:], case.part))


def read(case: Case) -> tuple[np.ndarray, np.ndarray]:
    if case.part == "test":
        image, label = npz_pair(case.files[0], KEYS, 3)
        return image.astype(np.float32), label
    pairs = [npz_pair(path, KEYS, 2) for path in case.files]
    for path, (image, _) in zip(case.files, pairs):
        if image.shape != case.shape:
            raise CommandError(f"{path} has the shape {list(image.shape)}, the first of its case {list(case.shape)}")
    images, labels = zip(*pairs)
    return np.stack(images).astype(np.float32), np.stack(labels)

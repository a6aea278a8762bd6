"""Synapse multi-organ CT as TransUNet prepares it: training slices as npz, test volumes as HDF5."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastloss.cli import CommandError

from ..files import npz_pair, read_text, reading
from ..records import MARKER, Case, Found

EXPECTED = "train_npz/caseNNNN_sliceMMM.npz and test_vol_h5/caseNNNN.npy.h5"
SLICE = re.compile(r"(case\d+)_slice(\d+)$")
TRAIN = "0005 0006 0007 0009 0010 0021 0023 0024 0026 0027 0028 0030 0031 0033 0034 0037 0039 0040".split()
TEST = "0001 0002 0003 0004 0008 0022 0025 0029 0032 0035 0036 0038".split()
KEYS = ("image", "label")
LISTS = ("lists_Synapse", "lists/lists_Synapse")


def find(folder: Path) -> Path | None:
    return next((root for root in (folder, folder / "Synapse") if (root / "train_npz").is_dir()), None)


def scan(root: Path, settings: Mapping[str, Any]) -> Found:
    """Find what the lists name, if there are lists, else what there is."""
    found = Found()
    try:
        names = list_names(root, LISTS, "train.txt", "train_npz", ".npz")
        volumes = list_names(root, LISTS, "test_vol.txt", "test_vol_h5", ".npy.h5")
    except CommandError as error:
        return Found(problems=[str(error)])
    cases: dict[str, list[int]] = defaultdict(list)
    for name in names:
        match = SLICE.match(name)
        if match is None:
            found.problems.append(f"{root / 'train_npz' / name}.npz must be named caseNNNN_sliceMMM.npz")
        else:
            cases[match[1]].append(int(match[2]))
    for case, numbers in sorted(cases.items()):
        found.problems += gaps(f"{root / 'train_npz' / case}_slice", sorted(numbers), 3)
        _add(found, lambda case=case, numbers=numbers: _of_slices(root, case, sorted(numbers)))
    for name in sorted(volumes):
        _add(found, lambda name=name: _of_volume(root / "test_vol_h5" / f"{name}.npy.h5", name))
    if not names:
        found.problems.append(f"{root / 'train_npz'} holds no caseNNNN_sliceMMM.npz")
    if not (root / MARKER).exists():
        _compare(found)
    return found


def list_names(root: Path, places: tuple[str, ...], file: str, folder: str, suffix: str) -> list[str]:
    """Return the names in the first list that there is, without `suffix`; else those of all files in the folder."""
    for place in places:
        path = root / place / file
        if path.is_file():
            names = [name.removesuffix(suffix) for name in read_text(path).split()]
            if not names:
                raise CommandError(f"{path} lists nothing; without it all of {folder}/ is read")
            again = next((name for name, number in Counter(names).items() if number > 1), None)
            if again is not None:
                raise CommandError(f"{path} lists {again} twice")
            return names
    return sorted(path.name.removesuffix(suffix) for path in (root / folder).glob(f"[!.]*{suffix}"))


def gaps(stem: str, numbers: list[int], digits: int = 0) -> Iterator[str]:
    """Report gaps: a volume's slices are numbered from 0; what is missing at its end only a list can tell."""
    for number in sorted(set(range(numbers[-1] + 1)) - set(numbers)):
        yield f"{stem}{number:0{digits}d}.npz is missing, though there are later slices of its case"


def _add(found: Found, make: Any) -> None:
    try:
        found.cases.append(make())
    except CommandError as error:
        found.problems.append(str(error))


def _of_slices(root: Path, case: str, numbers: list[int]) -> Case:
    files = tuple(root / "train_npz" / f"{case}_slice{number:03d}.npz" for number in numbers)
    missing = [path for path in files if not path.is_file()]
    if missing:
        also = f" (and {len(missing) - 1} more of {case})" if len(missing) > 1 else ""
        raise CommandError(f"{missing[0]} is missing{also}, which train.txt lists")
    return Case(case, case, files, tuple(numbers), npz_pair(files[0], KEYS, 2)[0].shape)


def _of_volume(path: Path, case: str) -> Case:
    import h5py

    with reading(path), h5py.File(path) as file:
        shape = file["image"].shape
        if len(shape) != 3 or file["label"].shape != shape:
            raise ValueError(f"image and label must be of one 3D shape, got {shape} and {file['label'].shape}")
    return Case(case, case, (path,), tuple(range(shape[0])), shape[1:], "test")


def read(case: Case) -> tuple[np.ndarray, np.ndarray]:
    if case.part == "test":
        import h5py

        with reading(case.files[0]), h5py.File(case.files[0]) as file:
            return np.asarray(file["image"], np.float32), np.asarray(file["label"])
    images, labels = zip(*[npz_pair(path, KEYS, 2) for path in case.files])
    for path, image in zip(case.files, images):
        if image.shape != case.shape:
            raise CommandError(f"{path} has the shape {list(image.shape)}, the first of its case {list(case.shape)}")
    return np.stack(images).astype(np.float32), np.stack(labels)


def _compare(found: Found) -> None:
    """Compare with the 18 and 12 cases of TransUNet."""
    for part, numbers in (("train", TRAIN), ("test", TEST)):
        here = {case.patient.removeprefix("case") for case in found.cases if case.part == part}
        missing = [number for number in numbers if number not in here]
        if missing:
            found.notes.append(f"of TransUNet's {len(numbers)} {part} cases these are not here: {' '.join(missing)}")

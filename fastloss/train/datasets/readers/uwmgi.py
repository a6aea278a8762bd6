"""UW-Madison GI tract MRI: 16-bit PNG slices, and run-length masks of three overlapping classes in train.csv."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastloss.cli import CommandError

from ..files import reading
from ..records import Case, Found

EXPECTED = "train.csv and train/caseN/caseN_dayD/scans/slice_*.png"
NAME = re.compile(r"((case\d+)_day\d+)_slice_(\d+)$")
FILE = re.compile(r"slice_(\d+)(_.*)?\.png$")
CLASSES = ("large_bowel", "small_bowel", "stomach")
Masks = dict[int, list[str]]


def find(folder: Path) -> Path | None:
    return folder if (folder / "train.csv").is_file() and (folder / "train").is_dir() else None


def scan(root: Path, settings: Mapping[str, Any]) -> Found:
    days = _table(root / "train.csv")
    found = Found()
    dropped = [day for day in days if day in settings["drop"]]
    if dropped:
        found.notes.append(f"{' and '.join(dropped)} left out by the setting drop")
    days = {day: masks for day, masks in days.items() if day not in dropped}
    kept = _kept(days, settings["keep_empty"], settings["keep_seed"])
    for day in sorted(days, key=_order):
        numbers = sorted(set(days[day]) & kept[day])
        if numbers:
            _case(root, day, numbers, days[day], found)
    return found


def _order(day: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", day)))


def _table(path: Path) -> dict[str, Masks]:
    """Read {day: {slice number: runs of the three classes}}"""
    days: dict[str, Masks] = defaultdict(dict)
    with reading(path), path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"id", "class", "segmentation"} <= set(rows.fieldnames or ()):
            raise CommandError(f"{path} must have the columns id, class, segmentation, got {rows.fieldnames}")
        for row in rows:
            match = NAME.match(row["id"] or "")
            if match is None or row["class"] not in CLASSES:
                given = f"{row['id']!r}, {row['class']!r}"
                raise CommandError(f"{path}, line {rows.line_num}: an id and a class are expected, got {given}")
            masks = days[match[1]].setdefault(int(match[3]), [""] * len(CLASSES))
            masks[CLASSES.index(row["class"])] = (row["segmentation"] or "").strip()
    if not days:
        raise CommandError(f"{path} lists no slices")
    return days


def _kept(days: dict[str, Masks], share: float, seed: int) -> dict[str, set[int]]:
    """Keep every slice with a mask, and a share of the others, drawn from the list of all of them."""
    kept = {day: {number for number, runs in masks.items() if any(runs)} for day, masks in days.items()}
    empty = [(day, number) for day in sorted(days, key=_order) for number in sorted(set(days[day]) - kept[day])]
    drawn = np.random.default_rng(seed).permutation(len(empty))[: round(share * len(empty))]
    for place in drawn:
        day, number = empty[place]
        kept[day].add(number)
    return kept


def _case(root: Path, day: str, numbers: list[int], masks: Masks, found: Found) -> None:
    patient = day.split("_")[0]
    folder = root / "train" / patient / day / "scans"
    there: dict[int, Path] = {}
    for path in sorted(folder.glob("slice_*.png")):
        match = FILE.match(path.name)
        if match and there.setdefault(int(match[1]), path) != path:
            found.problems.append(f"{there[int(match[1])]} and {path.name} are both slice {int(match[1])} of {day}")
    missing = [number for number in numbers if number not in there]
    if missing:
        also = f" (and {len(missing) - 1} more of {day})" if len(missing) > 1 else ""
        found.problems.append(f"{folder}/slice_{missing[0]:04d}_*.png is missing{also}, which train.csv lists")
        return
    files = tuple(there[number] for number in numbers)
    try:
        shape = _png(files[0]).shape
    except CommandError as error:
        found.problems.append(str(error))
        return
    runs = tuple(tuple(masks[number]) for number in numbers)
    found.cases.append(Case(patient, day, files, tuple(numbers), shape, masks=runs))


def _png(path: Path) -> np.ndarray:
    from PIL import Image

    with reading(path), Image.open(path) as image:
        pixels = np.asarray(image)
        if pixels.ndim != 2:
            raise ValueError(f"a grey image is expected, got {image.mode}")
    return pixels


def decode(runs: str, shape: tuple[int, int], where: object) -> np.ndarray:
    """Read a mask uint8 [H, W] from "start length …", counted from 1 along the rows.

    Raises:
        CommandError: the runs are no such pairs or leave the image.
    """
    try:
        numbers = np.array(runs.split(), dtype=np.int64)
        starts, lengths = numbers[0::2] - 1, numbers[1::2]
        inside = len(starts) == len(lengths) and (starts >= 0).all() and (lengths > 0).all()
    except ValueError:
        inside = False
    pixels = shape[0] * shape[1]
    if not inside or (starts + lengths > pixels).any():
        raise CommandError(f"{where}: the runs of a mask must be pairs within {pixels} pixels, got {runs[:40]!r}")
    mask = np.zeros(pixels, np.uint8)
    for start, length in zip(starts, lengths):
        mask[start : start + length] = 1
    return mask.reshape(shape)


def read(case: Case) -> tuple[np.ndarray, np.ndarray]:
    images = [_png(path) for path in case.files]
    for path, image in zip(case.files, images):
        if image.shape != case.shape:
            raise CommandError(f"{path} has the shape {list(image.shape)}, the first of {case.name} {list(case.shape)}")
    masks = []
    for z, classes in zip(case.slices, case.masks):
        where = f"train.csv, {case.name}, slice {z}"
        masks.append([decode(runs, case.shape, where) for runs in classes])
    return np.stack(images).astype(np.float32), np.array(masks)

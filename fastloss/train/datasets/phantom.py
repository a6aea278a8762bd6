"""Generated datasets in the real layouts: they pass through the true readers, and every experiment runs with nothing
downloaded. Scores on them say nothing about accuracy on patients."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastloss.cli import CommandError

from ..progress import counting
from . import bodies
from .disk import CACHE, lock, no_space
from .records import MARKER

VERSION = 2
GROUPS = ("NOR", "MINF", "DCM", "HCM", "RV")
FRAMES = 5
CT = (-125, 275)


@dataclass(frozen=True)
class Phantom:
    """What to generate. A patient depends on the seed and its number only, not on how many there are.

    Attributes:
        layout: one of LAYOUTS.
        patients: of which the layout's test part gets its real share (synapse: 12 of 30).
        labels: classes that are labelled; the rest stays in the images. None: all of the layout.
        size: side of the images in pixels; those of acdc and uwmgi differ a little between patients, as the real ones.
        slices: of a volume; None: 24, or 9 for acdc.
    """

    layout: str
    patients: int = 12
    labels: int | None = None
    size: int = 128
    slices: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise CommandError(f"--layout must be one of {', '.join(LAYOUTS)}, got {self.layout}")
        most = LAYOUTS[self.layout].classes
        limits = {
            "patients": (1, 9999, self.patients),
            "labels": (1, most, most if self.labels is None else self.labels),
            "size": (32, 1024, self.size),
            "slices": (4, 1000, self.depth),
            "seed": (0, 2**32 - 1, self.seed),
        }
        for name, (low, high, value) in limits.items():
            if not low <= value <= high:
                raise CommandError(f"--{name} must be between {low} and {high} for {self.layout}, got {value}")

    @property
    def depth(self) -> int:
        return LAYOUTS[self.layout].slices if self.slices is None else self.slices

    @property
    def classes(self) -> int:
        return LAYOUTS[self.layout].classes if self.labels is None else self.labels

    def rng(self, patient: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, patient, list(LAYOUTS).index(self.layout)])

    def shape(self) -> tuple[int, int, int]:
        return self.depth, self.size, self.size


def generate(phantom: Phantom, cache: Path, say: Callable[[str], None] | None = None) -> Path:
    """Return the folder of a phantom in the cache, written on first use."""
    words = f"{phantom.layout}-{phantom.patients}x{phantom.depth}x{phantom.size}"
    folder = cache / "phantoms" / f"{words}-seed{phantom.seed}-labels{phantom.classes}-v{VERSION}"
    with lock(folder):
        if not folder.exists():
            write(phantom, folder, say, CACHE)
    return folder


def write(phantom: Phantom, out: Path, say: Callable[[str], None] | None = None, setting: str = "--out") -> None:
    """Generate into the folder `out`, which must not exist or be empty; on any error nothing of it is left.

    Raises:
        CommandError: `out` is not empty, or the disk too small.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CommandError(f"--out must be a new or empty folder, {out} has something in it")
    partial = out.with_name(f"{out.name}.partial")
    voxels = phantom.patients * np.prod(phantom.shape()) * LAYOUTS[phantom.layout].volumes
    with no_space(out, int(3 * voxels), setting):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            with counting(phantom.patients, f"generating {phantom.layout}", "patients", say) as count:
                LAYOUTS[phantom.layout].write(phantom, partial, count)
            (partial / MARKER).write_text(json.dumps({"version": VERSION, **asdict(phantom)}) + "\n")
            if out.exists():
                out.rmdir()
            os.rename(partial, out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _save(path: Path, volume: np.ndarray, spacing: tuple[float, ...], upright: bool) -> None:
    """Save [..., z, y, x] as NIfTI; `upright`: y runs from front to back and the affine says so."""
    import nibabel

    affine = np.diag([spacing[0], -spacing[1] if upright else spacing[1], spacing[2], 1.0])
    image = nibabel.Nifti1Image(np.ascontiguousarray(volume.T), affine)
    image.header.set_zooms(spacing)
    nibabel.save(image, path)


def _decathlon(phantom: Phantom, out: Path, count: Callable[[int], None]) -> None:
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (out / folder).mkdir()
    unlabelled = max(1, phantom.patients // 2)  # the real one has 64 beside 126
    spacing, names = (0.78, 0.78, 5.0), []
    for patient in range(phantom.patients + unlabelled):
        image, label = bodies.abdomen(phantom.rng(patient), phantom.shape(), tumour=True)
        train = patient < phantom.patients
        name = f"colon_{patient + 1:03d}.nii.gz"
        _save(out / ("imagesTr" if train else "imagesTs") / name, np.rint(image).astype(np.int16), spacing, True)
        names.append(name)
        if train:
            _save(out / "labelsTr" / name, label, spacing, True)
            count(1)
    content = {
        "name": "Colon",
        "description": "generated by fastloss data phantom, no patient",
        "reference": "fastloss",
        "licence": "CC0",
        "relase": "1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "colon cancer primaries"},
        "numTraining": phantom.patients,
        "numTest": unlabelled,
        "training": [
            {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names[: phantom.patients]
        ],
        "test": [f"./imagesTs/{name}" for name in names[phantom.patients :]],
    }
    (out / "dataset.json").write_text(json.dumps(content, indent=1) + "\n")


def _synapse(phantom: Phantom, out: Path, count: Callable[[int], None]) -> None:
    import h5py

    for folder in ("train_npz", "test_vol_h5", "lists_Synapse"):
        (out / folder).mkdir()
    tested = max(1, phantom.patients * 12 // 30) if phantom.patients > 1 else 0
    slices, volumes = [], []
    for patient in range(phantom.patients):
        image, label = bodies.abdomen(phantom.rng(patient), phantom.shape(), tumour=False)
        image = ((np.clip(image, *CT) - CT[0]) / (CT[1] - CT[0])).astype(np.float32)
        label = np.where(label <= phantom.classes, label, 0).astype(np.float32)
        case = f"case{patient + 1:04d}"
        if patient < phantom.patients - tested:
            for z in range(phantom.depth):
                slices.append(f"{case}_slice{z:03d}")
                np.savez(out / "train_npz" / slices[-1], image=image[z], label=label[z])
        else:
            volumes.append(case)
            with h5py.File(out / "test_vol_h5" / f"{case}.npy.h5", "w") as file:
                file["image"], file["label"] = image, label
        count(1)
    for name, lines in (("train.txt", slices), ("test_vol.txt", volumes)):
        (out / "lists_Synapse" / name).write_text("\n".join(lines) + "\n")
    cases = sorted({line.split("_")[0] for line in slices} | set(volumes))
    (out / "lists_Synapse" / "all.lst").write_text("\n".join(f"{case}.npy.h5" for case in cases) + "\n")


def _acdc(phantom: Phantom, out: Path, count: Callable[[int], None]) -> None:
    tested = max(1, phantom.patients // 3) if phantom.patients > 1 else 0
    spacing = (1.52, 1.52, 10.0)
    for patient in range(phantom.patients):
        rng = phantom.rng(patient)
        shape = (phantom.depth, phantom.size + int(rng.integers(0, 9)), phantom.size + int(rng.integers(-8, 1)))
        images, labels = bodies.heart(rng, shape, FRAMES)
        labels = np.where(labels <= phantom.classes, labels, 0).astype(np.uint8)
        name = f"patient{patient + 1:03d}"
        folder = out / ("testing" if patient >= phantom.patients - tested else "training") / name
        folder.mkdir(parents=True)
        _save(folder / f"{name}_4d.nii.gz", np.rint(images).astype(np.int16), (*spacing, 1.0), False)
        ed, es = 1, FRAMES // 2 + 1
        for frame in (ed, es):
            stem = f"{name}_frame{frame:02d}"
            _save(folder / f"{stem}.nii.gz", np.rint(images[frame - 1]).astype(np.int16), spacing, False)
            _save(folder / f"{stem}_gt.nii.gz", labels[frame - 1], spacing, False)
        group = GROUPS[patient % len(GROUPS)]
        lines = f"ED: {ed}\nES: {es}\nGroup: {group}\nHeight: 170.0\nNbFrame: {FRAMES}\nWeight: 70.0\n"
        (folder / "Info.cfg").write_text(lines)
        count(1)


def _uwmgi(phantom: Phantom, out: Path, count: Callable[[int], None]) -> None:
    """Scan every third patient on two days."""
    from PIL import Image

    rows = []
    for patient in range(phantom.patients):
        rng = phantom.rng(patient)
        side = phantom.size + 2 * int(rng.integers(0, 6))
        case = f"case{patient + 1}"
        for day in (1, 20)[: 1 + (patient % 3 == 0)]:
            image, masks = bodies.gut(rng, (phantom.depth, side, side))
            folder = out / "train" / case / f"{case}_day{day}" / "scans"
            folder.mkdir(parents=True)
            for z in range(phantom.depth):
                pixels = (image[z] * rng.uniform(15000, 16000)).astype(np.uint16)
                Image.fromarray(pixels).save(folder / f"slice_{z + 1:04d}_{side}_{side}_1.50_1.50.png")
                for number, name in enumerate(("large_bowel", "small_bowel", "stomach")):
                    runs = encode(masks[z, number]) if number < phantom.classes else ""
                    rows.append((f"{case}_day{day}_slice_{z + 1:04d}", name, runs))
        count(1)
    with (out / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "class", "segmentation"), *rows])


def encode(mask: np.ndarray) -> str:
    """Write a mask as runs "start length …", counted from 1 along the rows."""
    edges = np.flatnonzero(np.diff(np.pad(mask.ravel(), 1).astype(np.int8)))
    starts, ends = edges[0::2], edges[1::2]
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends))


class Layout(NamedTuple):
    """How a layout is generated: its writer, labelled classes, slices of a volume, and volumes of a patient at most."""

    write: Callable[[Phantom, Path, Callable[[int], None]], None]
    classes: int
    slices: int
    volumes: int


LAYOUTS = {
    "decathlon": Layout(_decathlon, 1, 24, 1),
    "synapse": Layout(_synapse, 8, 24, 1),
    "acdc": Layout(_acdc, 3, 9, FRAMES + 2),
    "uwmgi": Layout(_uwmgi, 3, 24, 2),
}

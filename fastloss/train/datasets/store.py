"""The prepared slices: two flat .npy files and manifest.json, written once, memory-mapped ever after.

images.npy holds float16 and labels.npy uint8, one slice after the other; a multilabel label has channel c in bit c.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from .records import Case, Slice
from .settings import class_names
from .specs import get

VERSION = 1
IMAGES, LABELS, MANIFEST = "images.npy", "labels.npy", "manifest.json"


class Store:
    """A prepared dataset.

    Attributes:
        folder: where it lies; `kind`, and `settings`, all of them, as they were applied.
        mode: the losses' mode: "binary", "multiclass" or "multilabel".
        num_classes: channels of the logits: 1 if binary; with background if multiclass.
        class_names: one per channel.
        slices: the records, in the order of the data.
        patients: names, in that order, without repetition.
        fingerprint: of the stored bytes and the records: the same data prepared anywhere have the same one.
        is_phantom: whether the images are generated.
        cases: by volume, where the files lie that it was made from; empty if it was not opened by `open_dataset`.
    """

    def __init__(self, folder: Path) -> None:
        """Open it; ValueError or OSError if what lies there is not a whole store of this version."""
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["version"] != VERSION:
            raise ValueError(f"it is of version {manifest['version']}")
        self.folder = folder
        self.is_phantom: bool = manifest["is_phantom"]
        self.fingerprint: str = manifest["fingerprint"]
        self._describe(manifest["kind"], manifest["settings"], [_slice(record) for record in manifest["slices"]])
        pixels = [record.shape[0] * record.shape[1] for record in self.slices]
        self._ends = np.cumsum(pixels)
        self._maps: tuple[np.ndarray, np.ndarray] | None = None
        if any(len(array) != self._ends[-1] for array in self._arrays()):
            raise ValueError("its files are of other lengths than its manifest says")

    def _describe(self, kind: str, settings: dict[str, Any], slices: Sequence[Slice]) -> None:
        self.kind, self.settings, self.slices = kind, settings, tuple(slices)
        self.mode = get(kind).mode
        self.class_names = class_names(kind, settings)
        self.num_classes = len(self.class_names)
        self.patients = tuple(dict.fromkeys(record.patient for record in self.slices))
        self.cases: dict[str, Case] = {}

    def __len__(self) -> int:
        return len(self.slices)

    def __repr__(self) -> str:
        what = "phantom, " if self.is_phantom else ""
        return f"Store({self.kind}: {what}{len(self)} slices of {len(self.patients)} patients, {self.mode})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": None, "cases": {}}  # a mapping would be pickled as a copy of everything

    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        if self._maps is None:
            images, labels = (np.load(self.folder / name, mmap_mode="r") for name in (IMAGES, LABELS))
            self._maps = images, labels
        return self._maps

    def _span(self, index: int) -> tuple[slice, tuple[int, int]]:
        shape = self.slices[index].shape
        end = int(self._ends[index])
        return slice(end - shape[0] * shape[1], end), shape

    def image(self, index: int) -> np.ndarray:
        """Return float32 [H, W], as prepared."""
        span, shape = self._span(index)
        return self._arrays()[0][span].reshape(shape).astype(np.float32)

    def label(self, index: int) -> np.ndarray:
        """Return uint8: class indices [H, W], or 0 and 1 in [C, H, W] if multilabel."""
        span, shape = self._span(index)
        label = self._arrays()[1][span].reshape(shape)
        if self.mode != "multilabel":
            return np.array(label)
        return label >> np.arange(self.num_classes, dtype=np.uint8)[:, None, None] & 1

    def summary(self) -> dict[str, int]:
        """Count: a label of few pixels can vanish when it is resized, so positives are counted before and after."""
        return {
            "patients": len(self.patients),
            "slices": len(self),
            "positive": sum(record.positive for record in self.slices),
            "positive before resizing": sum(record.source_positive for record in self.slices),
            "bytes": sum(os.path.getsize(self.folder / name) for name in (IMAGES, LABELS)),
        }


class MemoryStore(Store):
    """A dataset that is read anew each time and kept as it is read: images float32, labels uint8, both [N, H, W]."""

    def __init__(
        self, kind: str, settings: dict[str, Any], slices: Sequence[Slice], images: np.ndarray, labels: np.ndarray
    ) -> None:
        self.folder, self.is_phantom = Path(kind), False
        self.images, self.labels = images, labels
        self.fingerprint = hashlib.blake2b(images.tobytes() + labels.tobytes(), digest_size=16).hexdigest()
        self._describe(kind, settings, slices)

    def image(self, index: int) -> np.ndarray:
        return self.images[index]

    def label(self, index: int) -> np.ndarray:
        return self.labels[index]


def record_of(entry: Slice) -> list[Any]:
    """Flatten a record for the manifest."""
    return list(astuple(entry))


def _slice(record: list[Any]) -> Slice:
    patient, volume, z, shape, part, group, classes, source_positive = record
    return Slice(patient, volume, z, tuple(shape), part, group, tuple(classes), source_positive)

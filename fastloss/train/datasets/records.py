"""What the data are made of: volumes on disk, slices in a store, and splits of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One volume on disk, the unit of preparation.

    Attributes:
        patient: whom a split must not separate.
        name: unique in the dataset; the patient's, unless a patient has several volumes (ACDC: two phases).
        files: the image, then the label, then whatever else the reader takes; their stamps key the store.
        depth: its slices; `shape` (height, width) of one.
        part: "train" or "test" where the dataset has a split of its own, else "train".
        group: what a split should balance (ACDC: the pathology), else "".
        keep: the numbers of the slices to keep, or None for all.
        rle: `uwmgi` only: the run-length masks, (slice, class) to runs.
    """

    patient: str
    name: str
    files: tuple[Path, ...]
    depth: int
    shape: tuple[int, int]
    part: str = "train"
    group: str = ""
    keep: tuple[int, ...] | None = None
    rle: dict[tuple[int, int], str] = field(default_factory=dict, compare=False)

    @property
    def slices(self) -> tuple[int, ...]:
        return tuple(range(self.depth)) if self.keep is None else self.keep


@dataclass(frozen=True)
class Slice:
    """One slice of a store.

    Attributes:
        patient, volume, part, group: those of its Case (`volume` is its name).
        z: its number in the volume.
        shape: (height, width) in the store.
        classes: the classes of its stored label, background excluded; for a multilabel store the channels.
        source_positive: whether the label had foreground before it was resized.
    """

    patient: str
    volume: str
    z: int
    shape: tuple[int, int]
    part: str
    group: str
    classes: tuple[int, ...]
    source_positive: bool

    @property
    def positive(self) -> bool:
        return bool(self.classes)


@dataclass(frozen=True)
class Split:
    """Slices (numbers in the store) that train, that choose the epoch, and that are tested. With two parts only, as in
    both papers, `val` and `test` are the same slices."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]

"""What the data are made of: volumes on disk, slices in a store, and splits of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

MARKER = "fastloss-phantom.json"  # lies in the root of generated data


@dataclass(frozen=True)
class Case:
    """One volume on disk, the unit of preparation.

    Attributes:
        patient: whom a split must not separate.
        name: unique in the dataset; the patient's, unless a patient has several volumes (ACDC phases, UWMGI days).
        files: what the reader reads; size and time of these files key the store.
        slices: the numbers of its slices.
        shape: (height, width) of one.
        part: "train", "valid" or "test" where the dataset has a split of its own, else "train".
        group: what a split should balance (ACDC: the pathology), else "".
        masks: `uwmgi` only: for each slice the run-length masks of the classes.
    """

    patient: str
    name: str
    files: tuple[Path, ...]
    slices: tuple[int, ...]
    shape: tuple[int, int]
    part: str = "train"
    group: str = ""
    masks: tuple[tuple[str, ...], ...] = ()


@dataclass
class Found:
    """What a reader found: `problems` are sentences on what is missing or unusable, `notes` on what is unusual."""

    cases: list[Case] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Slice:
    """One slice of a store.

    Attributes:
        patient, volume, part, group: those of its Case (`volume` is its name).
        z: its number in the volume.
        shape: (height, width) in the store.
        classes: the classes of its stored label, background excluded; the channels if multilabel.
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

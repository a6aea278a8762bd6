"""The papers' data: read from their real layouts, prepared once into a memory-mapped store of slices.

    store = open_dataset("Task10_Colon", kind="msd-colon")           # or "phantom", or "demo"
    (split,) = splits(store, "patient:80/20", seed=0)                # "kfold:5" gives five
    train = SliceDataset(store, split.train, size=256, augment="none", seed=0)
    train.set_epoch(3)                                               # seen by running workers, too
    image, label = train[0]

Labels are uint8: class ids [H, W] if store.mode is "binary" or "multiclass", else ("multilabel": the classes of
`uwmgi` overlap) 0 or 1 in [C, H, W]. All of them fit the losses' targets of that mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .records import Case, Slice, Split

__all__ = [
    "KINDS",
    "Case",
    "Slice",
    "SliceDataset",
    "Split",
    "Store",
    "open_dataset",
    "splits",
]

KINDS = ("msd-colon", "synapse", "acdc", "uwmgi", "demo")


class Store:
    """A prepared dataset: slices in memory-mapped files and one manifest.

    Attributes:
        folder: where it lies; `kind`, and `settings`, all of them, as they were applied.
        mode: the losses' mode: "binary", "multiclass" or "multilabel".
        num_classes: channels of the logits: 1 if binary; with background if multiclass.
        class_names: one per channel.
        slices: the records, in the order of the data.
        patients: names, in that order, without repetition.
        fingerprint: of the stored bytes and the records: the same data prepared anywhere have the same one.
        is_phantom: whether the images are generated.
    """

    folder: Path
    kind: str
    settings: dict[str, Any]
    mode: str
    num_classes: int
    class_names: tuple[str, ...]
    slices: tuple[Slice, ...]
    patients: tuple[str, ...]
    fingerprint: str
    is_phantom: bool

    def image(self, index: int) -> Any:
        """float32 [H, W], as prepared (size of the store)."""
        raise NotImplementedError

    def label(self, index: int) -> Any:
        """uint8 [H, W], or [C, H, W] if multilabel."""
        raise NotImplementedError


def open_dataset(
    name_or_path: str | Path,
    *,
    kind: str,
    settings: Mapping[str, Any] | None = None,
    cache_dir: Path | None = None,
    patients: int = 12,
    jobs: int | None = None,
    say: Callable[[str], None] = print,
) -> Store:
    """Opens the store of a dataset; prepares it first if there is none for these files and settings.

    Args:
        name_or_path: the dataset's folder; "phantom", generated on first use in the layout of `kind`; or "demo", the
            MRI slices of `fastloss demo` (then `kind` does not matter: it is binary).
        kind: one of KINDS.
        settings: what differs from the defaults of the kind, see `settings.Settings`.
        cache_dir: for stores and phantoms; default $FASTLOSS_CACHE, else ~/.cache/fastloss.
        patients: of the phantom.
        jobs: threads that prepare; default: all cores.
        say: gets lines of progress.

    Raises:
        CommandError: data missing, half-copied, unreadable or of other shapes or labels than announced, a setting
            unknown, no space. Nothing is left behind that a later call would use.
    """
    raise NotImplementedError


def splits(store: Store, scheme: str, seed: int) -> list[Split]:
    """The splits of a scheme; a list of one but for k-fold. No patient is in two parts of a split, except by "index".

    Args:
        scheme: "patient:80/20" or "patient:70/10/20" (train, val, test: shares of patients, drawn with the seed,
            balanced over groups); "kfold:5" (each patient in one test part; val = test); "index:80/20" (the first 80%
            of the slices: the reading of 10,788 of 13,486 in the dynamic alteration paper); "official" (the dataset's
            own: synapse 18/12, ACDC 100/50).

    Raises:
        CommandError: the scheme is unknown, or the store has too few patients for it.
    """
    raise NotImplementedError


class SliceDataset(torch.utils.data.Dataset):
    """Slices of a store as (image float32 [1, H, W], label uint8): pure in (seed, epoch, slice number in the store).

    Args:
        indices: slices of the store, in the order of the items.
        size: side in pixels; slices stored in another size are resized after the augmentation, as the kind resizes.
        augment: "none", "flip", "transunet" (TransUNet's RandomGenerator) or "uwmgi" (the Kaggle template's).
    """

    def __init__(self, store: Store, indices: Sequence[int], *, size: int, augment: str, seed: int) -> None:
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """The epoch lies in shared memory: persistent workers see it from their next item on."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

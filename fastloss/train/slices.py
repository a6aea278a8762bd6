"""A split of a store as batches. Which slices, in which order and how augmented depends on (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from fastloss.cli import CommandError

from .datasets import SliceDataset, Split, Store, splits
from .datasets.augment import generator
from .settings import Settings

GRID, REGION = 512, (200, 100, 150)  # of paper 2's Fig. 3: x, y and side on the grid of the scan


class _Batches:
    """Batch sampler: this process's share of each batch of one epoch, without the `skip` first ones.

    A last, smaller batch is left out: its mean would weigh its slices more, and a network with batch norm refuses one
    slice.
    """

    def __init__(self, count: int, batch: int, seed: int, rank: int, world: int) -> None:
        self.count, self.batch, self.seed, self.rank, self.world = count, batch, seed, rank, world
        self.epoch = self.skip = 0

    def __len__(self) -> int:
        return self.count // self.batch - self.skip

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.count, generator=generator(self.seed, self.epoch)).tolist()
        for at in range(self.skip, self.count // self.batch):
            yield order[at * self.batch : (at + 1) * self.batch][self.rank :: self.world]


@dataclass(frozen=True)
class Slices:
    """What one training learns from and is judged by: rows of a store."""

    store: Store
    train: tuple[int, ...]
    valid: tuple[int, ...]
    test: tuple[int, ...] = ()  # if the split has such a part beside the one that chooses the epoch

    @property
    def volumes(self) -> list[str]:
        """Of each validation slice."""
        return [self.store.slices[row].volume for row in self.valid]

    def steps(self, settings: Settings) -> int:
        """Count the steps of an epoch."""
        return len(self.train) // settings.batch

    def target(self, y: Tensor, settings: Settings) -> Tensor:
        """Bring labels to what losses of the settings' mode take: a channel if there is one, and 0 or 1 for each class
        if classes are one-vs-rest."""
        if self.store.mode == "binary":
            return y[:, None]
        if settings.mode == "multilabel" and self.store.mode == "multiclass":
            classes = torch.arange(self.store.num_classes, device=y.device, dtype=y.dtype)
            return (y[:, None] == classes[:, None, None]).to(torch.uint8)
        return y

    def foreground(self, counts: Tensor) -> Tensor:
        """Return counts or masks [N, C, …] without the background's channel, which no score counts."""
        return counts[:, 1:] if self.store.mode == "multiclass" else counts

    def example(self, size: int) -> tuple[int, tuple[int, int, int, int]]:
        """Return (row of the store, region) of the slice that figures show: number 102 of case 008 and the region of
        paper 2's Fig. 3 wherever that slice is, of the training part too; else the validation slice with the largest
        truth.

        A region is top, left, height and width at `size` pixels, all 0 for the whole slice.
        """
        for row, record in enumerate(self.store.slices):
            if record.volume.endswith("_008") and record.z == 102:
                left, top, side = (value * size // GRID for value in REGION)
                return row, (top, left, side, side)
        return max(self.valid, key=lambda row: int((self.store.label(row) > 0).sum())), (0, 0, 0, 0)


def load(store: Store, settings: Settings, fold: int | None) -> Slices:
    """Make the split, or one fold, cut to the settings' limits.

    Raises CommandError if no training batch can be filled or nothing is left to validate.
    """
    scheme = settings.split if fold is None else f"kfold:{settings.folds}"
    split: Split = splits(store, scheme, settings.split_seed)[fold or 0]
    found = Slices(store, _limited(store, split.train, settings.train_limit),
                   _limited(store, split.val, settings.valid_limit),
                   _limited(store, split.test, settings.valid_limit) if split.test != split.val else ())  # fmt: skip
    if len(found.train) < settings.batch or not found.valid:
        raise CommandError(
            f"--split {scheme} of {store.folder} leaves {len(found.train)} training and {len(found.valid)} validation "
            f"slices; --batch {settings.batch} needs as many to train"
        )
    for words, rows in (("training", found.train), ("validation", found.valid)):
        if not any([store.slices[row].positive for row in rows]):
            raise CommandError(f"the {len(rows)} {words} slices of {store.folder} (--split {scheme}) have no "
                               "foreground, so that no score exists")  # fmt: skip
    return found


def _limited(store: Store, rows: tuple[int, ...], limit: int) -> tuple[int, ...]:
    """Return at most `limit` rows, evenly spaced, half of them with a truth where there are enough."""
    if not limit or len(rows) <= limit:
        return rows
    filled = [row for row in rows if store.slices[row].positive]
    rest = [row for row in rows if not store.slices[row].positive]
    take = min(len(filled), max(limit // 2, limit - len(rest)))
    return tuple(sorted(_spaced(filled, take) + _spaced(rest, limit - take)))


def _spaced(rows: list[int], count: int) -> list[int]:
    return [rows[at * len(rows) // count] for at in range(count)]


class TrainingBatches:
    """The batches of every epoch, by as many worker processes as asked for, which stay alive between epochs."""

    def __init__(self, slices: Slices, settings: Settings, seed: int, fabric: Fabric, workers: int) -> None:
        self.dataset = SliceDataset(slices.store, slices.train, size=settings.size, augment=settings.augment, seed=seed)
        self.sampler = _Batches(len(slices.train), settings.batch, seed, fabric.global_rank, fabric.world_size)
        self.loader = _loader(self.dataset, self.sampler, fabric, workers)

    def __call__(self, epoch: int, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return (images [N, 1, H, W], labels) of this process from batch number `skip` of the epoch on."""
        self.dataset.set_epoch(epoch)
        self.sampler.epoch, self.sampler.skip = epoch, skip
        return iter(self.loader)


class ValidationBatches:
    """Batch number, places of the slices, images and labels: each batch on one process, or all of them on this one."""

    def __init__(
        self, slices: Slices, settings: Settings, fabric: Fabric, workers: int, alone: bool = False
    ) -> None:  # fmt: skip
        self.places = list(torch.arange(len(slices.valid)).split(settings.valid_batch))
        self.shared = fabric.world_size > 1 and not alone
        self.mine = range(len(self.places))
        if self.shared:
            self.mine = self.mine[fabric.global_rank :: fabric.world_size]
        dataset = SliceDataset(slices.store, slices.valid, size=settings.size, augment="none", seed=0)
        self.loader = _loader(dataset, [self.places[at].tolist() for at in self.mine], fabric, workers)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        for at, (x, y) in zip(self.mine, self.loader):
            yield at, self.places[at], x, y


def _loader(dataset: SliceDataset, batches: _Batches | list[list[int]], fabric: Fabric, workers: int) -> DataLoader:
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator(),  # a loader would draw from the global one, and a resumed run makes one more
    )

"""Slices as tensors for a loader."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import augment as augmentations
from .images import resize, resize_label
from .specs import get
from .store import Store


class SliceDataset(torch.utils.data.Dataset):
    """Slices of a store as (image float32 [1, H, W], label uint8), pure in (seed, epoch, slice number in the store).

    The label is [H, W] of class ids, or [C, H, W] of 0 and 1 if the store is multilabel.

    Args:
        indices: slices of the store, in the order of the items.
        size: side in pixels; slices stored in another size are resized after the augmentation, as the kind resizes.
        augment: "none", "flip", "mri" (flips, a bias field and noise), "transunet" (TransUNet's RandomGenerator) or
            "uwmgi" (the Kaggle template's).
        seed: not negative.
    """

    def __init__(self, store: Store, indices: Sequence[int], *, size: int, augment: str, seed: int) -> None:
        augmentations.get(augment)
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}.")
        self.store, self.indices, self.size = store, tuple(indices), size
        self.augment, self.seed = augment, seed
        self._how = get(store.kind).resize
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which lies in shared memory: persistent workers see it from their next item on."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        index = self.indices[item]
        image, label = self.store.image(index), self.store.label(index)
        if self.augment != "none":
            rng = augmentations.draws(self.augment, self.seed, int(self._epoch), index)
            image, label = augmentations.get(self.augment)(image, label, rng)
        image, label = resize(image, self.size, self._how), resize_label(label, self.size, self._how)
        return torch.from_numpy(np.ascontiguousarray(image))[None], torch.from_numpy(np.ascontiguousarray(label))

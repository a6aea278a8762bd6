"""Scores of whole volumes on their original grid, class by class, as TransUNet's and nnU-Net's evaluations have them.

Masks of the network's size go back to the size of the files by the nearest pixel. HD95 is the 95th percentile of the
distances between the surfaces, both ways together and in voxels: medpy's, with which TransUNet and what followed it
report; the distances are MONAI's.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from .datasets import SliceDataset
from .datasets.images import restore_grid
from .datasets.prepare import original_label
from .datasets.specs import get
from .evaluation import foreground
from .learner import Learner
from .settings import Settings
from .slices import Slices

PERCENTILE = 95


def measure(settings: Settings, slices: Slices, learner: Learner) -> list[dict[str, Any]]:
    """Return one row for each volume of the test part (else of the validation part) and class: voxels tp, fp, fn, and
    hd95, None unless both masks have some. `slices` and `of`: how many of the volume's slices are there."""
    store = slices.store
    names = store.class_names[1:] if store.mode == "multiclass" else store.class_names
    volumes: dict[str, list[int]] = {}
    for row in slices.test or slices.valid:
        volumes.setdefault(store.slices[row].volume, []).append(row)
    found = []
    for volume, rows in volumes.items():
        case = store.cases[volume]
        truth = original_label(store.kind, store.settings, case)
        truth = truth[[case.slices.index(store.slices[row].z) for row in rows]]
        data = SliceDataset(store, rows, size=settings.size, augment="none", seed=0)
        masks = []
        for start in range(0, len(rows), settings.valid_batch):
            images = [data[at][0] for at in range(start, min(start + settings.valid_batch, len(rows)))]
            masks.append(foreground(torch.stack(images), settings, slices, learner).numpy())
        guess = np.concatenate(masks)
        for number, name in enumerate(names):
            a = restore_grid(guess[:, number], truth.shape[-2:], get(store.kind).resize)
            b = truth[:, number] > 0 if truth.ndim == 4 else truth == number + 1
            counts = {"tp": int((a & b).sum()), "fp": int((a & ~b).sum()), "fn": int((~a & b).sum())}
            found.append({"volume": volume, "class": name, "slices": len(rows), "of": len(case.slices), **counts,
                          "hd95": hd95(a, b)})  # fmt: skip
    return found


def hd95(a: np.ndarray, b: np.ndarray) -> float | None:
    """Measure HD95 of two masks [D, H, W], in voxels; None if one is empty."""
    from monai.metrics.utils import get_edge_surface_distance

    if not (a.any() and b.any()):
        return None
    pair = [torch.from_numpy(mask) for mask in (a, b)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of an argument that it passes itself
        _, distances, _ = get_edge_surface_distance(*pair, symmetric=True)
    return float(np.percentile(torch.cat(distances).numpy(), PERCENTILE))


def transunet(rows: Iterable[dict[str, Any]]) -> tuple[float, float]:
    """Return (Dice, HD95), means over volumes by TransUNet's rule: 1 and 0 where only the truth is empty, 0 and 0 where
    nothing was found."""
    dice, distance = [], []
    for row in rows:
        found, true = row["tp"] + row["fp"] > 0, row["tp"] + row["fn"] > 0
        dice.append(_dice(row) if found and true else float(found))
        distance.append(row["hd95"] if found and true else 0.0)
    return statistics.mean(dice), statistics.mean(distance)


def nnunet(rows: Iterable[dict[str, Any]]) -> tuple[float, float]:
    """Return (Dice, HD95), means over volumes by nnU-Net's rule: what is in neither mask is left out; NaN if nothing is
    left. HD95 over volumes where both masks have some."""
    dice = [_dice(row) for row in rows if row["tp"] + row["fp"] + row["fn"]]
    distance = [row["hd95"] for row in rows if row["hd95"] is not None]
    return tuple([statistics.mean(values) if values else float("nan") for values in (dice, distance)])


def _dice(row: dict[str, Any]) -> float:
    return 2 * row["tp"] / (2 * row["tp"] + row["fp"] + row["fn"])

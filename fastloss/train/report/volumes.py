"""Scores of whole volumes as TransUNet and nnU-Net report them, by organ."""

from __future__ import annotations

import statistics
from typing import Any

from ..checkpoint import read_json
from ..volumes import nnunet, transunet
from .page import Block, Cell, Table
from .results import Reproduction

# Xu et al. 2021 with LeViT-UNet-384, by TransUNet's evaluation: Dice by organ, and the means of Dice and HD95.
PUBLISHED = {
    "aorta": 0.8733, "gallbladder": 0.6223, "left kidney": 0.8461, "right kidney": 0.8025, "liver": 0.9311,
    "pancreas": 0.5907, "spleen": 0.8886, "stomach": 0.7276, "mean": 0.7853,
}  # fmt: skip
PUBLISHED_HD95 = 16.84
MEAN = "mean"


def blocks(found: Reproduction) -> list[Block]:
    """Make one table for each trained row that has such scores; values are means over its trainings."""
    tables = []
    for row in found.rows:
        measured = [read_json(path, ("rows",))["rows"] for path in found.volumes(row)]
        if measured:
            name = f"Whole volumes on the original grid: {row.title}" + (" (folds)" if row.folds else "")
            tables.append(Table(name, HEAD, _lines(found, measured), found.caveat, _notes(found, measured)))
    return list(tables)


HEAD = [
    "class",
    "Dice, TransUNet's rule",
    "HD95, TransUNet's rule",
    "Dice, nnU-Net's rule",
    "HD95 where both have some",
]


def _lines(found: Reproduction, measured: list[list[dict[str, Any]]]) -> list[list[Cell | str]]:
    """A mean over classes is one of their means, as both libraries have it."""
    classes = list(dict.fromkeys([row["class"] for row in measured[0]]))
    values = {
        name: [(*transunet(mine), *nnunet(mine))
               for rows in measured if (mine := [row for row in rows if row["class"] == name])]
        for name in classes
    }  # fmt: skip
    by_class = {name: [_mean(column) for column in zip(*mine)] for name, mine in values.items()}
    by_class[MEAN] = [_mean(column) for column in zip(*by_class.values())]
    grey = _grey(found)
    lines = []
    for name, (dice, distance, dice_nnunet, distance_nnunet) in by_class.items():
        texts = [Cell(f"{dice:.4f}"), Cell(f"{distance:.2f}")]
        if name in grey:
            texts[0] = Cell(f"{dice:.4f}", f"{grey[name]:.4f}", found.difference(dice - grey[name]))
        if grey and name == MEAN:
            away = found.difference(distance - PUBLISHED_HD95, 2)
            texts[1] = Cell(f"{distance:.2f}", f"{PUBLISHED_HD95:g}", away)
        theirs = [Cell(text if value == value else "none") for value, text in (
            (dice_nnunet, f"{dice_nnunet:.4f}"), (distance_nnunet, f"{distance_nnunet:.2f}"))]  # fmt: skip
        lines.append([name, *texts, *theirs])
    return lines


def _grey(found: Reproduction) -> dict[str, float]:
    return PUBLISHED if found.settings.dataset == "synapse" else {}


def _mean(values: Any) -> float:
    """Average over what is defined."""
    defined = [value for value in values if value == value]
    return statistics.mean(defined) if defined else float("nan")


def _notes(found: Reproduction, measured: list[list[dict[str, Any]]]) -> list[str]:
    volumes = {row["volume"]: (row["slices"], row["of"]) for rows in measured for row in rows}
    partial = sum([there < whole for there, whole in volumes.values()])
    notes = [
        f"{len(volumes)} volumes, {len(measured)} training(s); masks of the network's size brought back to the size of "
        "the files by the nearest pixel. HD95 in voxels, both ways together, as medpy's and TransUNet's. TransUNet's "
        "rule: 1 and 0 where only the truth is empty, 0 and 0 where nothing was found; nnU-Net's: what is in neither "
        "mask is left out.",
    ]
    notes += (
        ["Paper: LeViT-UNet-384 by its authors (Xu et al. 2021), by TransUNet's evaluation. " + found.legend]
        if _grey(found)
        else []
    )
    return notes + ([f"{partial} of the volumes are there in part only."] if partial else [])

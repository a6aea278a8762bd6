"""The rows of both papers and of the demo, in the loss algebra.

A row is a schedule and its epochs; everything else is in the settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastloss import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    IoULoss,
    LossSchedule,
    TopKLoss,
    TverskyLoss,
)
from fastloss.compound import Criterion

from .settings import Settings

LABELS = {"focal": "Focal", "topk": "TopK", "bce": "BCE", "dice": "Dice", "iou": "IoU", "tversky": "Tversky"}
PAPERS = ("paper1", "paper2")
TABLES = {  # in the order in which they are trained and reported; those of "optional" only when asked for
    "paper1": {
        "table2": "Table 2: LeViT-UNet-384, baseline and modified loss",
        "table3": "Table 3: parameters, arithmetic, time and memory",  # measured, not trained
    },
    "paper2": {
        "table1": "Table 1: single losses, half of the epochs",
        "table2": "Table 2: composites, all epochs",
        "table3": "Table 3: dynamic alteration at half of the epochs",
        "table4": "Table 4: composite against dynamic alteration over the folds",
        "controls": "Controls that the paper lacks: each distribution loss for all epochs",
        "figure2": "Fig. 2: the schedule of the paper's loss curve",
        "figure3": "Fig. 3: two composites that only this figure shows",
        "optional": "Other mixtures and schedules of IoU and BCE",
    },
    "demo": {"methods": "Single losses, their sum, and one altered at half of the epochs"},
}
NOT_BY_DEFAULT = ("figure3", "optional")


@dataclass(frozen=True)
class Row:
    """One line of a table. `folds`: trained once for each fold instead of on the split."""

    name: str
    table: str
    title: str
    schedule: LossSchedule
    epochs: int
    folds: bool = False

    @property
    def altered(self) -> bool:
        """Whether another loss takes over at some epoch (a blend's moving weights are no switch)."""
        return "-to-" in self.name and not self.name.endswith("-linear")


def rows(settings: Settings, group: Any = None) -> list[Row]:
    """Return all rows of the settings' experiment; `group` is the losses' process_group."""
    return {"paper1": _paper1, "paper2": _paper2, "demo": _demo}[settings.paper](settings, group)


def _paper2(s: Settings, group: Any) -> list[Row]:
    # Eq. 5 prints a 2 in the numerator of the IoU: up to a constant that is twice the loss.
    IoU = s.jaccard_numerator * IoULoss("binary", process_group=group)
    Dice = DiceLoss("binary", process_group=group)
    Tversky = TverskyLoss("binary", alpha=s.tversky_fp, beta=s.tversky_fn, process_group=group)
    BCE, Focal = BCEWithLogitsLoss("binary"), FocalLoss("binary", gamma=s.focal_gamma)
    TopK = TopKLoss("binary", k=s.topk, process_group=group)
    full, half, quarter = s.epochs, s.epochs // 2, max(s.epochs // 4, 1)

    singles = {"focal": Focal, "topk": TopK, "bce": BCE, "dice": Dice, "iou": IoU, "tversky": Tversky}
    composites = {
        "tversky+bce": Tversky + BCE,
        "iou+bce": IoU + BCE,
        "iou+topk": IoU + TopK,
        "dice+focal": Dice + Focal,
    }
    altered = {
        "dice-to-focal": LossSchedule([(0, Dice), (half, Focal)]),
        "dice-to-topk": LossSchedule([(0, Dice), (half, TopK)]),
        "dice-to-bce": LossSchedule([(0, Dice), (half, BCE)]),
        "iou-to-focal": LossSchedule([(0, IoU), (half, Focal)]),
        "iou-to-topk": LossSchedule([(0, IoU), (half, TopK)]),
        "iou-to-bce": LossSchedule([(0, IoU), (half, BCE)]),
        "tversky-to-focal": LossSchedule([(0, Tversky), (half, Focal)]),
        "tversky-to-topk": LossSchedule([(0, Tversky), (half, TopK)]),
        "tversky-to-bce": LossSchedule([(0, Tversky), (half, BCE)]),
    }
    figure3 = {"dice+topk": Dice + TopK, "tversky+topk": Tversky + TopK}
    optional = {
        "iou+bce-balanced": IoU + s.balance * BCE,
        "iou-to-bce-early": LossSchedule([(0, IoU), (quarter, BCE)]),
        "iou-to-bce-late": LossSchedule([(0, IoU), (full - quarter, BCE)]),
        "iou-to-bce-plateau": LossSchedule.on_plateau(IoU, BCE, patience=max(full // 10, 1)),
        "iou-to-bce-linear": LossSchedule.linear(IoU, BCE, start=quarter, end=full - quarter + 1),
        "iou-to-bce-alternating": LossSchedule.alternating(IoU, BCE, start=0, end=full, period=max(full // 5, 2)),
    }
    compared = ("tversky+bce", "tversky-to-bce", "iou+bce", "iou-to-bce")
    compared += ("iou+topk", "iou-to-topk", "dice+focal", "dice-to-focal")
    return [
        *_table("table1", singles, half),
        *_table("table2", composites, full),
        *_table("table3", altered, full),
        *_table("table4", {name: (composites | altered)[name] for name in compared}, full, folds=True),
        *_table("controls", {name: singles[name] for name in ("focal", "topk", "bce")}, full),
        *_table("figure2", {"iou-to-dice": LossSchedule([(0, IoU), (half, Dice)])}, full),
        *_table("figure3", figure3, full),
        *_table("optional", optional, full),
    ]


def _paper1(s: Settings, group: Any) -> list[Row]:
    mode = s.mode
    Dice = DiceLoss(mode, process_group=group)
    Tversky = TverskyLoss(mode, process_group=group)
    Focal = FocalLoss(mode, gamma=s.focal_gamma)
    CE = CrossEntropyLoss() if mode == "multiclass" else BCEWithLogitsLoss(mode)
    # The paper does not name its baseline loss: the code that it follows, or that of LeViT-UNet.
    baseline = 0.5 * CE + 0.5 * Tversky if s.baseline == "template" else CE + Dice
    return _table("table2", {"baseline": baseline, "modified": 0.5 * Dice + 0.5 * Focal}, s.epochs)


def _demo(s: Settings, group: Any) -> list[Row]:
    iou, bce = IoULoss("binary", process_group=group), BCEWithLogitsLoss("binary")
    altered = LossSchedule([(0, iou), (s.epochs // 2, bce)])
    return _table("methods", {"iou": iou, "bce": bce, "iou+bce": iou + bce, "iou-to-bce": altered}, s.epochs)


def _table(table: str, losses: dict[str, Criterion | LossSchedule], epochs: int, folds: bool = False) -> list[Row]:
    return [Row(name, table, title(name), _schedule(loss), epochs, folds) for name, loss in losses.items()]


def _schedule(loss: Criterion | LossSchedule) -> LossSchedule:
    return loss if isinstance(loss, LossSchedule) else LossSchedule([(0, loss)])


def title(name: str) -> str:
    """Write a row's name as the tables print it: iou-to-bce is IoU → BCE."""
    losses, _, kind = name.replace("-to-", ">").partition("-")
    for short, label in LABELS.items():
        losses = losses.replace(short, label)
    losses = losses.replace("+", " + ").replace(">", " → ")
    return f"{losses[0].upper()}{losses[1:]}" + (f" ({kind})" if kind else "")

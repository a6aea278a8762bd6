"""What a training leaves behind while it runs and when it is done."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastloss import LossSchedule
from fastloss.cli import CommandError

from . import checkpoint
from .checkpoint import Log, read_json, restore
from .learner import Learner
from .loggers import Loggers

CHECKPOINT = "checkpoint.pt"
SAVE_SECONDS = 5.0  # between two checkpoints of one run, if writing one takes no more than
SAVE_COST = 0.1  # seconds; in proportion more for a large network
STEP_COLUMNS = ("step", "epoch", "rate", "loss")
SCORE_COLUMNS = ("valid_loss", "dice", "iou", "pooled_dice", "pooled_iou", "case_dice", "case_iou")
EPOCH_COLUMNS = ("epoch", "altered", "rate", "images", "seconds", "train_loss", *SCORE_COLUMNS)


@dataclass
class Place:
    """How far a run has come: steps done; of this epoch whether it altered the loss, the sum of its losses and its
    seconds; the last validation score, the best one and its epoch; bytes of the two logs."""

    step: int = 0
    altered: bool = False
    total: float = 0.0
    seconds: float = 0.0
    score: float | None = None
    best: float | None = None
    best_epoch: int = -1
    positions: tuple[int, int] = (0, 0)

    def start_epoch(self, altered: bool, forget_best: bool) -> None:
        self.altered, self.total, self.seconds = altered, 0.0, 0.0
        if forget_best:
            self.best, self.best_epoch = None, -1


def begin(
    folder: Path, parent: Path | None, learner: Learner, schedule: LossSchedule, val_criterion: LossSchedule
) -> Place:  # fmt: skip
    """Find where the run stands: at its checkpoint, else at the end of its parent, else at its beginning."""
    state = restore(folder / CHECKPOINT)
    if learner.fabric.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(learner.fabric.device)
    if learner.fabric.is_global_zero:
        checkpoint.make_folder(folder)
    if state is None and parent is not None:
        state = restore(parent / CHECKPOINT)
        if learner.fabric.is_global_zero:
            best = state["place"]["best_epoch"]
            for name in ("steps.csv", "epochs.csv", weights(parent, best).name):
                shutil.copyfile(parent / name, folder / name)
    learner.fabric.barrier()
    if state is None:
        return Place()
    learner.load_state_dict(state["learner"])
    for each in (schedule, val_criterion):
        each.load_state_dict(state["schedule"])
    return Place(**{**state["place"], "positions": tuple(state["place"]["positions"])})


def weights(folder: Path, epoch: int) -> Path:
    """Return the path of the best network so far, named after its epoch: a checkpoint never speaks of another one than
    it means."""
    return folder / f"best-{epoch:04d}.pt"


class Journal(AbstractContextManager):
    """Logs and checkpoints of one run, written by the first process alone; `step`, `look` and `epoch` are for all."""

    def __init__(
        self, folder: Path, place: Place, learner: Learner, schedule: LossSchedule, columns: tuple[str, ...] = (),
        loggers: Loggers | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.place, self.learner, self.schedule = folder, place, learner, schedule
        self.fabric, self.waiting, self.loggers = learner.fabric, [], loggers
        self.loss: float | None = None  # the last one that was read
        self.clock = self.saved = time.monotonic()
        self.save_seconds = 0.0  # what the last checkpoint took
        self.logs = []
        if self.fabric.is_global_zero:
            names = (("steps.csv", STEP_COLUMNS + columns), ("epochs.csv", EPOCH_COLUMNS))
            self.logs = [Log(folder / name, columns, at) for (name, columns), at in zip(names, place.positions)]

    def __exit__(self, kind: type | None, *_: object) -> None:
        for log in self.logs:
            log.close()
        if self.loggers:
            self.loggers.close("failed" if kind else "success")

    def step(
        self, epoch: int, loss: Tensor, cells: tuple[float, ...] = (), terms: Mapping[str, Tensor] | None = None
    ) -> None:  # fmt: skip
        """Note a step: its loss, what a measurement adds, and for the loggers the values of its terms if there are
        some."""
        self.waiting.append(((self.place.step, epoch, self.learner.rate), loss.detach(), cells, terms or {}))

    def look(self, checkpoint: bool = False) -> None:
        """Read the waiting losses, the mean over processes, into the log; and save if asked to and it is time."""
        if self.waiting:
            losses = torch.stack([loss.double() for _, loss, _, _ in self.waiting])
            terms = [self._mean(terms) for *_, terms in self.waiting]
            if self.fabric.world_size > 1:
                dist.all_reduce(losses)
                losses /= self.fabric.world_size
            for (where, _, cells, _), loss, values in zip(self.waiting, losses.tolist(), terms):
                self.place.total += loss
                self.loss = loss
                for log in self.logs[:1]:
                    log.add(*where, loss, *cells)
                if self.loggers:
                    step, epoch, rate = where
                    named = {f"train/{name}": value for name, value in values.items()}
                    self.loggers.log({"epoch": epoch, "rate": rate, "train/loss": loss, **named}, step)
            self.waiting = []
        now = time.monotonic()
        self.place.seconds, self.clock = self.place.seconds + now - self.clock, now
        if checkpoint and self._due():
            self._save()
            self.clock = time.monotonic()

    def _mean(self, terms: Mapping[str, Tensor]) -> dict[str, float]:
        """Read values, the mean over processes."""
        if not terms:
            return {}
        values = torch.stack([value.double() for value in terms.values()])
        if self.fabric.world_size > 1:
            dist.all_reduce(values)
            values /= self.fabric.world_size
        return dict(zip(terms, values.tolist()))

    def epoch(self, epoch: int, steps: int, found: list[float], save: bool) -> None:
        """Write, after validation, one row, the weights if they are the best so far, and a checkpoint if asked for or
        due."""
        place = self.place
        images = steps * self.learner.settings.batch
        for log in self.logs[1:]:
            log.add(epoch, int(place.altered), self.learner.rate, images, place.seconds, place.total / steps, *found)
        if self.loggers:
            scores = dict(zip([f"valid/{name.removeprefix('valid_')}" for name in SCORE_COLUMNS], found))
            weights_now = {f"loss_weight_{at}": weight for at, weight in enumerate(self.schedule.weights)}
            self.loggers.log(
                {"epoch": epoch, "train/epoch_loss": place.total / steps, **scores, **weights_now}, place.step
            )
        better = place.best is None or place.score > place.best or (math.isnan(place.best) > math.isnan(place.score))
        if better:
            place.best, place.best_epoch = place.score, epoch
            if self.logs:
                checkpoint.save(weights(self.folder, epoch), {"net": self.learner.net.state_dict()})
        if save or self._due():
            self._save()

    def _due(self) -> bool:
        return time.monotonic() - self.saved > SAVE_SECONDS * max(1.0, self.save_seconds / SAVE_COST)

    def _save(self) -> None:
        self.saved = start = time.monotonic()
        if not self.logs:
            return
        if self.loggers:
            self.loggers.save()  # a resumed run keeps what they have up to its checkpoint
        self.place.positions = tuple([log.position() for log in self.logs])
        state = {"place": asdict(self.place), "learner": self.learner.state_dict()}
        checkpoint.save(self.folder / CHECKPOINT, state | {"schedule": self.schedule.state_dict()})
        forget_weights(self.folder, self.place.best_epoch)
        self.save_seconds = time.monotonic() - start


def forget_weights(folder: Path, best: int) -> None:
    """Remove all but the best epoch's. Not before a checkpoint that names it: a resumed run may still need an older
    one."""
    for old in folder.glob("best-*.pt"):
        if old != weights(folder, best):
            old.unlink()


def read_result(path: Path) -> dict[str, Any]:
    """Read result.json; CommandError if it is not whole."""
    found = read_json(path, ("run", "best_epoch", "switch", "best", "last", "test", "parameters", "weights"))
    try:
        if all([set(EPOCH_COLUMNS) <= set(found[which]) for which in ("best", "last")]) and found["run"]["name"]:
            return found
    except (TypeError, KeyError):
        pass
    raise CommandError(f"{path} is damaged; delete {path.parent} to train this run again")

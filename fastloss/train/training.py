"""The training loop.

The bits of a run depend on its settings, its schedule and its slices. Data order and augmentation are functions of
(seed, epoch, slice), the network's own randomness one of (seed, step), and the rest of the state is in the checkpoint:
a run that was killed anywhere continues with the bits of one that was not. A run with a parent starts from the
parent's last state, with its logs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from fastloss import LossSchedule

from .evaluation import evaluate
from .final import finish
from .journal import Journal, begin
from .learner import Learner
from .loggers import Loggers
from .progress import Watch
from .runs import Run
from .settings import Settings
from .slices import Slices, TrainingBatches, ValidationBatches

LOOK_STEPS = 10  # losses are read from the device, and the clock for the next checkpoint, this often


class Steps:
    """Compute the loss of a step and send its gradient back. A measurement takes its place and adds columns to the log
    of the steps."""

    columns: tuple[str, ...] = ()

    def batches(self, source: Iterable[tuple[Tensor, Tensor]]) -> Iterable[tuple[Tensor, Tensor]]:
        return source

    def backward(self, fabric: Fabric, schedule: LossSchedule, logits: Tensor, y: Tensor, step: int) -> Tensor:
        """Return the loss of logits [N, C, H, W]."""
        loss = schedule(logits, y)
        fabric.backward(loss)
        return loss

    def cells(self) -> tuple[float, ...]:
        """Return the values of the columns, after the optimiser's step."""
        return ()


def train(
    run: Run, settings: Settings, slices: Slices, folder: Path, parent: Path | None, fabric: Fabric, workers: int,
    view: Watch, continued: bool = True, steps: Steps | None = None,
    connect: Callable[[str, Settings, int], Loggers] | None = None,
) -> None:  # fmt: skip
    """Train, or continue from the checkpoint in `folder`; `parent` is the finished folder that the run begins from.

    Writes steps.csv, epochs.csv, checkpoint.pt, the best epoch's weights, and at the end example.npz and result.json;
    the last state too if other runs are to be `continued` from it. `connect` makes the loggers of a run, with its name,
    its settings and the steps that are done.
    Raises CommandError for a damaged checkpoint.
    """
    steps = steps or Steps()
    per_epoch = slices.steps(settings)
    learner = Learner(settings, slices.store.num_classes, run.seed, per_epoch * run.epochs, fabric)
    schedule = run.make(True if fabric.world_size > 1 else None)
    val_criterion = run.make(None)  # validation batches are whole: no process waits for another there
    place = begin(folder, parent, learner, schedule, val_criterion)
    batches = TrainingBatches(slices, settings, run.seed, fabric, workers)
    validation = ValidationBatches(slices, settings, fabric, workers)
    loggers = connect(run.name, settings, place.step) if connect and fabric.is_global_zero else None
    with Journal(folder, place, learner, schedule, steps.columns, loggers) as journal:
        for epoch in range(place.step // per_epoch, run.epochs):
            if place.step % per_epoch == 0:
                altered = _alter(schedule, val_criterion, epoch, place.score, learner)
                place.start_epoch(altered, forget_best=altered and settings.best_of == "switch")
            learner.model.train()
            journal.clock = time.monotonic()
            for x, y in steps.batches(batches(epoch, skip=place.step % per_epoch)):
                learner.begin(place.step)
                with learner.draws(len(x)):
                    logits = learner.model(learner.move(x))
                target = slices.target(y.to(fabric.device, non_blocking=True), settings)
                loss = steps.backward(fabric, schedule, logits, target, place.step)
                learner.optimizer.step()
                learner.optimizer.zero_grad()
                place.step += 1
                looks = place.step % LOOK_STEPS == 0
                terms = (
                    _terms(schedule, logits, target)
                    if connect and (looks or place.step % per_epoch == 1 % per_epoch)
                    else {}
                )
                journal.step(epoch, loss, steps.cells(), terms)
                if looks or journal.loss is None:
                    journal.look(checkpoint=place.step % per_epoch != 0)
                view.step(run, epoch, journal.loss, settings.batch)
            journal.look()
            view.step(run, epoch, journal.loss, images=0)

            found = evaluate(learner, val_criterion, validation, slices, settings)
            place.score = found.chosen(settings)
            learner.end_epoch(place.score)
            journal.epoch(epoch, per_epoch, found.cells(), save=continued and epoch + 1 == run.epochs)
            view.epoch(run, epoch, found.slices)
    if fabric.is_global_zero:
        finish(run, settings, slices, folder, place, learner, val_criterion, workers)
    fabric.barrier()


@torch.no_grad()
def _terms(schedule: LossSchedule, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Compute the values of the loss's terms once more and apart: loggers must not change a bit of the training."""
    return schedule.with_stats(logits.detach(), target)[1].terms


def _alter(
    schedule: LossSchedule, val_criterion: LossSchedule, epoch: int, score: float | None, learner: Learner
) -> bool:  # fmt: skip
    """Bring both schedules to the epoch; True if another loss took over (a blend's moving weights are no switch)."""
    before = schedule.active
    for each in (schedule, val_criterion):
        each.step(epoch, score)
    if schedule.active is before:
        return False
    learner.alter()
    return True

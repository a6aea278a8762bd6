"""The training loop of the papers' rows.

The bits of a run depend on its settings, its schedule and its slices. Data order and augmentation are functions of
(seed, epoch, slice), the network's own randomness one of (seed, step), and the rest of the state is in the checkpoint:
a run that was killed anywhere continues with the bits of one that was not. A run with a parent starts from the
parent's last state, with its logs.
"""

from __future__ import annotations

import time
from pathlib import Path

from lightning_fabric import Fabric

from fastloss import LossSchedule

from .evaluation import evaluate
from .final import finish
from .journal import Journal, begin
from .learner import Learner
from .progress import Watch
from .runs import Run
from .settings import Settings
from .slices import Slices, TrainingBatches, ValidationBatches

LOOK_STEPS = 10  # losses are read from the device, and the clock for the next checkpoint, this often


def train(
    run: Run, settings: Settings, slices: Slices, folder: Path, parent: Path | None, fabric: Fabric, workers: int,
    view: Watch, continued: bool = True,
) -> None:  # fmt: skip
    """Trains, or continues from the checkpoint in `folder`; `parent` is the finished folder that the run begins from.

    Writes steps.csv, epochs.csv, checkpoint.pt, the best epoch's weights, and at the end example.npz and result.json;
    the last state too if other runs are to be `continued` from it.
    Raises CommandError for a damaged checkpoint.
    """
    per_epoch = slices.steps(settings)
    learner = Learner(settings, slices.store.num_classes, run.seed, per_epoch * run.epochs, fabric)
    schedule = run.make(True if fabric.world_size > 1 else None)
    judge = run.make(None)  # validation batches are whole: no process waits for another there
    place = begin(folder, parent, learner, schedule, judge)
    batches = TrainingBatches(slices, settings, run.seed, fabric, workers)
    validation = ValidationBatches(slices, settings, fabric, workers)
    with Journal(folder, place, learner, schedule) as journal:
        for epoch in range(place.step // per_epoch, run.epochs):
            if place.step % per_epoch == 0:
                altered = _alter(schedule, judge, epoch, place.score, learner)
                place.start_epoch(altered, forget_best=altered and settings.best_of == "switch")
            learner.model.train()
            journal.clock = time.monotonic()
            for x, y in batches(epoch, skip=place.step % per_epoch):
                learner.begin(place.step)
                with learner.draws(len(x)):
                    logits = learner.model(learner.move(x))
                loss = schedule(logits, slices.target(y.to(fabric.device, non_blocking=True), settings))
                fabric.backward(loss)
                learner.optimizer.step()
                learner.optimizer.zero_grad()
                place.step += 1
                journal.step(epoch, loss)
                if place.step % LOOK_STEPS == 0:
                    journal.look(checkpoint=place.step % per_epoch != 0)
                view.step(run, epoch, journal.loss, settings.batch)
            journal.look()
            view.step(run, epoch, journal.loss, images=0)

            found = evaluate(learner, judge, validation, slices, settings)
            place.score = found.chosen(settings)
            learner.end_epoch(place.score)
            journal.epoch(epoch, per_epoch, found.cells(), save=continued and epoch + 1 == run.epochs)
            view.epoch(run, epoch, found.slices)
    if fabric.is_global_zero:
        finish(run, settings, slices, folder, place, learner, judge, workers)
    fabric.barrier()


def _alter(schedule: LossSchedule, judge: LossSchedule, epoch: int, score: float | None, learner: Learner) -> bool:
    """Brings both schedules to the epoch; True if another loss took over (a blend's moving weights are no switch)."""
    before = schedule.active
    for each in (schedule, judge):
        each.step(epoch, score)
    if schedule.active is before:
        return False
    learner.alter()
    return True

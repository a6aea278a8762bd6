"""What a reproduction would train, and what that takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import torch
from lightning_fabric import Fabric

from fastloss.cli import CommandError

from .datasets.specs import get
from .datasets.splits import counts as counts_of
from .experiments import TABLES, Row
from .learner import Learner
from .runs import Run, folders
from .settings import Settings
from .text import size_of, table

PROBE_SLICES = 4  # of the step that is timed, if the batch has more and there is no GPU
PROBE_STEPS = 3
CHECKPOINT_COPIES = 3  # the network and Adam's two moments


Counts = Mapping[int | None, tuple[int, int]]  # by fold: slices that train, and that choose the epoch


def published(settings: Settings, fold: int | None) -> tuple[int, int]:
    """Return about how many slices train and choose the epoch, from the published number of them."""
    scheme = settings.split if fold is None else f"kfold:{settings.folds}"
    found = counts_of(scheme, get(settings.dataset).slices)
    return tuple([min(n, limit or n) for n, limit in zip(found, (settings.train_limit, settings.valid_limit))])


def describe(
    settings: Settings, rows: list[Row], todo: list[Run], counts: Counts, seeds: int, fabric: Fabric
) -> str:  # fmt: skip
    """Say by table and in all how many trainings, epochs and hours (from a few timed steps), and how much disk; nothing
    is trained."""
    seconds, evaluation, parameters = _probe(settings, fabric)
    counted: set[str] = set()
    by_name = {run.name: run for run in todo}
    lines = []
    for name, title in TABLES[settings.paper].items():
        mine = [run for row in rows if row.table == name for run in folders(settings, row, seeds).values()]
        needed = {other for run in mine for other in _lineage(run, by_name)} - counted
        counted |= needed
        if mine:
            fresh = [by_name[run] for run in needed]
            lines.append([title, len(mine), *_sums(fresh, settings, counts, seconds, evaluation)])
    lines.append(["all", len({*by_name}), *_sums(todo, settings, counts, seconds, evaluation)])
    head = ["table", "rows x folds x seeds", "new trainings", "epochs", "steps", "hours here"]
    cells = [[title, str(count), str(runs), str(epochs), str(steps), f"{hours:.2f}"]
             for title, count, runs, epochs, steps, hours in lines]  # fmt: skip
    parents = len({run.parent for run in todo if run.parent})
    kept = len(todo) if settings.keep_weights else parents + 1
    disk = 4 * parameters * (kept + CHECKPOINT_COPIES * (parents + 1))
    train, valid = next(iter(counts.values()))
    return "\n".join([
        f"{settings.paper}, preset {settings.preset}: {settings.model} ({parameters / 1e6:.2f} M parameters), "
        f"{settings.size} px, batch {settings.batch}, {train} training and {valid} validation "
        "slices.",
        table(head, cells),
        "A table's trainings without those that it shares with a table above.",
        f"A step takes {seconds:.3f} s here ({fabric.device.type}, {fabric.world_size} process(es)); "
        f"disk at most {size_of(disk)}.",
    ])  # fmt: skip


def _lineage(name: str, by_name: dict[str, Run]) -> list[str]:
    """Return the run and those that it begins from."""
    found = []
    while name:
        found.append(name)
        name = by_name[name].parent
    return found


def _sums(
    group: list[Run], settings: Settings, counts: Counts, seconds: float, evaluation: float
) -> tuple[int, int, int, float]:
    epochs = sum([run.stage_epochs for run in group])
    steps = sum([run.stage_epochs * (counts[run.fold][0] // settings.batch) for run in group])
    evaluated = sum([run.stage_epochs * counts[run.fold][1] for run in group])
    return len(group), epochs, steps, (steps * seconds + evaluated * evaluation) / 3600


def _probe(settings: Settings, fabric: Fabric) -> tuple[float, float, int]:
    """Return (seconds of a step, seconds to evaluate a slice, parameters), from a few steps on noise with the plainest
    loss and random weights."""
    mine = max(settings.batch // fabric.world_size, 1)
    count = mine if fabric.device.type == "cuda" else min(mine, PROBE_SLICES)
    settings = replace(settings, pretrained=False, weights="")
    learner = Learner(settings, len(get(settings.dataset).class_names), 0, PROBE_STEPS, fabric)
    x = torch.rand(count, 1, settings.size, settings.size)
    for at in range(PROBE_STEPS):
        if at == 1:
            start = _now(fabric)
        try:
            fabric.backward(learner.model(learner.move(x)).float().square().mean())
        except torch.OutOfMemoryError as error:
            raise CommandError(f"--batch {settings.batch} does not fit the memory of the device") from error
        learner.optimizer.step()
        learner.optimizer.zero_grad()
    step = (_now(fabric) - start) / (PROBE_STEPS - 1) * mine / count
    with torch.no_grad():
        start = _now(fabric)
        learner.net.eval()(learner.move(x))
        evaluation = (_now(fabric) - start) / count / fabric.world_size
    return step, evaluation, sum([p.numel() for p in learner.net.parameters()])


def _now(fabric: Fabric) -> float:
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()

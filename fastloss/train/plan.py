"""What a reproduction would train, and what that takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from lightning_fabric import Fabric

from fastloss.cli import CommandError

from .demo_report import size_of, table
from .experiments import TABLES, Row
from .learner import Learner
from .runs import Run, folders
from .settings import Settings
from .slices import Slices

PROBE_SLICES = 4  # of the step that is timed, if the batch has more and there is no GPU
PROBE_STEPS = 3
CHECKPOINT_COPIES = 3  # the network and Adam's two moments


def text(
    settings: Settings,
    rows: list[Row],
    todo: list[Run],
    splits: Mapping[int | None, Slices],
    seeds: int,
    fabric: Fabric,
) -> str:
    """Trainings, epochs, hours (from a few timed steps) and disk, by table and in all; nothing is trained."""
    seconds, evaluation, parameters = _probe(settings, next(iter(splits.values())), fabric)
    counted: set[str] = set()
    by_name = {run.name: run for run in todo}
    lines = []
    for name, title in TABLES[settings.paper].items():
        mine = [run for row in rows if row.table == name for run in folders(settings, row, seeds).values()]
        needed = {other for run in mine for other in _lineage(run, by_name)} - counted
        counted |= needed
        if mine:
            fresh = [by_name[run] for run in needed]
            lines.append([title, len(mine), *_sums(fresh, settings, splits, seconds, evaluation)])
    lines.append(["all", len({*by_name}), *_sums(todo, settings, splits, seconds, evaluation)])
    head = ["table", "rows x folds x seeds", "new trainings", "epochs", "steps", "hours here"]
    cells = [[title, str(count), str(runs), str(epochs), str(steps), f"{hours:.2f}"]
             for title, count, runs, epochs, steps, hours in lines]  # fmt: skip
    parents = len({run.parent for run in todo if run.parent})
    kept = len(todo) if settings.keep_weights else parents + 1
    disk = 4 * parameters * (kept + CHECKPOINT_COPIES * (parents + 1))
    first = next(iter(splits.values()))
    return "\n".join([
        f"{settings.paper}, preset {settings.preset}: {settings.model} ({parameters / 1e6:.2f} M parameters), "
        f"{settings.size} px, batch {settings.batch}, {len(first.train)} training and {len(first.valid)} validation "
        "slices.",
        table(head, cells),
        "A table's trainings without those that it shares with a table above.",
        f"A step takes {seconds:.3f} s here ({fabric.device.type}, {fabric.world_size} process(es)); "
        f"disk at most {size_of(disk)}.",
    ])  # fmt: skip


def _lineage(name: str, by_name: dict[str, Run]) -> list[str]:
    """The run and those that it begins from."""
    found = []
    while name:
        found.append(name)
        name = by_name[name].parent
    return found


def _sums(
    group: list[Run], settings: Settings, splits: Mapping[int | None, Slices], seconds: float, evaluation: float
) -> tuple[int, int, int, float]:
    epochs = sum([run.stage_epochs for run in group])
    steps = sum([run.stage_epochs * splits[run.fold].steps(settings) for run in group])
    judged = sum([run.stage_epochs * len(splits[run.fold].valid) for run in group])
    return len(group), epochs, steps, (steps * seconds + judged * evaluation) / 3600


def _probe(settings: Settings, slices: Slices, fabric: Fabric) -> tuple[float, float, int]:
    """(seconds of a step, seconds to judge a slice, parameters), from a few steps on noise with the plainest loss."""
    mine = max(settings.batch // fabric.world_size, 1)
    count = mine if fabric.device.type == "cuda" else min(mine, PROBE_SLICES)
    learner = Learner(settings, slices.store.num_classes, 0, PROBE_STEPS, fabric)
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
        judged = (_now(fabric) - start) / count / fabric.world_size
    return step, judged, sum([p.numel() for p in learner.net.parameters()])


def _now(fabric: Fabric) -> float:
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()

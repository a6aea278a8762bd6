"""What another loss changes in real training steps: its own time first, everything else around it.

Every contender gets the same logits in each step, in turning order, with a backward that stops at the logits; then the
step goes on with the gradient of fastloss. The difference of whole steps is measured apart, in alternating blocks, and
given as an interval: against forward and backward of the network it mostly cannot be told from zero.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from fastloss.cli import CommandError
from fastloss.measure.contenders import OURS, Contender

from . import throughput3d
from .checkpoint import read_json, write_json
from .contenders import contenders, measure_memory, split, time_call
from .datasets import Store
from .experiments import Row
from .learner import Learner
from .progress import waiting
from .settings import Settings
from .slices import TrainingBatches, load

WARM_STEPS = 1
STEPS = {"paper": 100, "short": 50, "smoke": 3}  # with all contenders on the same logits
ROUNDS = {"paper": 20, "short": 12, "smoke": 3}  # pairs of blocks for the difference of whole steps
BLOCK = {"paper": 5, "short": 5, "smoke": 1}  # steps
CONFIDENCE = 0.95


@dataclass
class Subject:
    """A network in training and the losses that it is trained with by turns. `step(gradient)` finishes a step."""

    case: str
    model: nn.Module
    optimizer: Any
    fabric: Fabric
    batches: Iterator[tuple[Tensor, Tensor]]
    contenders: list[Contender]
    missing: list[str]

    def forward(self) -> tuple[Tensor, Tensor, int]:
        """Return (logits, labels, images)."""
        x, y = next(self.batches)
        return self.model(x), y, len(x)

    def finish(self, logits: Tensor, gradient: Tensor) -> None:
        self.fabric.backward(logits, gradient)
        self.optimizer.step()
        self.optimizer.zero_grad()


def run(settings: Settings, store: Store, rows: list[Row], peers: list[str], path: Path, fabric: Fabric) -> None:
    """Measure each loss of these rows once, and the 3D case; write after each, and skip what is there already."""
    if fabric.world_size > 1:
        raise CommandError(f"--compare runs in one process, got {fabric.world_size}")
    done = read_json(path, ("peers", "rows")) if path.exists() else {"peers": peers, "rows": []}
    if done["peers"] != peers:
        raise CommandError(f"--compare was {','.join(done['peers'])} in {path.parent} and is {','.join(peers)} now")
    for case, make in _subjects(settings, store, rows, peers, fabric):
        if case in [row["case"] for row in done["rows"]]:
            continue
        with waiting(f"timing {case} with {', '.join(peers)}"):
            done["rows"] += measure(make(), settings.preset)
        write_json(path, done)


def _subjects(
    settings: Settings, store: Store, rows: list[Row], peers: list[str], fabric: Fabric
) -> Iterator[tuple[str, Callable[[], Subject]]]:
    """Return (title, how to make it) of each different loss of the rows, then of the 3D case."""
    losses = {repr(loss): loss for row in rows for loss in row.schedule.losses}
    names = {repr(row.schedule.active): row.title for row in reversed(rows) if len(row.schedule.losses) == 1}
    for key, loss in losses.items():
        if key in names and all([not len(part.factors) for part in loss._parts]):
            yield names[key], lambda loss=loss, key=key: _slices(names[key], settings, store, loss, peers, fabric)
    for classes in throughput3d.CLASSES:
        title = throughput3d.title(classes, settings.preset, fabric)
        yield title, lambda classes=classes, title=title: _volumes(title, classes, settings.preset, peers, fabric)


def _slices(case: str, settings: Settings, store: Store, loss: Any, peers: list[str], fabric: Fabric) -> Subject:
    """Make the papers' own step: their network, their data."""
    slices = load(store, settings, None)
    learner = Learner(settings, store.num_classes, 0, 1, fabric)
    source = TrainingBatches(slices, settings, 0, fabric, workers=0)
    x, y = next(source(0, 0))
    resident = learner.move(x), slices.target(y.to(fabric.device), settings)
    learner.model.train()
    shape = (len(x), store.num_classes, *x.shape[2:])
    found, missing = contenders(loss, shape, peers)
    batches = itertools.repeat(resident)  # the loader is not what is measured
    return Subject(case, learner.model, learner.optimizer, fabric, batches, found, missing)


def _volumes(case: str, classes: int, preset: str, peers: list[str], fabric: Fabric) -> Subject:
    model, optimizer, batch, found, missing = throughput3d.build(classes, preset, peers, fabric)
    return Subject(case, model, optimizer, fabric, itertools.repeat(batch), found, missing)


def measure(subject: Subject, preset: str) -> list[dict[str, Any]]:
    """Return one row for each contender."""
    device = subject.fabric.device
    seconds: dict[str, list[float]] = {each.key: [] for each in subject.contenders}
    rest: list[float] = []
    images = 0
    for at in range(STEPS[preset] + WARM_STEPS):
        (logits, y, images), forward = time_call(device, subject.forward)
        turn = at % len(subject.contenders)
        gradients = {}
        for each in subject.contenders[turn:] + subject.contenders[:turn]:
            target = each.target(y)
            (_, gradients[each.key]), taken = time_call(device, partial(split, each.loss, logits, target))
            if at >= WARM_STEPS:
                seconds[each.key].append(taken)
        _, finish = time_call(device, partial(subject.finish, logits, gradients[OURS]))
        if at >= WARM_STEPS:
            rest.append(forward + finish)
    logits, y, _ = subject.forward()
    logits = logits.detach()
    ours = split(subject.contenders[0].loss, logits, y)
    network = statistics.median(rest)
    rows = []
    for each in subject.contenders:
        loss = statistics.median(seconds[each.key])
        row = {"case": subject.case, "contender": each.key, "note": "; ".join(each.notes),
               "same_formula": each.role != "other", "missing": subject.missing, "logits_bytes": logits.nbytes,
               "loss_seconds": seconds[each.key], "network_seconds": network,
               "images_per_second": images / (network + loss), "share": loss / (network + loss)}  # fmt: skip
        row |= _gaps(each, ours, logits, y) | measure_memory(each, logits, y) | {"launches": launches(each, logits, y)}
        if each.key != OURS:
            row |= step_difference(subject, each, ROUNDS[preset], BLOCK[preset])
        rows.append(row)
    return rows


def _gaps(each: Contender, ours: tuple[Tensor, Tensor], logits: Tensor, y: Tensor) -> dict[str, float]:
    """Compare value and gradient with fastloss's, relative."""
    value, gradient = split(each.loss, logits, each.target(y))
    return {
        "value": float(ours[0] if each.key == OURS else value),
        "value_gap": float((value - ours[0]).abs() / ours[0].abs().clamp_min(1e-12)),
        "gradient_gap": float((gradient - ours[1]).norm() / ours[1].norm().clamp_min(1e-30)),
    }


def launches(each: Contender, logits: Tensor, y: Tensor) -> int:
    """Count kernels on a GPU, operators without inner ones on a CPU, of one forward and backward."""
    cuda = logits.device.type == "cuda"
    target = each.target(y)
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA] if cuda else [kinds.CPU]) as profile:
        split(each.loss, logits, target)
    events = profile.events()
    if cuda:
        return sum([event.device_type == torch.autograd.DeviceType.CUDA for event in events])
    return sum([not event.cpu_children for event in events])


def step_difference(subject: Subject, each: Contender, rounds: int, block: int) -> dict[str, Any]:
    """Measure the seconds of a whole step with this loss minus one with fastloss: mean of alternating blocks, and its
    interval."""
    from scipy import stats

    def steps(loss: Contender) -> None:
        for _ in range(block):
            logits, y, _ = subject.forward()
            subject.fabric.backward(loss.loss(logits, loss.target(y)))
            subject.optimizer.step()
            subject.optimizer.zero_grad()

    device, ours = subject.fabric.device, subject.contenders[0]
    differences = []
    for at in range(rounds + 1):
        pair = (ours, each) if at % 2 else (each, ours)
        taken = {loss.key: time_call(device, partial(steps, loss))[1] / block for loss in pair}
        if at:  # the first round is warm-up
            differences.append(taken[each.key] - taken[OURS])
    mean, error = statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(differences) - 1)) * error
    return {"step_difference": mean, "step_interval": [mean - reach, mean + reach]}

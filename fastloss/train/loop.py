"""The training loop.

Everything that the bits of a run depend on is in `Run`, the schedule and the slices. Data order and augmentation are
pure functions of (seed, epoch, slice), the learning rate one of the step, and the rest of the state is in the
checkpoint: a run that was killed anywhere continues with the bits of one that was not (on a CPU of the same kind with
as many threads).
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fastloss import LossSchedule, functional

from . import models, side_by_side
from .checkpoint import Log, restore, save, write_json
from .data import Slices
from .metrics import Scores, scores
from .progress import Watch

SAVE_SECONDS = 5.0
JUDGE_EVERY = 10  # steps between two looks at whose gradient is off
STEP_COLUMNS = ("step", "epoch", "loss", "value_gap", "gradient_gap", "error", "smp_error")
STEP_COLUMNS += ("loss_s", "smp_s", "step_s", "images")
EPOCH_COLUMNS = ("epoch", "altered", "dice", "iou", "pooled_dice", "pooled_iou")


@dataclass(frozen=True)
class Run:
    """One training: method and seed, and what all runs share. `size` in pixels, `rate` Adam's first learning rate."""

    method: str
    seed: int
    epochs: int
    size: int
    model: str = models.SMALL
    batch: int = 8
    rate: float = 3e-3

    @property
    def name(self) -> str:
        """For files."""
        words = self.method.lower().replace("+", "plus").replace("→", "then").split()
        return "-".join([*words, f"seed{self.seed}"])


@dataclass
class Place:
    """How far a run has come: steps done, whether this epoch altered the loss, bytes of the two logs."""

    done: int = 0
    altered: bool = False
    positions: tuple[int, int] = (0, 0)


def train(
    run: Run, schedule: LossSchedule, train_set: Slices, valid_set: Slices, folder: Path, watch: Watch
) -> nn.Module:
    """Trains, or continues from the checkpoint in `folder`, and returns the network after the last epoch.

    Writes steps.csv, epochs.csv and checkpoint.pt, and result.json when it is done. Raises CommandError for a damaged
    checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = models.build(run.model, run.seed)
    optimizer = torch.optim.Adam(model.parameters(), run.rate)
    per_epoch = math.ceil(len(train_set) / run.batch)
    total = per_epoch * run.epochs
    place = _restore(folder, model, optimizer, schedule)
    with (
        Log(folder / "steps.csv", STEP_COLUMNS, place.positions[0]) as steps,
        Log(folder / "epochs.csv", EPOCH_COLUMNS, place.positions[1]) as epochs,
    ):

        def checkpoint() -> float:
            place.positions = steps.position(), epochs.position()
            _save(folder, run, place, model, optimizer, schedule)
            return time.monotonic()

        saved = time.monotonic()
        for epoch in range(place.done // per_epoch, run.epochs):
            if place.done % per_epoch == 0:
                place.altered = schedule.step(epoch)
            smp_loss = side_by_side.of_smp(schedule.active)
            clock = time.perf_counter()
            for x, y in train_set.batches(run.seed, epoch, run.batch, skip=place.done % per_epoch):
                _set_rate(optimizer, run.rate * 0.5 * (1 + math.cos(math.pi * place.done / total)))
                logits = model(x.contiguous(memory_format=torch.channels_last))
                swap, judged = place.done % 2 == 1, place.done % JUDGE_EVERY == 0
                pair = side_by_side.compare(schedule, smp_loss, logits, y, smp_first=swap, judged=judged)
                optimizer.zero_grad()
                logits.backward(pair.gradient)
                optimizer.step()
                place.done += 1

                step_s = time.perf_counter() - clock - pair.overhead
                gaps = pair.value_gap, pair.gradient_gap, pair.error, pair.smp_error
                steps.add(place.done, epoch, pair.loss, *gaps, pair.seconds, pair.smp_seconds, step_s, len(x))
                watch.step(run, epoch, pair.loss, len(x))
                if place.done % per_epoch and time.monotonic() - saved > SAVE_SECONDS:
                    saved = checkpoint()
                clock = time.perf_counter()
            found = evaluate(model, valid_set)
            epochs.add(epoch, int(place.altered), *asdict(found).values())
            watch.epoch(run, epoch, found)
            saved = checkpoint()

    found = evaluate(model, valid_set)
    write_json(folder / "result.json", {"run": asdict(run), "scores": asdict(found), "weights": digest(model)})
    return model


def evaluate(model: nn.Module, data: Slices) -> Scores:
    return scores(functional.stats(predict(model, data), data.masks, mode="binary").counts)


@torch.no_grad()
def predict(model: nn.Module, data: Slices, batch: int = 16) -> Tensor:
    """Logits [N, 1, H, W] of every slice."""
    model.eval()
    logits = [model(x.contiguous(memory_format=torch.channels_last)) for x in data.images.split(batch)]
    model.train()
    return torch.cat(logits)


def digest(model: nn.Module) -> str:
    """A fingerprint of all weights: equal only if every bit is."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in model.state_dict().values():
        found.update(tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _save(
    folder: Path, run: Run, place: Place, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: LossSchedule
) -> None:
    state = {
        "run": asdict(run),
        "place": asdict(place),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "rng": torch.get_rng_state(),
    }
    save(folder / "checkpoint.pt", state)


def _restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: LossSchedule) -> Place:
    """Where the run stands; its beginning if there is no checkpoint."""
    state = restore(folder / "checkpoint.pt")
    if state is None:
        return Place()
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["rng"])
    return Place(**state["place"])


def steps_done(folder: Path) -> int:
    """Steps that an interrupted run has behind it."""
    state = restore(folder / "checkpoint.pt")
    return state["place"]["done"] if state else 0


def trained(run: Run, folder: Path) -> nn.Module:
    """The network of a finished run."""
    model = models.build(run.model, run.seed)
    model.load_state_dict(restore(folder / "checkpoint.pt")["model"])
    return model

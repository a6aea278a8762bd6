"""What is measured with the network that a training ends with, and written when all else is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastloss import LossSchedule
from fastloss.cli import CommandError

from . import volumes
from .checkpoint import digest, read_log, restore, write_atomically, write_json
from .datasets import SliceDataset
from .evaluation import evaluate, foreground
from .journal import EPOCH_COLUMNS, SCORE_COLUMNS, Place, forget_weights, weights
from .learner import Learner
from .runs import Run
from .settings import Settings
from .slices import Slices, ValidationBatches
from .text import now_utc


def finish(
    run: Run, settings: Settings, slices: Slices, folder: Path, place: Place, learner: Learner,
    val_criterion: LossSchedule, workers: int,
) -> None:  # fmt: skip
    """Write example.npz, volumes.json if the settings want it, and result.json last: a run with one is done.

    Scores of a test part and of whole volumes are those of the epoch that the tables show.
    """
    log = read_log(folder / "epochs.csv", EPOCH_COLUMNS, run.epochs)
    switches = [int(epoch) for epoch, altered in zip(log["epoch"], log["altered"]) if altered]
    best = restore(weights(folder, place.best_epoch))
    if best is None:
        raise CommandError(f"{weights(folder, place.best_epoch)} is missing; delete {folder} to train this run again")
    last = digest(learner.net)
    if settings.score == "best":
        learner.net.load_state_dict(best["net"])
    learner.net.eval()
    tested = _of_test(settings, slices, learner, val_criterion, workers) if slices.test else None
    _write_example(folder / "example.npz", settings, slices, learner)
    if settings.volumes:
        write_json(folder / "volumes.json", {"rows": volumes.measure(settings, slices, learner)})
    device = learner.fabric.device
    write_json(
        folder / "result.json",
        {
            "run": run.described,
            "best_epoch": place.best_epoch,
            "switch": switches[-1] if switches else None,
            **{which: {name: log[name][at] for name in EPOCH_COLUMNS} for which, at in
               (("best", place.best_epoch), ("last", -1))},
            "test": tested,
            "parameters": sum(p.numel() for p in learner.net.parameters()),
            "weights": last,
            "peak_memory": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
            "finished": now_utc(),
        },
    )  # fmt: skip
    forget_weights(folder, place.best_epoch)


def _of_test(
    settings: Settings, slices: Slices, learner: Learner, val_criterion: LossSchedule, workers: int
) -> dict[str, float]:
    """Evaluate the test part, by this process alone."""
    part = replace(slices, valid=slices.test, test=())
    batches = ValidationBatches(part, settings, learner.fabric, workers, alone=True)
    return dict(zip(SCORE_COLUMNS, evaluate(learner, val_criterion, batches, part, settings).cells()))


def _write_example(path: Path, settings: Settings, slices: Slices, learner: Learner) -> None:
    """Write one slice with its truth and what the network finds there: class ids, or 0 and 1 per channel."""
    row, region = slices.example(settings.size)
    image, truth = SliceDataset(slices.store, (row,), size=settings.size, augment="none", seed=0)[0]
    found = foreground(image[None], settings, slices, learner)[0]
    record = slices.store.slices[row]
    name = f"{record.volume}, slice {record.z}" + (", of the training part" if row in slices.train else "")
    arrays: dict[str, Any] = {"image": image[0].half(), "truth": truth, "found": found.to(torch.uint8)}
    arrays = {key: value.numpy() for key, value in arrays.items()}
    arrays |= {"name": np.array(name), "region": np.array(region)}
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))

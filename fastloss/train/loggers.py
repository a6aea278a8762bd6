"""Loggers of Lightning beside the journal: the same numbers where other tools look for them.

Written by the first process alone. A resumed training continues at its checkpoint's step: CSV rows and TensorBoard's
events of steps that are done again are dropped; W&B and MLflow keep both.
"""

from __future__ import annotations

import csv
import importlib
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_fabric.loggers import CSVLogger, TensorBoardLogger
from lightning_fabric.loggers.logger import Logger

from fastloss.cli import CommandError

from .checkpoint import read_json, write_json
from .settings import Settings

# Either brings the loggers that Fabric lacks.
LIGHTNING = {"pytorch_lightning": "pytorch_lightning.loggers", "lightning": "lightning.pytorch.loggers"}
NEEDS: dict[str, tuple[tuple[str, ...], ...]] = {  # of each group one module
    "csv": (),
    "tensorboard": (("tensorboard", "tensorboardX"),),
    "wandb": (("wandb",), tuple(LIGHTNING)),
    "mlflow": (("mlflow",), tuple(LIGHTNING)),
}
NAMES = tuple(NEEDS)


def check(names: Iterable[str]) -> None:
    """CommandError, which says what to install, if a logger's packages are not here."""
    for name in names:
        if name not in NEEDS:
            raise CommandError(f"--logger must be one of {', '.join(NAMES)}, got {name!r}")
        missing = [group[0] for group in NEEDS[name] if not any([find_spec(module) for module in group])]
        if missing:
            words = " ".join(missing).replace("_", "-")
            raise CommandError(f"--logger {name} needs {' and '.join(words.split())}; run `pip install {words}`")


class Loggers:
    """The loggers of one training.

    Args:
        names: of NAMES.
        out: the folder of the reproduction: CSV lies in csv/ and events in tensorboard/, by run; MLflow's runs in
            mlflow.db unless MLFLOW_TRACKING_URI says otherwise, W&B's files in wandb/.
        run: its name.
        step: steps that are done.
    """

    def __init__(self, names: Sequence[str], out: Path, run: str, settings: Settings, step: int) -> None:
        self.out, self.run, self.step = out, run, step
        self.ids = out / "runs" / run / "loggers.json"
        self.all: list[Logger] = [getattr(self, f"_{name}")() for name in names]
        for name, logger in zip(names, self.all):
            if name in ("wandb", "mlflow"):  # TensorBoard would mark them with a metric of its own
                logger.log_hyperparams(asdict(settings))

    def _csv(self) -> Logger:
        path = self.out / "csv" / self.run / "metrics.csv"
        kept = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= self.step]
            path.unlink()  # Fabric would, and warn
        logger = CSVLogger(self.out / "csv", name=self.run, version="")
        for row in kept:
            step = int(row.pop("step"))
            logger.log_metrics({name: cell for name, cell in row.items() if cell}, step)
        return logger

    def _tensorboard(self) -> Logger:
        return TensorBoardLogger(self.out / "tensorboard", name=self.run, version="", purge_step=self.step + 1)

    def _wandb(self) -> Logger:
        own = _of_lightning("WandbLogger")
        return own(name=self.run, project="fastloss", save_dir=self.out, id=self._id("wandb", secrets.token_hex(4)))

    def _mlflow(self) -> Logger:
        own = _of_lightning("MLFlowLogger")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(self.out / 'mlflow.db').absolute()}"
        names = {"experiment_name": self.out.absolute().name, "run_name": self.run, "tracking_uri": uri}
        logger = own(**names, run_id=self._id("mlflow"))
        self._id("mlflow", logger.run_id)
        return logger

    def _id(self, name: str, new: str | None = None) -> str | None:
        """Return the id by which a service knows this training, which is kept beside it."""
        known = read_json(self.ids) if self.ids.exists() else {}
        if new is not None and name not in known:
            known[name] = new
            write_json(self.ids, known)
        return known.get(name)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for logger in self.all:
            logger.log_metrics(dict(metrics), step)

    def save(self) -> None:
        """Bring to disk what was logged."""
        for logger in self.all:
            logger.save()

    def close(self, status: str) -> None:
        """End with "success" or "failed"."""
        for logger in self.all:
            logger.finalize(status)
            if type(logger).__name__ == "WandbLogger":  # else the next training goes on in this run
                logger.experiment.finish()


def _of_lightning(name: str) -> Any:
    module = next(module for package, module in LIGHTNING.items() if find_spec(package))
    return getattr(importlib.import_module(module), name)

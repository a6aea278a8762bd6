"""What a reproduction left in its folder, read back."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastloss.cli import CommandError

from .. import settings
from ..checkpoint import read_json, read_log
from ..experiments import Row, rows
from ..journal import EPOCH_COLUMNS, STEP_COLUMNS, read_result
from ..runs import folders
from ..settings import FILE, Settings, defaults

METRICS = ("dice", "iou")
SAME_NUMBERS = ("channels_last", "compile", "deterministic", "keep_weights")  # settings that only move the last bits


@dataclass(frozen=True)
class Reproduction:
    """One folder of `fastloss reproduce`: its settings, its data and machine, and the finished runs by name."""

    folder: Path
    settings: Settings
    data: dict[str, Any]
    machine: dict[str, Any]
    finished: dict[str, dict[str, Any]]
    machines: list[dict[str, Any]] = field(default_factory=list)  # others, on which it was continued
    begun: str = ""  # UTC; not recorded by earlier versions

    @property
    def rows(self) -> list[Row]:
        return rows(self.settings)

    @property
    def seeds(self) -> int:
        return 1 + max([result["run"]["seed"] for result in self.finished.values()], default=0)

    @property
    def changed(self) -> list[str]:
        """Settings that are not the preset's, in words."""
        usual = defaults(self.settings.paper, self.settings.preset, self.settings.dataset)
        return [
            f"{name} {getattr(self.settings, name)} (not {value})"
            for name, value in usual.items()
            if getattr(self.settings, name) != value and name not in SAME_NUMBERS
        ]

    @property
    def comparable(self) -> bool:
        """Whether its numbers may be set against the paper's: its preset, unchanged, on data that the numbers are from
        (paper 1's are from none of the datasets that it names, see `discrepancies`)."""
        dataset = {"paper1": "uwmgi", "paper2": "msd-colon"}[self.settings.paper]
        real = not self.data["phantom"] and self.settings.dataset == dataset
        return self.settings.preset == "paper" and real and not self.changed

    @property
    def caveat(self) -> str:
        """What every table must say of these numbers; nothing if they are comparable."""
        if self.comparable:
            return ""
        why = ["phantom data"] if self.data["phantom"] else []
        why += ["the demo's one brain"] if self.settings.dataset == "demo" else []
        why += [f"preset {self.settings.preset}"] if self.settings.preset != "paper" else []
        why += ["changed settings"] if self.changed else []
        return f"No reproduction of accuracy ({', '.join(why) or 'other data than the numbers are from'})."

    def difference(self, value: float, digits: int = 4) -> str:
        """Write ours minus the paper's; in brackets where the two are not of the same data and settings."""
        return f"{value:+,.{digits}f}" if self.comparable else f"({value:+,.{digits}f})"

    @property
    def legend(self) -> str:
        """What stands below our numbers."""
        why = (
            "" if self.comparable else ", in brackets because data or settings are others: it says nothing of the paper"
        )
        return f"Below ours: the paper's, and ours minus the paper's{why}."

    def results(self, row: Row) -> dict[tuple[int, int | None], dict[str, Any]]:
        """Return the finished runs of a row by (seed, fold)."""
        names = folders(self.settings, row, self.seeds)
        return {key: self.finished[name] for key, name in names.items() if name in self.finished}

    def predates(self, row: Row) -> bool:
        """Tell whether some score of an altered row is of an epoch before its (last) switch: of its first loss
        alone."""
        if not row.altered:
            return False
        found = [(result["switch"], result[self.settings.score]["epoch"]) for result in self.results(row).values()]
        return any([switch is None or epoch < switch for switch, epoch in found])

    @property
    def tested(self) -> bool:
        """Whether scores are of a test part, apart from the slices that choose the epoch."""
        return any([result["test"] for result in self.finished.values()])

    def scores(self, row: Row, metric: str) -> list[float]:
        """Return the scores of a row: one by seed; by fold if it has folds, each the mean over the seeds."""
        return list(self.paired(row, metric).values())

    def paired(self, row: Row | None, metric: str) -> dict[int, float]:
        """Return {seed: score}, of a row with folds {fold: mean over the seeds}; of none {}."""
        which, column = self.settings.score, self.column(metric)
        found: dict[int, list[float]] = {}
        for (seed, fold), result in self.results(row).items() if row else ():
            found.setdefault(seed if fold is None else fold, []).append((result["test"] or result[which])[column])
        return {key: statistics.mean(found[key]) for key in sorted(found)}

    def column(self, metric: str) -> str:
        """Name the column of epochs.csv, as the settings average."""
        return metric if self.settings.average == "image" else f"{self.settings.average}_{metric}"

    def log(self, row: Row, name: str = "epochs.csv") -> dict[str, list[float]] | None:
        """Read the log of the row's first finished run."""
        for run in folders(self.settings, row, self.seeds).values():
            if run in self.finished:
                columns = {"epochs.csv": EPOCH_COLUMNS, "steps.csv": STEP_COLUMNS}[name]
                return read_log(self.folder / "runs" / run / name, columns, self.finished[run]["run"]["epochs"])
        return None

    def example(self, row: Row) -> Path | None:
        for run in folders(self.settings, row, self.seeds).values():
            if run in self.finished:
                return self.folder / "runs" / run / "example.npz"
        return None

    def volumes(self, row: Row) -> list[Path]:
        """Find the scores of whole volumes of each finished run of the row, if they were measured."""
        names = [result["run"]["name"] for result in self.results(row).values()]
        return [path for name in names if (path := self.folder / "runs" / name / "volumes.json").exists()]

    def extra(self, name: str) -> dict[str, Any] | None:
        """Read throughput.json or systems.json, if it was measured."""
        return read_json(self.folder / name, ("rows",)) if (self.folder / name).exists() else None

    def find(self, table: str, name: str) -> Row | None:
        return next((row for row in self.rows if (row.table, row.name) == (table, name)), None)


def read(folder: Path) -> Reproduction:
    """Read a folder; CommandError if it holds no reproduction that this version can read."""
    if not (folder / FILE).exists():
        raise CommandError(f"{folder} holds no reproduction: {FILE} is missing")
    chosen, found = settings.read(folder)
    finished = {}
    for path in sorted((folder / "runs").glob("*/*/result.json")):
        result = read_result(path)
        finished[result["run"]["name"]] = result
    return Reproduction(
        folder, chosen, found["data"], found["machine"], finished, found.get("machines", []), found.get("begun", "")
    )

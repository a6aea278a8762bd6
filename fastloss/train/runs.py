"""From rows to trainings: which there are, which begin where another ends, what they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fastloss import LossSchedule
from fastloss.cli import CommandError

from .experiments import NOT_BY_DEFAULT, TABLES, Row, rows
from .settings import Settings


@dataclass(frozen=True)
class Run:
    """One training. `name` is its folder; `parent` the run whose last state it continues, or None.

    `make(group)` builds its schedule; `title` is what it is called in words; `first` its first epoch of its own.
    """

    name: str
    title: str
    epochs: int
    seed: int
    fold: int | None
    make: Callable[[Any], LossSchedule]
    parent: str | None = None
    first: int = 0

    @property
    def method(self) -> str:
        """For the lines of progress."""
        return self.title if self.fold is None else f"{self.title}, fold {self.fold}"

    @property
    def stage_epochs(self) -> int:
        return self.epochs - self.first

    @property
    def described(self) -> dict[str, Any]:
        """For the logs."""
        return {name: getattr(self, name) for name in ("name", "title", "epochs", "seed", "fold", "parent", "first")}


def select_rows(settings: Settings, names: list[str] | None) -> list[Row]:
    """Return the rows that --rows asks for by table or by name (None: all but the optional tables; "all").

    Raises CommandError for an unknown name.
    """
    every = rows(settings)
    if names is None:
        chosen = [row for row in every if row.table not in NOT_BY_DEFAULT]
    else:
        known = {"all", *TABLES[settings.paper], *(row.name for row in every)}
        for name in names:
            if name not in known:
                raise CommandError(f"--rows: {settings.paper} has no row or table {name!r}; "
                                   f"tables are {', '.join(TABLES[settings.paper])}")  # fmt: skip
        chosen = [row for row in every if {"all", row.table, row.name} & set(names)]
    return chosen


def make_runs(settings: Settings, chosen: list[Row], seeds: int) -> list[Run]:
    """Make the trainings of these rows, parents first. Rows with the same losses in the same epochs are one run, and a
    run begins where one with the same first stages ends (unless the rate depends on the number of epochs)."""
    found: dict[str, Run] = {}
    for seed in range(seeds):
        for row in chosen:
            for fold in range(settings.folds) if row.folds else [None]:
                for epochs in [*_switches(settings, row), row.epochs]:
                    run = _run(settings, row, epochs, seed, fold)
                    found.setdefault(run.name, run)
    # Shorter ones first: a parent is shorter than its children.
    ordered = sorted(found.values(), key=lambda run: (run.seed, run.fold is not None, run.epochs))
    return ordered if settings.rate_schedule == "cosine" else _linked(ordered)


def folders(settings: Settings, row: Row, seeds: int) -> dict[tuple[int, int | None], str]:
    """Return {(seed, fold): name of the run} with the results of a row."""
    every = range(settings.folds) if row.folds else [None]
    return {(seed, fold): _name(row.name, row.epochs, seed, fold) for seed in range(seeds) for fold in every}


def _switches(settings: Settings, row: Row) -> list[int]:
    """Return the epochs at which an abrupt schedule changes: what comes before is a run of its own, to be shared."""
    return [] if settings.rate_schedule == "cosine" else [start for start, _ in row.schedule.stages[1:]]


def _name(row: str, epochs: int, seed: int, fold: int | None) -> str:
    return f"{'split' if fold is None else f'fold{fold}'}/{row}-{epochs}-seed{seed}"


def _run(settings: Settings, row: Row, epochs: int, seed: int, fold: int | None) -> Run:
    whole = epochs == row.epochs

    def make(group: Any) -> LossSchedule:
        (same,) = [r for r in rows(settings, group) if (r.table, r.name) == (row.table, row.name)]
        return same.schedule if whole else LossSchedule([s for s in same.schedule.stages if s[0] < epochs])

    name = _name(row.name if whole else row.name.split("-to-")[0], epochs, seed, fold)
    return Run(name, row.title if whole else row.title.split(" → ")[0], epochs, seed, fold, make)


def _linked(ordered: list[Run]) -> list[Run]:
    """Link each to the longest run that does the same for its whole length, if there is one."""
    stages = {run.name: [(start, repr(loss)) for start, loss in run.make(None).stages] for run in ordered}

    def begins(run: Run) -> list[Run]:
        return [
            other
            for other in ordered
            if (other.seed, other.fold) == (run.seed, run.fold)
            and other.epochs < run.epochs
            and stages[other.name] == [stage for stage in stages[run.name] if stage[0] < other.epochs] != []
        ]

    parents = {run.name: max(begins(run), key=lambda other: other.epochs, default=None) for run in ordered}
    return [
        replace(run, parent=parent.name, first=parent.epochs) if (parent := parents[run.name]) else run
        for run in ordered
    ]

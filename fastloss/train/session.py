"""A folder of trainings: what it was begun with, and the work until nothing of it is missing."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

import fastloss
from fastloss import _library, backends
from fastloss.cli import CommandError
from fastloss.measure import host

from . import settings
from .checkpoint import make_folder, restore, write_json
from .datasets import Store
from .journal import CHECKPOINT, read_result
from .loggers import Loggers
from .progress import Lines, watch
from .runs import Run, make_runs, select_rows
from .settings import FILE, Settings
from .slices import Slices
from .text import now_utc
from .training import Steps, train

Say = Callable[..., None]


def resume(out: Path, asked: dict[str, Any], what: str = "reproduction") -> tuple[Settings, dict[str, Any]]:
    """Read the settings and the whole record of an interrupted folder.

    Args:
        asked: settings that the command line names; they must be the folder's.

    Raises:
        CommandError: nothing was begun there, by another version, or with other settings.
    """
    if not (out / FILE).exists():
        raise CommandError(f"--resume: no {what} was started in {out}; run it without --resume")
    chosen, record = settings.read(out)
    _compare(out, "settings", asdict(chosen), asked)
    return chosen, record


def _compare(out: Path, part: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    for name, value in now.items():
        if (old := before.get(name)) != value:
            raise CommandError(f"--resume: {part} {name} was {old} in {out} and is {value} now; "
                               "repeat it, or start anew in another folder")  # fmt: skip


def machine(fabric: Fabric) -> dict[str, Any]:
    """Describe what the bits of a training depend on beside its settings."""
    cuda = fabric.device.type == "cuda"
    module = _library.load()
    return {
        "torch": torch.__version__,
        "fastloss": fastloss.__version__,
        "commit": host.commit() or "unknown",
        "backend": backends.choose(None, torch.empty(0)),
        "processor": host.processor(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        # built anew by another compiler, the kernels may round otherwise
        "extension": "none" if module is None else digest_of(module.__file__, hashlib.blake2b(digest_size=8)),
        "device": torch.cuda.get_device_name(fabric.device) if cuda else "cpu",
        "processes": fabric.world_size,
        "threads": torch.get_num_threads(),
    }


def digest_of(path: str | Path, algorithm: Any) -> str:
    algorithm.update(Path(path).read_bytes())
    return algorithm.hexdigest()


def start(
    out: Path, chosen: Settings, store: Store, command: dict[str, Any], fabric: Fabric, say: Say, strict: bool = False
) -> None:  # fmt: skip
    """Write what the runs depend on, or compare it with what they were begun with: settings and data must be the
    same; another machine is noted, or refused if `strict`. `command` is what else a resumed command needs."""
    weights = {"weights": digest_of(chosen.weights, hashlib.sha256())} if chosen.weights else {}
    now = {
        "settings": asdict(chosen),
        "data": {"kind": store.kind, "fingerprint": store.fingerprint, "phantom": store.is_phantom,
                 "slices": len(store.slices), "patients": len(store.patients), **_plain(store.settings), **weights},
        "machine": machine(fabric),
        "command": command,
    }  # fmt: skip
    path = out / FILE
    if not path.exists():
        make_folder(out)
        write_json(path, now | {"begun": now_utc()})
        return
    _, before = settings.read(out)
    for part in ("settings", "data", *["machine"] * strict):
        _compare(out, part, before[part], now[part])
    others = before.get("machines", [])
    changed = [f"{name} was {old} and is {now['machine'].get(name)} now" for name, old in before["machine"].items()
               if now["machine"].get(name) != old]  # fmt: skip
    if changed:
        say(f"note: {'; '.join(changed)}: bits may differ from those of one machine")
        if now["machine"] not in others:
            write_json(path, before | {"machines": [*others, now["machine"]]})


def _plain(values: dict) -> dict:
    """Convert to what JSON gives back: tuples are lists."""
    return json.loads(json.dumps(values, default=str))


def train_missing(
    chosen: Settings, splits: dict[int | None, Slices], todo: list[Run], seeds: int, out: Path, fabric: Fabric,
    workers: int, steps: Steps | None = None, keep: bool = False, loggers: Sequence[str] = (),
) -> None:  # fmt: skip
    """Train every run that is not finished; `keep` the last state of each, not only of those that others begin from;
    `loggers` by their names."""

    def connect(run: str, chosen: Settings, step: int) -> Loggers:
        return Loggers(loggers, out, run, chosen, step)

    folder = {run.name: out / "runs" / run.name for run in todo}
    of_epoch = {fold: slices.steps(chosen) * chosen.batch for fold, slices in splits.items()}
    total = sum([run.stage_epochs * of_epoch[run.fold] for run in todo])
    missing = [run for run in todo if not _finished(folder[run.name] / "result.json")]
    done = total - sum([run.stage_epochs * of_epoch[run.fold] for run in missing])
    for run in missing:
        if state := restore(folder[run.name] / CHECKPOINT):
            done += state["place"]["step"] * chosen.batch - run.first * of_epoch[run.fold]
    parents = {run.parent for run in make_runs(chosen, select_rows(chosen, ["all"]), seeds)}
    with watch(total, done) if fabric.is_global_zero else _Silent(total) as view:
        for run in missing:
            parent = folder.get(run.parent) if run.parent else None
            if parent is not None and not (parent / CHECKPOINT).exists():
                parent = None  # same bits, only later
            if fabric.is_global_zero:
                make_folder(folder[run.name])
                write_json(folder[run.name] / "config.json", {"run": run.described, "settings": asdict(chosen)})
            continued = keep or run.name in parents
            train(run, chosen, splits[run.fold], folder[run.name], parent, fabric, workers, view, continued, steps,
                  connect if loggers else None)  # fmt: skip
            if fabric.is_global_zero and not continued:
                (folder[run.name] / CHECKPOINT).unlink(missing_ok=True)
    if fabric.is_global_zero and not chosen.keep_weights:
        for path in (out / "runs").glob("*/*/*.pt"):
            path.unlink()


def _finished(path: Path) -> bool:
    """Tell whether a run is done; CommandError for a result that is not whole."""
    return path.exists() and bool(read_result(path))


@contextmanager
def resumable(say: Say) -> Iterator[None]:
    """Say what an interrupted command can be continued with."""
    try:
        yield
    except KeyboardInterrupt:
        say("Stopped; the same command with --resume continues.", file=sys.stderr)
        raise


class _Silent(Lines):
    """Of every process but the first."""

    def say(self, words: str) -> None:
        pass

"""Trains the rows of a paper's tables, fused losses inside, and leaves logs that `fastloss report` puts beside the
paper's numbers.

Killed at any moment, the same command with --resume continues it. Several GPUs: torchrun --nproc-per-node=N -m
fastloss reproduce …
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fastloss.cli import CommandError, user_path

from . import loggers, plan, session, settings
from .checkpoint import check_writable, read_json, write_json
from .datasets import Store, open_dataset
from .datasets.cli import SETTINGS, parse_setting
from .datasets.prepare import MEMORY
from .datasets.specs import trained_by
from .experiments import PAPERS
from .learner import launch, quiet
from .progress import waiting
from .runs import make_runs, select_rows
from .settings import FILE, PRESETS, Settings
from .slices import load

PEERS = ("smp", "monai", "compiled")
PATIENTS = 12  # of a phantom


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("paper", nargs="?", choices=PAPERS, help="paper1: LeViT-UNet, Dice + focal; paper2: dynamic alteration")
    add("--data", metavar="PATH", help="folder of the dataset, phantom (the default but for preset paper) or demo")
    add("--dataset", choices=sorted({name for paper in PAPERS for name in trained_by(paper)}), help="its layout")
    add("--set", action="append", metavar="NAME=VALUE", help=SETTINGS)
    add("--patients", type=int, metavar="N", help=f"of a phantom (default {PATIENTS})")
    add("--rows", metavar="NAMES", help="tables or rows, by commas; all: the optional ones too")
    add("--seeds", type=int, metavar="N", help="trainings of each row (default 1)")
    add("--preset", choices=PRESETS, help="paper (default), short, or smoke: minutes on two cores")
    add("--config", type=user_path, metavar="FILE", help=f"settings, and from {FILE} also data, rows and seeds, of the "
        "run that wrote it (or of its config.json); what else is named here counts more")  # fmt: skip
    add("--plan", action="store_true", help="say what would be trained, how long and how much disk, and stop; "
        "without --data from the published numbers of slices")  # fmt: skip
    add("--resume", action="store_true", help="continue in --out, with its settings, data, rows and seeds; other rows "
        "or seeds are added")  # fmt: skip
    add("--out", type=user_path, metavar="DIR", help="folder of the results (default runs/PAPER-DATASET)")
    add("--logger", action="append", choices=loggers.NAMES, help="losses, terms, rate and scores by step in DIR/csv, "
        "DIR/tensorboard, or in W&B or MLflow where they are installed; can be repeated")  # fmt: skip
    add("--compare", metavar="PEERS", help=f"time other losses in the same steps: {','.join(PEERS)}")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one")
    add("--jobs", type=int, metavar="N", help="threads that prepare the data (default: all cores)")
    add("--memory", type=float, default=MEMORY, metavar="GIB", help=f"that they may take (default {MEMORY:g})")
    add("--workers", type=int, metavar="N", help="loader processes (default: 2 on a GPU, else none)")
    add("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of the CPU (default: torch's)")
    settings.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run what is missing and return 0; CommandError for bad arguments and bad data, before anything is trained."""
    quiet()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler that counts bytes reports its own doings otherwise
    _check(args)
    chosen, out = _resumed(args) if args.resume else _new(args)
    if not args.plan and os.environ.get("RANK", "0") == "0":
        check_writable(out)
    compare = _peers(args)
    wanted = list(dict.fromkeys(args.logger or []))
    loggers.check(wanted)
    names = args.rows.split(",") if args.rows else None
    seeds = args.seeds or 1
    rows = select_rows(chosen, names)
    todo = make_runs(chosen, rows, seeds)
    torch.set_num_threads(args.threads)
    fabric = launch(chosen, args.device)
    say = print if fabric.is_global_zero else _nothing
    if args.plan and args.data is None:
        counts = {run.fold: plan.published(chosen, run.fold) for run in todo}
        say(plan.describe(chosen, rows, todo, counts, seeds, fabric) + "\nSlices as published.")
        return 0
    store = _open(args, chosen, None if fabric.is_global_zero else _nothing)
    splits = {fold: load(store, chosen, fold) for fold in dict.fromkeys([run.fold for run in todo])}
    if args.plan:
        counts = {fold: (len(slices.train), len(slices.valid)) for fold, slices in splits.items()}
        say(plan.describe(chosen, rows, todo, counts, seeds, fabric))
        return 0
    if fabric.is_global_zero:
        command = {name: getattr(args, name) for name in settings.COMMAND} | {"data": _place(args.data)}
        session.start(out, chosen, store, command, fabric, say)
    fabric.barrier()
    workers = args.workers if args.workers is not None else (2 if fabric.device.type == "cuda" else 0)
    with session.resumable(say):
        session.train_missing(chosen, splits, todo, seeds, out, fabric, workers, loggers=wanted)
        if compare:
            from . import throughput

            throughput.run(chosen, store, rows, compare, out / "throughput.json", fabric)
        if chosen.paper == "paper1" and {"table3", "all"} & set(names or ["table3"]) and fabric.is_global_zero:
            measure_systems(out / "systems.json", fabric.device, repeats=1 if chosen.preset == "smoke" else 5)
    say(f"Done: {len(todo)} trainings in {out}; `fastloss report {out}` puts them beside the paper's numbers.")
    return 0


def _nothing(*_: object, **__: object) -> None:
    pass


def _check(args: argparse.Namespace) -> None:
    least = {"seeds": 1, "threads": 1, "jobs": 1, "workers": 0}
    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and value < low:
            raise CommandError(f"--{name} must be at least {low}, got {value}")
    if not args.memory > 0:
        raise CommandError(f"--memory must be positive, got {args.memory:g}")


def _new(args: argparse.Namespace) -> tuple[Settings, Path]:
    configured = _configured(args) if args.config else {}
    if args.paper is None:
        raise CommandError(f"name the paper, {' or '.join(PAPERS)}")
    preset = args.preset or "paper"
    if args.data is None and preset == "paper" and not args.plan:
        raise CommandError("--data must name the dataset's folder (or phantom, or demo) for preset paper")
    if preset != "paper":
        args.data = args.data or "phantom"
    known = trained_by(args.paper)
    dataset = args.dataset or ("demo" if args.data == "demo" else known[0])
    if dataset not in known or (args.data == "demo") != (dataset == "demo"):
        raise CommandError(f"--dataset of {args.paper} with --data {args.data} must be one of "
                           f"{', '.join([n for n in known if n != 'demo'])}, got {dataset}")  # fmt: skip
    chosen = settings.resolve(args.paper, preset, dataset, configured | settings.read_options(args))
    out = _default_out(args, dataset)
    if not args.plan and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CommandError(f"--out must name a new or empty folder, got {out}; --resume continues a reproduction")
    return chosen, out


def _configured(args: argparse.Namespace) -> dict[str, Any]:
    """Read --config: return its settings, and fill in the rest of what the command line leaves out."""
    found, command = settings.read_config(args.config)
    named = {name: found.pop(name) for name in settings.IDENTITY}
    if named["paper"] not in PAPERS:
        raise CommandError(f"--config: {args.config} is of `fastloss {named['paper']}`")
    for name in ("paper", "preset"):
        if getattr(args, name) not in (None, named[name]):
            raise CommandError(f"--config: {args.config} is of {name} {named[name]}, got {getattr(args, name)}")
    _fill_in(args, named | command)
    return found


def _resumed(args: argparse.Namespace) -> tuple[Settings, Path]:
    """Fill in what the command line leaves out from what the folder was begun with."""
    if args.config:
        raise CommandError("--config cannot be named with --resume, which reads the settings of its folder")
    if args.out is None and args.paper is None:
        raise CommandError("--resume: name the folder with --out, or the paper")
    out = _default_out(args, args.dataset or ("demo" if args.data == "demo" else trained_by(args.paper or "paper1")[0]))
    named = {name: getattr(args, name) for name in ("paper", "preset", "dataset") if getattr(args, name) is not None}
    chosen, record = session.resume(out, named | settings.read_options(args))
    if chosen.paper not in PAPERS:
        raise CommandError(f"--resume: {out} is of `fastloss {chosen.paper}`")
    _fill_in(args, record.get("command", {}))
    if args.data is None:
        raise CommandError(f"--data must name the data again: {out / FILE} does not say where they are")
    return chosen, out


def _fill_in(args: argparse.Namespace, found: dict[str, Any]) -> None:
    for name, value in found.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _default_out(args: argparse.Namespace, dataset: str) -> Path:
    return args.out or Path("runs") / f"{args.paper}-{dataset}"


def _place(data: str) -> str:
    """Say where the data are, from any folder."""
    return data if data in ("phantom", "demo") else str(Path(data).expanduser().absolute())


def _open(args: argparse.Namespace, chosen: Settings, say: Any) -> Store:
    given = dict(map(parse_setting, args.set or []))
    if chosen.augment_first:
        given.setdefault("size", None)
    store = open_dataset(
        args.data, kind=chosen.dataset, settings=given, patients=PATIENTS if args.patients is None else args.patients,
        jobs=args.jobs, memory=args.memory, say=say,
    )  # fmt: skip
    # The losses' mode must be that of the labels.
    if chosen.mode != store.mode and (chosen.mode, store.mode) != ("multilabel", "multiclass"):
        raise CommandError(f"--data {store.folder} has {store.mode} labels, {chosen.paper} needs {chosen.mode} ones")
    return store


def _peers(args: argparse.Namespace) -> list[str]:
    names = args.compare.split(",") if args.compare else []
    for name in names:
        if name not in PEERS:
            raise CommandError(f"--compare takes {', '.join(PEERS)}, got {name!r}")
    return names


def measure_systems(path: Path, device: torch.device, repeats: int) -> None:
    """Measure what paper 1's Table 3 compares, each system once; they do not depend on settings or data."""
    from . import systems

    rows = read_json(path, ("rows",))["rows"] if path.exists() else []
    for name in systems.SYSTEMS:
        if name not in [row["name"] for row in rows]:
            with waiting(f"measuring {name} (Table 3)"):
                rows.append(asdict(systems.measure(name, device, repeats)))
            write_json(path, {"rows": rows})

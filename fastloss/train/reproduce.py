"""Trains the rows of a paper's tables, fused losses inside, and leaves logs that `fastloss report` puts beside the
paper's numbers.

Killed at any moment, the same command with --resume continues it. Several GPUs: torchrun --nproc-per-node=N -m
fastloss reproduce …
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from lightning_fabric import Fabric

from fastloss.cli import CommandError, user_path

from . import demo_settings as machine_settings
from . import plan, settings
from .checkpoint import read_json, restore, write_json
from .datasets import Store, open_dataset
from .datasets.cli import parse_setting
from .datasets.prepare import MEMORY
from .datasets.specs import trained_by
from .experiments import TABLES
from .journal import CHECKPOINT, read_result
from .learner import launch, quiet
from .progress import Lines, waiting, watch
from .runs import Run, runs, selected
from .settings import FILE, PRESETS, Settings
from .slices import Slices, load
from .training import train

PEERS = ("smp", "monai", "compiled")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("paper", nargs="?", choices=tuple(TABLES), help="paper1: LeViT-UNet, Dice + focal; paper2: dynamic alteration")
    add("--data", metavar="PATH", help="folder of the dataset, phantom (the default but for preset paper) or demo")
    add(
        "--dataset", choices=sorted({name for paper in TABLES for name in trained_by(paper)}), help="layout of the data"
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the data (window=[-160,240], labels=btcv …); its names: fastloss data check --help",
    )
    add("--patients", type=int, default=12, metavar="N", help="of a phantom (default 12)")
    add("--rows", metavar="NAMES", help="tables or rows, by commas; all: the optional ones too")
    add("--seeds", type=int, default=1, metavar="N", help="trainings of each row (default 1)")
    add("--preset", choices=PRESETS, default="paper", help="paper (default), short, or smoke: minutes on two cores")
    add("--plan", action="store_true", help="say what would be trained, how long and how much disk, and stop")
    add("--resume", action="store_true", help="continue in --out, with its settings; other rows or seeds are added")
    add("--out", type=user_path, metavar="DIR", help="folder of the results (default runs/PAPER-DATASET)")
    add("--compare", metavar="PEERS", help=f"time other losses in the same steps: {','.join(PEERS)}")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one")
    add("--jobs", type=int, metavar="N", help="threads that prepare the data (default: all cores)")
    add("--memory", type=float, default=MEMORY, metavar="GIB", help=f"that they may take (default {MEMORY:g})")
    add("--workers", type=int, metavar="N", help="loader processes (default: 2 on a GPU, else none)")
    add("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of the CPU (default: torch's)")
    settings.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Runs what is missing and returns 0; CommandError for bad arguments and bad data, before anything is trained."""
    quiet()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler that counts bytes reports its own doings otherwise
    chosen, out = _settings(args)
    compare = _peers(args)
    names = args.rows.split(",") if args.rows else None
    rows = selected(chosen, names)
    todo = runs(chosen, rows, args.seeds)
    torch.set_num_threads(args.threads)
    fabric = launch(chosen, args.device)
    say = print if fabric.is_global_zero else _nothing
    if not args.plan:
        _check_folder(out, args.resume)
    wanted = {"kind": chosen.dataset, "settings": dict(map(parse_setting, args.set)), "patients": args.patients}
    wanted |= {"jobs": args.jobs, "memory": args.memory}
    if chosen.augment_first:
        wanted["settings"].setdefault("size", None)
    store = open_dataset(args.data, **wanted, say=None if fabric.is_global_zero else _nothing)
    _agree(chosen, store)
    splits = {fold: load(store, chosen, fold) for fold in dict.fromkeys([run.fold for run in todo])}
    if args.plan:
        say(plan.text(chosen, rows, todo, splits, args.seeds, fabric))
        return 0
    if fabric.is_global_zero:
        _start(out, chosen, store, args, fabric, say)
    fabric.barrier()
    try:
        _train(chosen, splits, todo, out, args, fabric)
        if compare:
            from . import throughput

            throughput.run(chosen, store, rows, compare, out / "throughput.json", fabric)
        if chosen.paper == "paper1" and {"table3", "all"} & set(names or ["table3"]) and fabric.is_global_zero:
            measure_systems(out / "systems.json", fabric.device, repeats=1 if chosen.preset == "smoke" else 5)
    except KeyboardInterrupt:
        say("Stopped; the same command with --resume continues.", file=sys.stderr)
        raise
    say(f"Done: {len(todo)} trainings in {out}; `fastloss report {out}` puts them beside the paper's numbers.")
    return 0


def _nothing(*_: object, **__: object) -> None:
    pass


def _settings(args: argparse.Namespace) -> tuple[Settings, Path]:
    if args.paper is None:
        raise CommandError(f"name the paper, {' or '.join(TABLES)}")
    if args.seeds < 1:
        raise CommandError(f"--seeds must be at least 1, got {args.seeds}")
    if args.threads < 1:
        raise CommandError(f"--threads must be at least 1, got {args.threads}")
    if args.jobs is not None and args.jobs < 1:
        raise CommandError(f"--jobs must be at least 1, got {args.jobs}")
    if not args.memory > 0:
        raise CommandError(f"--memory must be positive, got {args.memory:g}")
    if args.workers is not None and args.workers < 0:
        raise CommandError(f"--workers must be at least 0, got {args.workers}")
    if args.data is None and args.preset == "paper":
        raise CommandError("--data must name the dataset's folder (or phantom, or demo) for preset paper")
    args.data = args.data or "phantom"
    known = trained_by(args.paper)
    dataset = args.dataset or ("demo" if args.data == "demo" else known[0])
    if dataset not in known or (args.data == "demo") != (dataset == "demo"):
        raise CommandError(f"--dataset of {args.paper} with --data {args.data} must be one of "
                           f"{', '.join([n for n in known if n != 'demo'])}, got {dataset}")  # fmt: skip
    return settings.resolve(args, dataset), args.out or Path("runs") / f"{args.paper}-{dataset}"


def _peers(args: argparse.Namespace) -> list[str]:
    names = args.compare.split(",") if args.compare else []
    for name in names:
        if name not in PEERS:
            raise CommandError(f"--compare takes {', '.join(PEERS)}, got {name!r}")
    return names


def _check_folder(out: Path, resume: bool) -> None:
    if resume and not (out / FILE).exists():
        raise CommandError(f"--resume: no reproduction was started in {out}; run it without --resume")
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CommandError(f"--out must name a new or empty folder, got {out}; --resume continues a reproduction")


def _agree(chosen: Settings, store: Store) -> None:
    """The losses' mode must be that of the labels."""
    if chosen.mode != store.mode and (chosen.mode, store.mode) != ("multilabel", "multiclass"):
        raise CommandError(f"--data {store.folder} has {store.mode} labels, {chosen.paper} needs {chosen.mode} ones")


def _start(
    out: Path, chosen: Settings, store: Store, args: argparse.Namespace, fabric: Fabric, say: Callable[[str], None]
) -> None:  # fmt: skip
    """Writes what the runs depend on, or compares it with what they were begun with: settings and data must be the
    same; another machine is noted."""
    cuda = fabric.device.type == "cuda"
    now = {
        "settings": asdict(chosen),
        "data": {"kind": store.kind, "fingerprint": store.fingerprint, "phantom": store.is_phantom,
                 "slices": len(store.slices), "patients": len(store.patients), **_plain(store.settings),
                 **_digest(chosen.weights)},
        "machine": {
            **machine_settings.machine(),
            "device": torch.cuda.get_device_name(fabric.device) if cuda else "cpu",
            "processes": fabric.world_size,
            "threads": args.threads,
        },
    }  # fmt: skip
    path = out / FILE
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, now)
        return
    before = read_json(path, tuple(now))
    for part in ("settings", "data"):
        for name, value in now[part].items():
            if (old := before[part].get(name)) != value:
                raise CommandError(f"--resume: {part} {name} was {old} in {out} and is {value} now; "
                                   "repeat it, or start anew in another folder")  # fmt: skip
    others = before.get("machines", [])
    changed = [f"{name} was {old} and is {now['machine'].get(name)} now" for name, old in before["machine"].items()
               if now["machine"].get(name) != old]  # fmt: skip
    if changed:
        say(f"note: {'; '.join(changed)}: bits may differ from those of one machine")
        if now["machine"] not in others:
            write_json(path, before | {"machines": [*others, now["machine"]]})


def _digest(weights: str) -> dict[str, str]:
    """Of the file with an encoder's weights, if there is one."""
    return {"weights": hashlib.sha256(Path(weights).read_bytes()).hexdigest()} if weights else {}


def _plain(values: dict) -> dict:
    """As JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(values, default=str))


def _train(
    chosen: Settings, splits: dict[int | None, Slices], todo: list[Run], out: Path, args: argparse.Namespace,
    fabric: Fabric,
) -> None:  # fmt: skip
    folder = {run.name: out / "runs" / run.name for run in todo}
    workers = args.workers if args.workers is not None else (2 if fabric.device.type == "cuda" else 0)
    of_epoch = {fold: slices.steps(chosen) * chosen.batch for fold, slices in splits.items()}
    total = sum([run.stage_epochs * of_epoch[run.fold] for run in todo])
    missing = [run for run in todo if not _finished(folder[run.name] / "result.json")]
    done = total - sum([run.stage_epochs * of_epoch[run.fold] for run in missing])
    for run in missing:
        if state := restore(folder[run.name] / CHECKPOINT):
            done += state["place"]["step"] * chosen.batch - run.first * of_epoch[run.fold]
    parents = {run.parent for run in runs(chosen, selected(chosen, ["all"]), args.seeds)}
    with watch(total, done) if fabric.is_global_zero else _Silent(total) as view:
        for run in missing:
            parent = folder.get(run.parent) if run.parent else None
            if parent is not None and not (parent / CHECKPOINT).exists():
                parent = None  # same bits, only later
            if fabric.is_global_zero:
                folder[run.name].mkdir(parents=True, exist_ok=True)
                write_json(folder[run.name] / "config.json", {"run": run.described, "settings": asdict(chosen)})
            continued = run.name in parents
            train(run, chosen, splits[run.fold], folder[run.name], parent, fabric, workers, view, continued)
            if fabric.is_global_zero and not continued:
                (folder[run.name] / CHECKPOINT).unlink(missing_ok=True)
    if fabric.is_global_zero and not chosen.keep_weights:
        for path in (out / "runs").glob("*/*/*.pt"):
            path.unlink()


def _finished(path: Path) -> bool:
    """Raises CommandError for a result that is not whole."""
    return path.exists() and bool(read_result(path))


def measure_systems(path: Path, device: torch.device, repeats: int) -> None:
    """What paper 1's Table 3 compares, each system once; they do not depend on settings or data."""
    from . import systems

    rows = read_json(path, ("rows",))["rows"] if path.exists() else []
    for name in systems.SYSTEMS:
        if name not in [row["name"] for row in rows]:
            with waiting(f"measuring {name} (Table 3)"):
                rows.append(asdict(systems.measure(name, device, repeats)))
            write_json(path, {"rows": rows})


class _Silent(Lines):
    """Of every process but the first."""

    def say(self, words: str) -> None:
        pass

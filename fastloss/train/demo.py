"""Losses on 3D logits, then a small network trained on slices of a real MRI volume, fused and unfused side by side.

The default takes a few minutes on two cores. It can be interrupted at any moment; `--resume` continues it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from fastloss.cli import CommandError, user_path

from . import losses3d, models, session, settings
from .checkpoint import read_json, read_log, restore, write_json
from .contenders import measure_memory
from .datasets.augment import generator
from .datasets.readers import mni152
from .evaluation import foreground
from .experiments import rows
from .journal import CHECKPOINT
from .learner import Learner, launch, quiet
from .metrics import Thresholds, fit_thresholds
from .progress import waiting
from .report import demo as tables
from .report import figures, page, summary
from .report.results import Reproduction, read
from .runs import folders, make_runs
from .settings import FILE, Settings
from .side_by_side import SideBySide, pair_with_smp
from .slices import Slices, load
from .text import wrap

PRODUCTS = ("runs", "losses3d.json", "curves.png", "masks.png", "report.md", "report.html", FILE)
FULL = {"epochs": 30, "size": 128, "seeds": 2}
QUICK = {"epochs": 2, "size": 64, "seeds": 1}
LEAST = {"epochs": 2, "size": 32, "seeds": 1}
MOST = {"epochs": 10_000, "size": 192, "seeds": 100}  # the slices have 189 pixels of brain across


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--epochs", type=int, metavar="N", help=f"epochs of each training (default {FULL['epochs']})")
    add("--size", type=int, metavar="N", help=f"side of the slices in pixels (default {FULL['size']})")
    add("--seeds", type=int, metavar="N", help=f"trainings of each method (default {FULL['seeds']})")
    add("--out", type=user_path, default=Path("runs/demo"), metavar="DIR", help="folder of results (default runs/demo)")
    add("--resume", action="store_true", help="continue the interrupted demo in the folder, with its settings")
    add("--paper-model", action="store_true", help="smp's U-Net/EfficientNet-B0 (about 10 x slower)")
    add("--quick", action="store_true", help="a minute, small and untrained: does everything run?")


def main(args: argparse.Namespace) -> int:
    """Run the demo and return 0; CommandError for bad arguments and bad data, before anything is trained."""
    quiet()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler that counts bytes reports its own doings otherwise
    chosen, seeds = _resumed(args) if args.resume else _new(args)
    with waiting("reading the MNI152 slices"):
        slices = load(mni152.training_store(chosen.size), chosen, None)
    fabric = launch(chosen, "cpu")
    if not args.resume:
        _empty(args.out)
    session.start(args.out, chosen, slices.store, {"seeds": seeds}, fabric, print, strict=True)
    with session.resumable(print):
        _run(chosen, seeds, args.out, slices, fabric)
    return 0


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line names."""
    found = {name: getattr(args, name) for name in ("epochs", "size") if getattr(args, name) is not None}
    return found | ({"model": models.PAPER} if args.paper_model else {})


def _new(args: argparse.Namespace) -> tuple[Settings, int]:
    preset = "quick" if args.quick else "full"
    numbers = {name: value if getattr(args, name) is None else getattr(args, name)
               for name, value in (QUICK if args.quick else FULL).items()}  # fmt: skip
    for name, value in numbers.items():
        if not LEAST[name] <= value <= MOST[name]:
            raise CommandError(f"--{name} must be between {LEAST[name]} and {MOST[name]}, got {value}")
    out: Path = args.out
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not _is_demo(out))):
        raise CommandError(f"--out must name a new or empty folder or that of an earlier demo, got {out}")
    seeds = numbers.pop("seeds")
    return settings.resolve("demo", preset, "demo", numbers | _asked(args)), seeds


def _is_demo(out: Path) -> bool:
    return (out / FILE).exists() and read_json(out / FILE, ("settings",))["settings"].get("paper") == "demo"


def _resumed(args: argparse.Namespace) -> tuple[Settings, int]:
    asked = _asked(args) | ({"preset": "quick"} if args.quick else {})
    chosen, record = session.resume(args.out, {"paper": "demo"} | asked, "demo")
    seeds = record["command"]["seeds"]
    if args.seeds not in (None, seeds):
        raise CommandError(f"--resume: --seeds was {seeds} in {args.out} and is {args.seeds} now; repeat it, or start "
                           "anew in another folder")  # fmt: skip
    torch.set_num_threads(record["machine"]["threads"])
    return chosen, seeds


def _empty(out: Path) -> None:
    """Without the results of an earlier demo."""
    for name in PRODUCTS:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


def _run(chosen: Settings, seeds: int, out: Path, slices: Slices, fabric: Fabric) -> None:
    started = time.monotonic()
    alone = tables.losses_alone(_measure_alone(chosen, out / "losses3d.json"), torch.get_num_threads())
    print(f"\n{page.plain(alone)}\n", flush=True)

    store = slices.store
    images, masks = (torch.from_numpy(array)[:, None] for array in (store.images, store.labels))
    train, valid = list(slices.train), list(slices.valid)
    fitted_on = mni152.degrade_once(store.images[train], [store.slices[row].z for row in train])
    thresholds = fit_thresholds(torch.from_numpy(fitted_on)[:, None], masks[train])
    baseline = thresholds.scores(images[valid], masks[valid])
    introduction = _introduction(chosen, seeds, slices, fabric)
    print(wrap(*introduction), flush=True)
    todo = make_runs(chosen, rows(chosen), seeds)
    session.train_missing(chosen, {None: slices}, todo, seeds, out, fabric, 0, SideBySide(), keep=True)

    found = read(out)
    logits = torch.randn(masks[valid][: chosen.batch].shape, generator=generator(mni152.FIXED))
    kept = _kept(found, logits, masks[valid][: chosen.batch])
    results = [tables.scores(found, baseline), tables.step_times(found, kept, logits.nbytes)]
    logs = {row.title: [read_log(out / "runs" / name / "epochs.csv")
                        for name in folders(chosen, row, seeds).values()] for row in found.rows}  # fmt: skip
    switch = {row.title: row.schedule.stages[1][0] for row in found.rows if row.altered}
    pictures = [figures.demo_curves(logs, switch, baseline.dice), _masks(found, slices, thresholds, fabric)]
    title = f"fastloss demo: MNI152 deep grey matter, {chosen.size} px, {seeds} seed(s)"
    blocks: list[page.Block] = [
        *tables.beginning(found), page.Heading("In 3D, without a network"), alone,
        page.Heading("In training, on slices"), page.Words(introduction, "Data and network"), *results, *pictures,
        summary.settings_table(found),
    ]  # fmt: skip
    written = page.write(out, title, blocks)
    seconds = round(time.monotonic() - started)
    print("", *[page.plain(block) + "\n" for block in results], sep="\n")
    print(f"Written in {seconds // 60}:{seconds % 60:02d} min:")
    for path, what in ((written[0], "all of this; report.html with the pictures in it"),
                       (out / "curves.png", "losses and Dice by epoch, the switch marked"),
                       (out / "masks.png", "masks beside the truth"), (out / "runs", "logs and weights")):  # fmt: skip
        print(f"  {path}  {what}")


def _measure_alone(chosen: Settings, path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        with waiting("timing Dice + CE and Dice + Focal on 14 classes in 3D (about 20 s)"):
            write_json(path, {"rows": losses3d.measure(chosen.preset == "quick")})
    return read_json(path, ("rows",))["rows"]


def _introduction(chosen: Settings, seeds: int, slices: Slices, fabric: Fabric) -> list[str]:
    parameters = sum(p.numel() for p in Learner(chosen, 1, 0, 1, fabric).net.parameters()) / 1e6
    filled = sum([slices.store.slices[row].positive for row in slices.valid])
    share = f"{slices.store.labels[list(slices.train)].mean():.1%}"
    return [
        f"MNI152 T1, ONE averaged brain. Axial 1 mm slices in slabs, {len(slices.train)} to train and "
        f"{len(slices.valid)} to validate, {mni152.GAP} mm left out between.",
        f"Target: grey matter more than {mni152.DEPTH_MM} mm inside its slice ({share} of the pixels; {filled} of the "
        "validation slices have some). Thresholds alone reach Dice 0.96 on all grey or all white matter; this part has "
        "the intensity of the cortex, so it takes position and shape. A bias field and noise are added.",
        f"{chosen.model}, {parameters:.2f} M parameters, {chosen.size} px, {chosen.epochs} epochs, {seeds} seed(s), "
        f"{torch.get_num_threads()} thread(s), backend {session.machine(fabric)['backend']}.",
    ]


def _kept(found: Reproduction, logits: Tensor, y: Tensor) -> dict[str, tuple[int, int]]:
    """The most bytes that fastloss and smp keep for backward, over the losses of each row."""
    kept = {}
    for row in found.rows:
        pairs = [pair_with_smp(loss, tuple(logits.shape)) for loss in row.schedule.losses]
        kept[row.name] = max([tuple([measure_memory(c, logits, y)["kept_bytes"] for c in pair]) for pair in pairs])
    return kept


def _pictured(slices: Slices) -> list[int]:
    """Return the validation slice with the largest truth, a middle and a small one."""
    store = slices.store
    filled = [row for row in slices.valid if store.slices[row].positive] or list(slices.valid)
    filled.sort(key=lambda row: int(store.label(row).sum()), reverse=True)
    return [filled[int(share * (len(filled) - 1))] for share in (0, 0.5, 0.9)]


def _masks(found: Reproduction, slices: Slices, thresholds: Thresholds, fabric: Fabric) -> page.Figure:
    """Those slices, by the thresholds and by each method's network of seed 0."""
    chosen, store, at = found.settings, slices.store, _pictured(slices)
    images = torch.from_numpy(store.images[at])[:, None]
    guesses = {"thresholds": thresholds(images)[:, 0]}
    learner = Learner(chosen, 1, 0, 1, fabric)
    for row in found.rows:
        folder = found.folder / "runs" / folders(chosen, row, 1)[0, None]
        learner.net.load_state_dict(restore(folder / CHECKPOINT)["learner"]["net"])
        learner.net.eval()
        guesses[row.title] = foreground(images, chosen, slices, learner)[:, 0]
    truth = torch.from_numpy(store.labels[at])
    return figures.demo_masks(images[:, 0], truth, guesses, [store.slices[row].z for row in at])

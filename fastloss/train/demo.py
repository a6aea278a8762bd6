"""Losses on 3D logits, then a small network trained on slices of a real MRI volume, fused and unfused side by side.

The default takes a few minutes on two cores. It can be interrupted at any moment; `--resume` continues it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch

from fastloss import BCEWithLogitsLoss, IoULoss, LossSchedule

from . import data, loop, losses3d, plots, side_by_side
from . import demo_report as report
from . import demo_settings as settings
from .checkpoint import read_json, write_atomically, write_json
from .demo_settings import Settings
from .metrics import EMPTY_RULE, Scores, fit_thresholds
from .progress import waiting, watch

ALTERED = "IoU → BCE"
VERDICT = (
    "One brain, the average of 152, a target chosen so that thresholds fail, and few short trainings: this shows the "
    "software at work and is no evidence for or against the paper on dynamic loss alteration."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    settings.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Runs the demo and returns 0; CommandError for bad arguments and bad data, before anything is trained."""
    chosen = settings.prepare(args)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler that counts bytes reports its own doings otherwise
    torch.set_num_threads(chosen.threads)
    with waiting("reading the MNI152 slices"):
        train_set, valid_set = data.load(chosen.size)
    if not args.resume:
        settings.start(args.out, chosen)
    try:
        _run(chosen, args.out, train_set, valid_set)
    except KeyboardInterrupt:
        print("Stopped; the same command with --resume continues.", file=sys.stderr)
        raise
    return 0


def methods(epochs: int) -> dict[str, LossSchedule]:
    """The losses that are compared, in the loss algebra; the last one is altered at half time."""
    iou, bce = IoULoss("binary"), BCEWithLogitsLoss("binary")
    return {
        "IoU": LossSchedule([(0, iou)]),
        "BCE": LossSchedule([(0, bce)]),
        "IoU + BCE": LossSchedule([(0, iou + bce)]),
        ALTERED: LossSchedule([(0, iou), (epochs // 2, bce)]),
    }


def _run(chosen: Settings, out: Path, train_set: data.Slices, valid_set: data.Slices) -> None:
    started = time.monotonic()
    alone = _losses_alone(chosen, out / "losses3d.json")
    print(f"\n{alone}\n", flush=True)

    fitted_on = train_set.degraded()
    thresholds = fit_thresholds(fitted_on.images, fitted_on.masks)
    baseline = thresholds.scores(valid_set.images, valid_set.masks)
    introduction = _introduction(chosen, train_set, valid_set)
    print(introduction, flush=True)
    runs = [
        loop.Run(method, seed, chosen.epochs, chosen.size, chosen.model)
        for seed in range(chosen.seeds)
        for method in methods(chosen.epochs)
    ]
    folders = {run: out / "runs" / run.name for run in runs}
    _train(runs, folders, train_set, valid_set)

    by_method = {name: [folders[run] for run in runs if run.method == name] for name in methods(chosen.epochs)}
    results = _results(chosen, by_method, baseline, valid_set)
    title = f"MNI152 deep grey matter, {chosen.size} px, {chosen.seeds} seed(s); no evidence for the paper"
    switch = {ALTERED: chosen.epochs // 2}
    plots.curves(out / "curves.png", by_method, switch, baseline.dice, title)
    _draw_masks(out / "masks.png", runs, folders, thresholds, valid_set, title)
    page = f"# fastloss demo\n\n{alone}\n\n{introduction}\n\n{results}\n"
    write_atomically(out / "report.md", lambda file: file.write(page.encode()))
    seconds = round(time.monotonic() - started)
    print(f"\n{results}\n\nWritten in {seconds // 60}:{seconds % 60:02d} min:")
    for name, what in (("report.md", "all of this"), ("curves.png", "losses and Dice by epoch, the switch marked"),
                       ("masks.png", "masks beside the truth"), ("runs", "logs and weights")):  # fmt: skip
        print(f"  {out / name}  {what}")


def _losses_alone(chosen: Settings, path: Path) -> str:
    if not path.exists():
        with waiting("timing Dice + CE and Dice + Focal on 14 classes in 3D (about 20 s)"):
            write_json(path, {"rows": losses3d.measured(chosen.quick)})
    return losses3d.text(read_json(path, ("rows",))["rows"], chosen.threads)


def _introduction(chosen: Settings, train_set: data.Slices, valid_set: data.Slices) -> str:
    model = loop.models.build(chosen.model, 0)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    filled = int((valid_set.masks.flatten(1).sum(1) > 0).sum())
    share = f"{train_set.masks.float().mean():.1%}"
    return report.wrapped(
        f"Training: MNI152 T1, ONE averaged brain. Axial 1 mm slices in slabs, {len(train_set)} to train and "
        f"{len(valid_set)} to validate, {data.GAP} mm left out between.",
        f"Target: grey matter more than {data.DEPTH_MM} mm inside its slice ({share} of the pixels; {filled} of the "
        "validation slices have some). Thresholds alone reach Dice 0.96 on all grey or all white matter; this part has "
        "the intensity of the cortex, so it takes position and shape. A bias field and noise are added.",
        f"{chosen.model}, {parameters:.2f} M parameters, {chosen.size} px, {chosen.epochs} epochs, "
        f"{chosen.seeds} seed(s), {chosen.threads} thread(s), backend {chosen.backend}.",
    )


def _train(runs: list[loop.Run], folders: dict[loop.Run, Path], train_set: data.Slices, valid_set: data.Slices) -> None:
    """Every run that is not finished."""
    missing = [run for run in runs if not (folders[run] / "result.json").exists()]
    images = len(train_set) * runs[0].epochs
    begun = sum(loop.steps_done(folders[run]) * run.batch for run in missing)
    with watch(images * len(runs), images * (len(runs) - len(missing)) + begun) as view:
        for run in missing:
            loop.train(run, methods(run.epochs)[run.method], train_set, valid_set, folders[run], view)


def _results(chosen: Settings, by_method: dict[str, list[Path]], baseline: Scores, valid_set: data.Slices) -> str:
    y = valid_set.masks[: loop.Run.batch]
    logits = torch.randn(y.shape, generator=data.generator(data.FIXED))
    kept = {}
    for name, schedule in methods(chosen.epochs).items():
        stages = [(loss, side_by_side.of_smp(loss)) for loss in schedule.losses]
        counts = [
            (side_by_side.kept_bytes(a, logits, y), side_by_side.kept_bytes(b, logits, y.float())) for a, b in stages
        ]
        kept[name] = max(counts)
    summaries = [report.summarise(name, folders) for name, folders in by_method.items()]
    names = ("value_gap", "gradient_gap", "error", "smp_error")
    value, gradient, error, smp_error = [report.worst([getattr(s, name) for s in summaries]) for name in names]
    notes = report.wrapped(
        "Mean ± sd over the seeds, after the last epoch; Adam's state and its cosine carry over the switch. "
        + EMPTY_RULE,
        "Loss time: forward, and backward to the logits, inside the real steps, medians; its share of the step. Kept: "
        f"bytes for backward beyond logits and masks ({report.size_of(logits.nbytes)} of logits).",
        f"fastloss and smp on the same logits in all {sum(s.steps for s in summaries)} steps: values differ by at most "
        f"{value:.1e}, gradients by {gradient:.1e} of their norm. In every {loop.JUDGE_EVERY}th step smp in float64 "
        f"says whose error that is: fastloss's gradient is off by at most {error:.1e}, smp's by {smp_error:.1e}.",
        VERDICT,
    )
    return f"{report.training_table(summaries, kept, baseline)}\n{notes}"


def _draw_masks(path, runs, folders, thresholds, valid_set: data.Slices, title: str) -> None:
    filled = [row for row in range(len(valid_set)) if valid_set.masks[row].any()] or list(range(len(valid_set)))
    chosen = valid_set.pick([filled[int(share * (len(filled) - 1))] for share in (0.25, 0.5, 0.75)])
    found = {"thresholds": thresholds(chosen.images)[:, 0]}
    for run in runs:
        if run.seed == 0:
            found[run.method] = (loop.predict(loop.trained(run, folders[run]), chosen) >= 0)[:, 0]
    plots.masks(path, chosen.images[:, 0], chosen.masks[:, 0], found, chosen.z.tolist(), title)

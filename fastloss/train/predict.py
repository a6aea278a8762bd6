"""Writes what a network trained by `fastloss reproduce` or `fastloss demo` finds in volumes, as labels on their grid.

Images pass through the same steps as in training; labels have the numbers of the dataset's files.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastloss.cli import CommandError, user_path

from . import settings
from .checkpoint import check_writable, make_folder, restore, write_atomically
from .datasets import grids
from .datasets.settings import class_names, label_map
from .datasets.specs import get
from .journal import CHECKPOINT
from .learner import Learner, launch, quiet
from .overlay import draw


class Found(NamedTuple):
    """What was written of one volume: labels, the overlay or None, voxels of each class but the background."""

    labels: Path
    overlay: Path | None
    voxels: dict[str, int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=user_path, metavar="RUN", help="folder of a training (DIR/runs/split/NAME), or DIR if it has one")
    add("inputs", type=user_path, nargs="+", metavar="INPUT", help="NIfTI volumes (Synapse: TransUNet's .npy.h5), or "
        "folders of them")  # fmt: skip
    add("--out", type=user_path, required=True, metavar="DIR", help="folder of NAME.nii.gz; nothing there is replaced")
    add("--overlay", action="store_true", help="also NAME.png: the slice with the largest prediction")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one")


def main(args: argparse.Namespace) -> int:
    """Predict and return 0; CommandError, before anything is computed, for a run, input or output that does not fit."""
    quiet()
    for found in predict(args.run, args.inputs, args.out, args.overlay, args.device):
        voxels = ", ".join([f"{name} {count:,}" for name, count in found.voxels.items()])
        print(f"{found.labels}: {voxels} voxels", flush=True)
    return 0


def predict(
    run: str | Path, inputs: Iterable[str | Path], out: str | Path, overlay: bool = False, device: str = "auto"
) -> Iterable[Found]:
    """Write `out`/NAME.nii.gz, uint8 labels with size, orientation, spacing and affine of the input, for each volume.

    Args:
        run: the folder of a training.
        inputs: volumes, or folders of them; NAME is a file's name without its ending.
        overlay: draw `out`/NAME.png too, the slice with the largest prediction.
        device: "auto", "cpu" or "cuda".

    Returns:
        An iterator: each volume is computed when it is asked for, after all have been checked by their headers.

    Raises:
        CommandError: no weights, a header or the folder `out` does not fit, or an output exists; when its turn
            comes for a volume that is broken behind its header.
    """
    predictor = Predictor(run, device)
    out = Path(out)
    paths = _volumes([Path(path) for path in inputs], predictor.kind)
    names = [grids.stem(path, predictor.kind) for path in paths]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise CommandError(f"{paths[names.index(name)]} and {paths[at]} would both become {out / name}.nii.gz")
        for ending in (".nii.gz", *[".png"] * overlay):
            if (out / f"{name}{ending}").exists():
                raise CommandError(f"{out / name}{ending} exists; remove it, or name another --out")
    for path in paths:
        grids.check(path, predictor.kind)
    check_writable(out)
    predictor.load()
    return _each(predictor, paths, names, out, overlay)


def _each(predictor: Predictor, paths: list[Path], names: list[str], out: Path, overlay: bool) -> Iterable[Found]:
    make_folder(out)
    for path, name in zip(paths, names):
        volume = grids.read(path, predictor.kind)
        labels = predictor(volume.slices, path)
        content = gzip.compress(volume.back(predictor.numbers[labels]).to_bytes(), compresslevel=6, mtime=0)
        target, picture = out / f"{name}.nii.gz", out / f"{name}.png"
        write_atomically(target, lambda file, content=content: file.write(content))
        if overlay:
            image = draw(volume.slices, labels)
            write_atomically(picture, lambda file, image=image: image.save(file, format="png"))
        counts = np.bincount(labels.ravel(), minlength=len(predictor.classes) + 1)[1:]
        yield Found(target, picture if overlay else None, dict(zip(predictor.classes, counts.tolist())))


def _volumes(inputs: list[Path], kind: str) -> list[Path]:
    """List files, and what is in folders; CommandError for a path that is not there or a folder without volumes."""
    ends, found = grids.endings(kind), []
    for path in inputs:
        if not path.exists():
            raise CommandError(f"{path} does not exist")
        inside = [path]
        if path.is_dir():
            inside = sorted([each for each in path.iterdir() if each.name.endswith(ends) and each.name[0] != "."])
        if not inside:
            raise CommandError(f"the folder {path} holds no volume in {' or '.join(ends)}")
        found += inside
    return found


class Predictor:
    """A trained network, and what brings slices to it and its answer back.

    Attributes: kind (of the dataset), classes (their names, without the background), numbers (uint8, of each class in
    the dataset's files).
    """

    def __init__(self, run: str | Path, device: str = "auto") -> None:
        """Read what a training was begun with; CommandError if the folder is none, or has no weights."""
        self.folder = _training(Path(run).absolute())
        places = [path for path in self.folder.parents if (path / settings.FILE).exists()]
        if not places:
            raise CommandError(f"{settings.FILE} is missing in the folders above {self.folder}; keep them together")
        self.settings, record = settings.read(places[0])
        self.kind, self.device = record["data"]["kind"], device
        self.data = dict(get(self.kind).settings) | record["data"]
        names = class_names(self.kind, self.data)
        self.channels, self.multiclass = len(names), get(self.kind).mode == "multiclass"
        self.classes = names[1:] if self.multiclass else names
        grids.endings(self.kind)
        self.numbers = self.file_numbers()

    def file_numbers(self) -> np.ndarray:
        """Return, by class, its number in the files of the dataset: the smallest of those that are mapped to it."""
        known = label_map(self.kind, self.data)
        of_class = [[raw for raw, value in known.items() if value == at] for at in range(len(self.classes) + 1)]
        return np.array([min(raw, default=at) for at, raw in enumerate(of_class)], np.uint8)

    def load(self) -> Predictor:
        """Make the network; CommandError if the weights are not of it, or there is no such device."""
        chosen = replace(self.settings, pretrained=False, weights="", compile=False)
        self.learner = Learner(chosen, self.channels, 0, 1, launch(chosen, self.device))
        path, state = _weights(self.folder, chosen.score)
        try:
            self.learner.net.load_state_dict(state)
        except RuntimeError as error:
            raise CommandError(f"{path} does not hold the weights of {chosen.model}") from error
        self.learner.net.eval()
        return self

    @torch.inference_mode()
    def __call__(self, slices: np.ndarray, where: object = "the volume") -> np.ndarray:
        """Return the classes, uint8 [D, H, W], of slices float32 [D, H, W] as `grids.read` gives them."""
        chosen = self.settings
        try:
            images = grids.prepare(slices, self.kind, self.data, chosen.size, chosen.paper == "demo")
        except ValueError as error:
            raise CommandError(f"{where} cannot be used: {error}") from error
        labels = []
        for x in torch.from_numpy(images)[:, None].split(chosen.valid_batch):
            with self.learner.fabric.autocast():
                labels.append(self._classes(self.learner.net(self.learner.move(x)).float().cpu()))
        return grids.restore(torch.cat(labels).numpy(), self.kind, slices.shape[1:])

    def _classes(self, logits: Tensor) -> Tensor:
        """Decide as in training; where classes are one-vs-rest and overlap, the one with the largest logit counts."""
        if self.settings.mode == "multiclass":
            return logits.argmax(1).to(torch.uint8)
        ours = logits[:, 1:] if self.multiclass else logits
        best, at = ours.max(1)
        return torch.where(best.sigmoid() >= self.learner.threshold, at + 1, 0).to(torch.uint8)


def _training(run: Path) -> Path:
    """Find the folder of one training; CommandError if there is none, or several."""
    if (run / "config.json").is_file():
        return run
    if not (run / "runs").is_dir():
        raise CommandError(
            f"{run} is no folder of `fastloss reproduce` or `fastloss demo`: it has no runs/ or config.json"
        )
    found = sorted([path.parent for path in (run / "runs").glob("*/*/config.json")])
    usable = [path for path in found if any(path.glob("*.pt"))]
    if len(usable) == 1:
        return usable[0]
    if not usable:
        raise CommandError(f"no training in {run} has weights; train with --keep-weights")
    names = ", ".join([str(path.relative_to(run)) for path in usable])
    raise CommandError(f"{run} has {len(usable)} trainings with weights, name one of them: {names}")


def _weights(folder: Path, score: str) -> tuple[Path, dict[str, Any]]:
    """Read the weights of the epoch whose scores the tables show, else those that there are."""
    best = sorted(folder.glob("best-*.pt"))[-1:]
    last = [folder / CHECKPOINT] if (folder / CHECKPOINT).exists() else []
    for path in best + last if score == "best" else last + best:
        state = restore(path)
        try:
            return path, state["learner"]["net"] if path.name == CHECKPOINT else state["net"]
        except (KeyError, TypeError) as error:
            raise CommandError(f"{path} is damaged: it holds no network") from error
    raise CommandError(f"{folder} has no weights; train with --keep-weights")

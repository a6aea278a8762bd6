"""Everything that the numbers of a reproduction depend on, as one flat, frozen record and as command-line options.

Each field that the papers leave open, or print wrongly, is a setting here with the reading that we take as its default.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fastloss.cli import CommandError

from . import levit_unet, models
from .checkpoint import read_json
from .datasets import augment
from .datasets.specs import get
from .metrics import EMPTY

FILE = "reproduction.json"  # in the folder of a reproduction: what its runs depend on
IDENTITY = ("paper", "preset", "dataset")  # which defaults the others have
# what else of the command line a folder records
COMMAND = {"data": str, "set": list, "patients": int, "rows": str, "seeds": int, "logger": list}
PRESETS = ("paper", "short", "smoke")  # of the papers


def _setting(default: Any, help: str, choices: Sequence[Any] = (), least: float | None = None) -> Any:
    return field(default=default, metadata={"help": help, "choices": tuple(choices), "least": least})


@dataclass(frozen=True)
class Settings:
    """Sizes in pixels, rates as the optimiser takes them, epochs counted for the longest rows."""

    paper: str
    preset: str
    dataset: str
    model: str = _setting("", f"network: {', '.join(models.NAMES)}")
    pretrained: bool = _setting(False, "the encoder's ImageNet weights, which are downloaded", (True, False))
    weights: str = _setting("", "a file with those weights (.pth, .safetensors), which is read instead")
    normalise: str = _setting("none", "grey in [0, 1] enters as it is, or by ImageNet's mean", ("none", "imagenet"))
    size: int = _setting(256, "side of the slices in pixels", least=32)
    epochs: int = _setting(100, "epochs of the longest rows; a switch lies at half of them", least=2)
    batch: int = _setting(32, "slices of a step, over all processes", least=1)
    valid_batch: int = _setting(32, "slices of a validation step", least=1)
    train_limit: int = _setting(0, "use no more training slices than this (0: all)", least=0)
    valid_limit: int = _setting(0, "use no more validation slices than this (0: all)", least=0)
    folds: int = _setting(5, "folds of the cross-validation", least=2)
    split: str = _setting("", "patient:80/20, or 70/10/20 with a test part; index:80/20 (of slices); official; kfold:5")
    augment: str = _setting("none", "of the training slices", tuple(augment.BY_NAME))
    augment_first: bool = _setting(False, "before the resize as TransUNet does, on slices stored whole", (True, False))
    split_seed: int = _setting(0, "seed of the split and of the folds", least=0)

    rate: float = _setting(1e-4, "Adam's learning rate", least=0.0)
    weight_decay: float = _setting(0.0, "Adam's weight decay", least=0.0)
    rate_schedule: str = _setting("plateau", "how the rate falls", ("plateau", "cosine", "constant"))
    plateau_factor: float = _setting(0.1, "factor of the rate on a plateau of validation Dice", least=0.0)
    plateau_patience: int = _setting(10, "epochs without improvement before that", least=0)
    reset_optimizer: bool = _setting(False, "forget Adam's moments when the loss is altered", (True, False))
    reset_rate: bool = _setting(False, "go back to the first learning rate when the loss is altered", (True, False))

    topk: float = _setting(0.6, "kept share of TopK (0.006 reads the paper's 0.6 as percent)", least=0.0)
    focal_gamma: float = _setting(2.0, "focusing exponent of focal", least=0.0)
    tversky_fp: float = _setting(0.3, "Tversky's weight of false positives", least=0.0)
    tversky_fn: float = _setting(0.7, "Tversky's weight of false negatives", least=0.0)
    jaccard_numerator: int = _setting(1, "2 is the paper's eq. 5 as printed", (1, 2))
    balance: float = _setting(100.0, "weight of BCE in iou+bce-balanced, about the ratio of their sizes", least=0.0)
    baseline: str = _setting("template", "0.5 BCE + 0.5 Tversky, or CE + Dice", ("template", "levit-unet"))
    activation: str = _setting("softmax", "of paper 1's classes; sigmoid is one-vs-rest", ("softmax", "sigmoid"))
    double_sigmoid: bool = _setting(False, "the network's own sigmoid before the losses'", (True, False))

    average: str = _setting("image", "scores averaged over slices, pooled, or by patient", ("image", "pooled", "case"))
    empty: str = _setting("skip", f"score where there is no truth: {'; '.join(EMPTY.values())}", EMPTY)
    score: str = _setting("best", "epoch whose scores the tables show", ("best", "last"))
    best_of: str = _setting("switch", "the best epoch of all, or of those since the last switch", ("switch", "all"))

    volumes: bool = _setting(False, "HD95 and Dice by organ of whole volumes, original grid", (True, False))

    precision: str = _setting("32-true", "arithmetic of the network", ("32-true", "bf16-mixed", "64-true"))
    channels_last: bool = _setting(True, "memory format of the network", (True, False))
    keep_weights: bool = _setting(True, "keep the best network of every training", (True, False))
    compile: bool = _setting(False, "torch.compile the network", (True, False))
    deterministic: bool = _setting(False, "same bits on CUDA too, at some cost", (True, False))

    @property
    def mode(self) -> str:
        """Of the losses."""
        of_labels = get(self.dataset).mode
        return "multilabel" if of_labels == "multiclass" and self.activation == "sigmoid" else of_labels


OPTIONS = [item for item in fields(Settings) if item.metadata]
_PAPER2 = {"model": models.PAPER, "activation": "sigmoid"}
_PAPER1 = {"model": models.LEVIT, "size": 224, "epochs": 30, "batch": 8, "valid_batch": 16, "rate": 2e-3}
_PAPER1 |= {"weight_decay": 1e-6, "rate_schedule": "cosine"}
_FEW = {"epochs": 2, "train_limit": 8, "valid_limit": 8, "keep_weights": False}
_DEMO = {"model": models.SMALL, "size": 128, "epochs": 30, "batch": 8, "valid_batch": 16, "rate": 3e-3}
_DEMO |= {"rate_schedule": "cosine", "augment": "mri", "split": "official", "score": "last"}
DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("paper2", "paper"): _PAPER2 | {"pretrained": True},
    ("paper2", "short"): _PAPER2 | {"epochs": 10, "plateau_patience": 2},
    ("paper2", "smoke"): _PAPER2 | _FEW | {"size": 64, "batch": 4, "valid_batch": 8},
    ("paper1", "paper"): _PAPER1 | {"pretrained": True},
    ("paper1", "short"): _PAPER1 | {"epochs": 3},
    ("paper1", "smoke"): _PAPER1 | _FEW | {"model": "levit-unet-128s", "batch": 2, "valid_batch": 4},
    ("demo", "full"): _DEMO,
    ("demo", "quick"): _DEMO | {"epochs": 2, "size": 64},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one option for each setting, without a default: what is not given is the preset's."""
    group = parser.add_argument_group("settings (defaults depend on the paper and the preset)")
    for item in OPTIONS:
        kind, choices = type(item.default), list(item.metadata["choices"])
        words: dict[str, Any] = {"help": item.metadata["help"], "dest": item.name}
        if kind is bool:
            group.add_argument(_flag(item.name), action=argparse.BooleanOptionalAction, **words)
        else:
            metavar = {} if choices else {"metavar": {"int": "N", "float": "X", "str": "NAME"}[kind.__name__]}
            group.add_argument(_flag(item.name), type=kind, choices=choices or None, **metavar, **words)


def defaults(paper: str, preset: str, dataset: str) -> dict[str, Any]:
    """Return every setting as a preset has it."""
    own = {item.name: item.default for item in OPTIONS}
    data = get(dataset)
    return own | {"split": data.split} | data.training | DEFAULTS[paper, preset]


def read_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the command line names."""
    found = {item.name: getattr(args, item.name, None) for item in OPTIONS}
    return {name: value for name, value in found.items() if value is not None}


def resolve(paper: str, preset: str, dataset: str, given: Mapping[str, Any]) -> Settings:
    """Put the given settings into the preset's; CommandError names the option that is out of range."""
    settings = Settings(paper, preset, dataset, **(defaults(paper, preset, dataset) | given))
    for item in OPTIONS:
        value, least = getattr(settings, item.name), item.metadata["least"]
        if least is not None and value < least:
            raise CommandError(f"{_flag(item.name)} must be at least {least}, got {value}")
    if not 0 < settings.topk <= 1:
        raise CommandError(f"--topk must be a share in (0, 1], got {settings.topk}")
    if settings.model not in models.NAMES:
        raise CommandError(f"--model must be one of {', '.join(models.NAMES)}, got {settings.model}")
    if settings.model == models.SMALL and (settings.weights or settings.normalise != "none"):
        raise CommandError(f"--weights and --normalise are for encoders of ImageNet, which {settings.model} has not")
    if settings.weights and not Path(settings.weights).is_file():
        raise CommandError(f"--weights must name a file, got {settings.weights}")
    if settings.model.startswith("levit") and settings.size != levit_unet.SIZE:
        raise CommandError(f"--size must be {levit_unet.SIZE} for {settings.model}, got {settings.size}")
    if settings.size % (multiple := models.MULTIPLE.get(settings.model, 1)):
        raise CommandError(f"--size must be a multiple of {multiple} for {settings.model}, got {settings.size}")
    return settings


def read(folder: Path) -> tuple[Settings, dict[str, Any]]:
    """Read what a folder of trainings was begun with; CommandError unless this version of fastloss wrote it."""
    path = folder / FILE
    found = read_json(path)
    names = {item.name for item in fields(Settings)}
    if not {"settings", "data", "machine"} <= set(found) or set(found["settings"]) != names:
        raise CommandError(f"{path} was not written by this version of fastloss")
    return Settings(**found["settings"]), found


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read (settings, command) from the JSON of a run; settings that an older version did not have are left out.

    Raises:
        CommandError: the file is none, or holds a key or a value that this version does not know.
    """
    found = read_json(path, ("settings",))
    _refuse_unknown(path, found, ("settings", "command", "data", "machine", "machines", "begun", "run"))
    given, command = found["settings"], found.get("command", {})
    items = {item.name: item for item in fields(Settings)}
    for words, part, names in (("settings", given, items), ("command", command, COMMAND)):
        if not isinstance(part, dict):
            raise CommandError(f"{path} must hold an object {words!r}, got {type(part).__name__}")
        _refuse_unknown(path, part, names)
    for name in IDENTITY:
        if name not in given:
            raise CommandError(f"{path} must name its {name} among the settings")
    for name, value in given.items():
        kind, choices = type(items[name].default) if name not in IDENTITY else str, items[name].metadata.get("choices")
        fits = type(value) is kind or (kind, type(value)) == (float, int)
        if not fits or (choices and value not in choices):
            expected = ", ".join(map(str, choices)) if choices else kind.__name__
            raise CommandError(f"{path}: {name} must be {expected}, got {value!r}")
    for name, value in command.items():
        if value is not None and type(value) is not COMMAND[name]:
            raise CommandError(f"{path}: {name} must be {COMMAND[name].__name__}, got {value!r}")
    return dict(given), dict(command)


def _refuse_unknown(path: Path, found: Mapping[str, Any], known: Collection[str]) -> None:
    for key in found:
        if key not in known:
            raise CommandError(f"{path} holds {key!r}, which this version of fastloss does not know; it knows "
                               f" {', '.join(known)}")  # fmt: skip


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")

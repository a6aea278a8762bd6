"""What a demo is asked to do, and whether a resumed one is still the same."""

from __future__ import annotations

import argparse
import hashlib
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

import fastloss
from fastloss import _library, backends
from fastloss.cli import CommandError, user_path

from . import models
from .checkpoint import read_json, write_json

FILE = "config.json"
PRODUCTS = ("runs", "losses3d.json", "curves.png", "masks.png", "report.md")
FULL = {"epochs": 30, "size": 128, "seeds": 2}
QUICK = {"epochs": 2, "size": 64, "seeds": 1}
LEAST = {"epochs": 2, "size": 32, "seeds": 1}
MOST = {"epochs": 10_000, "size": 192, "seeds": 100}  # the slices have 189 pixels of brain across


@dataclass(frozen=True)
class Settings:
    """Everything that the bits of a demo depend on; `threads`, `torch` and the rest of the machine included."""

    epochs: int
    size: int
    seeds: int
    model: str
    quick: bool
    threads: int
    torch: str
    fastloss: str
    backend: str
    cpu: str
    extension: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, metavar="N", help=f"epochs of each training (default {FULL['epochs']})")
    parser.add_argument("--size", type=int, metavar="N", help=f"side of the slices in pixels (default {FULL['size']})")
    parser.add_argument("--seeds", type=int, metavar="N", help=f"trainings of each method (default {FULL['seeds']})")
    parser.add_argument(
        "--out", type=user_path, default=Path("runs/demo"), metavar="DIR", help="folder of results (default runs/demo)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the interrupted demo in the folder, with its settings"
    )
    parser.add_argument(
        "--paper-model", action="store_true", default=None, help="smp's U-Net/EfficientNet-B0 (about 10 x slower)"
    )
    parser.add_argument(
        "--quick", action="store_true", default=None, help="a minute, small and untrained: does everything run?"
    )


def prepare(args: argparse.Namespace) -> Settings:
    """Checks the arguments and makes the folder ready: emptied of an earlier demo, or left as it is to resume.

    Raises CommandError, before anything is written, for a bad argument, a folder that is not a demo's, or a resumed
    demo whose settings or machine changed.
    """
    out: Path = args.out
    if args.resume:
        settings = _stored(args)
    else:
        settings = _asked(args, QUICK if args.quick else FULL)
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / FILE).exists())):
            raise CommandError(f"--out must name a new or empty folder or that of an earlier demo, got {out}")
    multiple = models.MULTIPLE[settings.model]
    if settings.size % multiple:
        raise CommandError(f"--size must be a multiple of {multiple} for {settings.model}, got {settings.size}")
    return settings


def start(out: Path, settings: Settings) -> None:
    """Makes the folder of a new demo, without the results of an earlier one."""
    out.mkdir(parents=True, exist_ok=True)
    for name in PRODUCTS:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)
    write_json(out / FILE, {"command": "fastloss demo", **asdict(settings)})


def _asked(args: argparse.Namespace, defaults: dict[str, int]) -> Settings:
    numbers = {name: defaults[name] if getattr(args, name) is None else getattr(args, name) for name in defaults}
    for name, value in numbers.items():
        if not LEAST[name] <= value <= MOST[name]:
            raise CommandError(f"--{name} must be between {LEAST[name]} and {MOST[name]}, got {value}")
    model = models.PAPER if args.paper_model else models.SMALL
    return Settings(**numbers, model=model, quick=bool(args.quick), threads=torch.get_num_threads(), **machine())


def machine() -> dict[str, str]:
    """What the bits of a training depend on beside its settings."""
    return {
        "torch": torch.__version__,
        "fastloss": fastloss.__version__,
        "backend": backends.choose(None, torch.empty(0)),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "extension": _extension(),
    }


def _extension() -> str:
    """A fingerprint of the compiled kernels: built anew by another compiler, they may round otherwise."""
    module = _library.load()
    return "none" if module is None else hashlib.blake2b(Path(module.__file__).read_bytes(), digest_size=8).hexdigest()


def _stored(args: argparse.Namespace) -> Settings:
    path = args.out / FILE
    if not path.exists():
        raise CommandError(f"--resume: no demo was started in {args.out}; run it without --resume")
    data = read_json(path)
    names = {field.name for field in fields(Settings)}
    if data.pop("command", None) != "fastloss demo" or set(data) != names:
        raise CommandError(f"--resume: {path} was not written by this version's demo; run it without --resume")
    stored = Settings(**data)
    asked = {name: getattr(args, name) for name in FULL if getattr(args, name) is not None}
    asked |= {"model": models.PAPER} if args.paper_model else {}
    asked |= {"quick": True} if args.quick else {}
    for name, now in {**asked, **machine()}.items():
        if now != getattr(stored, name):
            what = f"--{name}" if name in FULL or name == "quick" else name
            raise CommandError(f"--resume: {what} was {getattr(stored, name)} in {args.out} and is {now} now; "
                               "repeat it, or start anew without --resume")  # fmt: skip
    return stored

"""The data of the papers: check what you have, prepare it ahead of a run, or generate a phantom of it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fastloss.cli import CommandError, user_path

from . import checking, opening, phantom
from .prepare import MEMORY
from .settings import CHECKS
from .specs import DATASETS

REAL = [name for name, spec in DATASETS.items() if not spec.packaged]
SETTINGS = f"a setting of the data ({', '.join(CHECKS)}), its value as JSON"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="check|prepare|phantom")
    check = actions.add_parser("check", help="say what is there, what is missing, where to get it, and the licence")
    check.add_argument("path", nargs="?", type=user_path, help="a dataset's folder; without it: where all come from")
    check.add_argument("--kind", choices=REAL, help="default: found out from the files")
    check.add_argument("--quick", action="store_true", help="names and headers only, do not read the volumes")
    prepare = actions.add_parser("prepare", help="write the slice store now; a run does it by itself otherwise")
    prepare.add_argument("path", help="a dataset's folder, phantom, or demo")
    prepare.add_argument("--kind", choices=REAL, required=True)
    prepare.add_argument("--patients", type=int, default=12, help="of a phantom (default: 12)")
    for action in (check, prepare):
        action.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help=SETTINGS)
        action.add_argument("--jobs", type=int, help="threads (default: all cores)")
        action.add_argument("--memory", type=float, default=MEMORY, help=f"GiB they may take (default: {MEMORY:g})")
    generate = actions.add_parser("phantom", help="generate data in a real layout")
    generate.add_argument("--layout", choices=phantom.LAYOUTS, required=True)
    generate.add_argument("--out", type=user_path, required=True, help="a new or empty folder")
    generate.add_argument("--patients", type=int, default=12, help="default: 12")
    generate.add_argument("--labels", type=int, help="labelled classes (default: all of the layout)")
    generate.add_argument("--size", type=int, default=128, help="pixels of a side (default: 128)")
    generate.add_argument("--slices", type=int, help="of a volume (default: 24; acdc 9)")
    generate.add_argument("--seed", type=int, default=0, help="default: 0")


def main(args: argparse.Namespace) -> int:
    """Run the action and return 0, or 2 if a check found something missing or broken; CommandError for bad arguments
    and data."""
    if args.action is None:
        raise CommandError("one of check, prepare and phantom is needed (see fastloss data --help)")
    if args.action == "phantom":
        names = ("layout", "patients", "labels", "size", "slices", "seed")
        phantom.write(phantom.Phantom(**{name: getattr(args, name) for name in names}), args.out)
        print(f"{args.out} holds a phantom of {args.layout}; it says nothing about accuracy on patients")
        return 0
    settings = dict(map(parse_setting, args.set))
    if args.jobs is not None and args.jobs < 1:
        raise CommandError(f"--jobs must be at least 1, got {args.jobs}")
    if not args.memory > 0:
        raise CommandError(f"--memory must be positive, got {args.memory:g}")
    if args.action == "check":
        if args.path is None:
            print(checking.sources())
            return 0
        return 0 if checking.check(args.path, args.kind, settings, args.quick, args.jobs, args.memory) else 2
    store = opening.open_dataset(
        args.path, kind=args.kind, settings=settings, patients=args.patients, jobs=args.jobs,
        memory=args.memory,
    )  # fmt: skip
    counts = store.summary()
    print(f"{store.folder}: {store}")
    print(f"  {counts['positive']} slices with a label, {counts['positive before resizing']} before resizing; "
          f"{counts['bytes'] / 1e6:.0f} MB; fingerprint {store.fingerprint}")  # fmt: skip
    return 0


def parse_setting(words: str) -> tuple[str, Any]:
    name, equals, value = words.partition("=")
    if not equals:
        raise CommandError(f"--set must be NAME=VALUE, got {words!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value

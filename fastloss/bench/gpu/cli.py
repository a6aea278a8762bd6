"""`fastloss bench --gpu`: the options of `fastloss bench`, read for a GPU."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from fastloss.cli import CommandError

from . import cases, render, ways
from .__main__ import bench, dry


def main(args: argparse.Namespace) -> int:
    """Measure, list or render; CommandError for bad arguments."""
    try:
        if args.list:
            _list()
            return 0
        if args.render:
            print(_render(args.render))
            return 0
        if not dry() and not torch.cuda.is_available():
            raise ValueError(
                "--gpu: PyTorch finds no NVIDIA GPU here (FASTLOSS_DRY=1 goes through the motions on a CPU)"
            )
        problems, libraries = _plan(args)
    except ValueError as error:
        raise CommandError(str(error)) from None
    out = args.out or Path("runs/gpu")
    out.mkdir(parents=True, exist_ok=True)
    return bench(out, args.seconds, problems, libraries, "more" if args.full else "bench")


def _plan(args: argparse.Namespace) -> tuple[list[cases.Problem], list[str] | None]:
    """Problems, and the libraries that were named: None for the best ones."""
    if args.seconds < 20:
        raise ValueError(f"--seconds: {args.seconds:g} given, at least 20 expected")
    if args.quick:
        raise ValueError("--quick: given with --gpu, where --cases chooses a part")
    patterns = [p.strip() for p in args.cases.split(",") if p.strip()] if args.cases is not None else None
    every = [*cases.bench(dry()) * (not args.full), *cases.more(dry()) * bool(args.full or patterns)]
    problems = cases.select(patterns, every)
    if args.no_compile:
        problems = [cases.replace(p, peers=cases.EAGER if p.peers else "") for p in problems]
    if args.peers is None:
        return problems, None
    names = [] if args.peers == "none" else [n.strip() for n in args.peers.split(",")]
    unknown = [n for n in names if n not in ways.PEERS]
    if unknown:
        raise ValueError(f"--peers: {unknown[0]!r} is not one of {', '.join(ways.PEERS)}")
    return problems, names


def _list() -> None:
    for mode, problems in (("bench", cases.bench()), ("more", cases.more())):
        for p in problems:
            c = p.case
            who = ", ".join([*p.forced, *ways.wanted(p, None)])
            print(f"{mode:6} {p.name:34} {c.size:16} {c.dtype:8} {c.target:8} {p.levels}  {who}".rstrip())


def _render(path: Path) -> Path:
    """The page beside a record; ValueError if the file is none."""
    try:
        data = json.loads(path.read_text())
        page = render.page(data)
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"--render: {path} is no record of a GPU benchmark ({type(error).__name__}: {error})"
        ) from None
    target = path.with_suffix(".md")
    target.write_text(page)
    return target

"""Time the losses against other libraries, with parity, memory and the project's targets.

Without options: every case and every installed peer, eager and compiled, in the regime that the targets are read from.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from fastloss import backends
from fastloss.cli import CommandError, user_path
from fastloss.measure import cases
from fastloss.measure.cases import EAGER, Case
from fastloss.measure.peers import PEERS, installed

from . import cases_gpu, compat, cpu, gpu, record, render, targets
from .regimes import FULL, JUDGED, REGIMES, Job

DEFAULT_PEERS = ("torch", "smp", "monai", "exacta")
Run = Callable[[], int]  # what is left to do when all options are right


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    quick = "a few cases against plain eager PyTorch, under a minute, needs only torch"
    add("--quick", action="store_true", help=quick)
    full = "also the other regimes (default allocator, all cores); with --gpu: the other rows"
    add("--full", action="store_true", help=full)
    add("--cases", metavar="NAMES", help="comma-separated cases, groups or parts of names (--list shows them)")
    peers = f"comma-separated from {','.join(PEERS)}, or none (default: {', '.join(DEFAULT_PEERS)}, if installed)"
    add("--peers", metavar="NAMES", help=peers)
    add("--no-compile", action="store_true", help="leave out the peers under torch.compile")
    add("--regimes", metavar="NAMES", help=f"comma-separated from {','.join(REGIMES)}")
    add("--rounds", type=int, metavar="N", help="interleaved rounds per case, 3 to 1000 (default 15; 5 with --quick)")
    backend = "fastloss backend: cpu, reference or auto (default: the device's)"
    add("--backend", default="auto", metavar="NAME", help=backend)
    add("--out", type=user_path, metavar="DIR", help="where JSON, charts and table go (default runs/bench)")
    add("--json", type=user_path, metavar="FILE", help="write the record to this file too")
    add("--gpu", action="store_true", help="measure the GPU backends instead (FASTLOSS_DRY=1: a dry run on a CPU)")
    add("--seconds", type=float, default=300.0, metavar="N", help="with --gpu: what the run may take (default 300)")
    add("--compat", action="store_true", help="the drop-in losses of fastloss.compat against their originals instead")
    add("--list", action="store_true", help="print the cases and stop")
    rendered = "measure nothing: rewrite README.md and charts of a folder of JSON records, or the page beside a record"
    add("--render", type=user_path, metavar="PATH", help=rendered)


def main(args: argparse.Namespace) -> int:
    """Run the command; CommandError (one sentence, exit status 2) for bad arguments."""
    try:
        if args.list:
            return _list(args.gpu)
        if args.render:
            return _render(args.render)
        run = _gpu(args) if args.gpu else _compat(args) if args.compat else _cpu(args)
    except ValueError as error:
        raise CommandError(str(error)) from None
    return run()


def _list(gpu: bool) -> int:
    every = [("", case) for case in cases.CASES]
    if gpu:
        every = [("bench", c) for c in cases_gpu.bench()] + [("more", c) for c in cases_gpu.more()]
    for mode, c in every:
        line = f"{mode:6} " * gpu + f"{c.name:34} {c.group:11} {c.size:16} {c.dtype:8} {c.target:8} {c.mode:10}"
        if gpu:
            line += f" {c.levels}  {', '.join([*cases_gpu.forced(c), *cases_gpu.wanted(c, None)])}"
        print(line.rstrip())
    return 0


def _render(path: Path) -> int:
    try:
        print(render.write(path))
    except ValueError as error:
        raise ValueError(f"--render: {error}") from None
    except (OSError, KeyError, TypeError) as error:  # JSON of something else
        raise ValueError(f"--render: {path} is no benchmark record ({type(error).__name__}: {error})") from None
    return 0


def _words(text: str | None, option: str) -> list[str] | None:
    """Return the words of a comma-separated option; None if it is not given."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ValueError(f"{option}: no name given")
    return list(dict.fromkeys(words))


def _names(text: str | None, known: list[str], option: str) -> list[str] | None:
    words = _words(text, option)
    for word in words or []:
        if word not in known:
            raise ValueError(f"{option}: {word!r} is not one of {', '.join(known)}")
    return words


def _check(args: argparse.Namespace, default: str) -> Path:
    """Make and return the output folder; ValueError for an option that is wrong, before anything is measured."""
    if args.rounds is not None and not 3 <= args.rounds <= 1000:
        raise ValueError(f"--rounds: {args.rounds} given, a number from 3 to 1000 expected")
    out = args.out or Path(default)
    if args.json and args.json.is_dir():
        raise ValueError(f"--json: {args.json} is a directory, a file is expected")
    for option, folder in (("--json", args.json and args.json.parent), ("--out", out)):
        try:
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ValueError(f"{option}: {folder} cannot be written to: {error.strerror}") from None
    return out


def _peers(args: argparse.Namespace, default: list[str]) -> list[str]:
    """Return those that are asked for, or those of the default that are installed."""
    asked = [] if args.peers == "none" else _names(args.peers, list(PEERS), "--peers")
    there, absent = installed(default if asked is None else asked)
    if absent and asked is not None:
        raise ValueError(f"--peers: {absent[0]} is not installed (pip install 'fastloss[bench]')")
    if absent:
        print(f"not installed, left out: {', '.join(absent)} (pip install 'fastloss[bench]')", file=sys.stderr)
    return there


def _check_backend(name: str) -> None:
    found = backends.available()
    if name != "auto" and name not in found:
        raise ValueError(f"--backend: {name!r} is not one of auto, {', '.join(found)}")
    reason = None if name == "auto" else found[name]  # auto runs what every loss would
    if reason is not None:
        raise ValueError(f"--backend: {name} cannot run here: {reason}")


def _cpu(args: argparse.Namespace) -> Run:
    if args.quick and args.full:
        raise ValueError("--quick and --full exclude each other")
    chosen = cases.select(_words(args.cases, "--cases") or (cases.QUICK if args.quick else None))
    peers = _peers(args, ["torch"] if args.quick else list(DEFAULT_PEERS))
    names = _names(args.regimes, list(REGIMES), "--regimes") or (list(FULL) if args.full else [JUDGED])
    _check_backend(args.backend)
    out = _check(args, "runs/bench")
    compiled = not (args.no_compile or args.quick) and bool(peers)
    rounds = args.rounds or (5 if args.quick else 15)
    jobs = []
    for name in names:
        groups = () if args.cases else REGIMES[name].groups
        inside = [c for c in chosen if not groups or c.group in groups]
        seconds = 2.0 if args.quick else 8.0 if name == JUDGED else 3.0
        if inside:
            jobs.append(Job(name, inside, peers, compiled, args.backend, rounds, seconds, weigh=name == JUDGED))
    settings = {"peers": peers, "rounds": rounds, "compiled": compiled, "backend": args.backend, "quick": args.quick}
    return lambda: _run(args, jobs, record.new("cpu", peers, settings), out)


def _run(args: argparse.Namespace, jobs: list[Job], data: dict, out: Path) -> int:
    cpu.run(jobs, data)
    if JUDGED in data["regimes"]:
        print("\n" + (targets.summary(data) if args.quick else "\n".join(targets.lines(data))))
    file = out / f"{record.slug(data)}{'--quick' if args.quick else '--part' if args.cases else ''}.json"
    record.save(data, file, args.json)
    print(file)
    print(render.write(out))
    refused = [r["case"] for regime in data["regimes"].values() for r in regime["rows"] if "refused" in r]
    if refused:
        print(f"fastloss bench: refused: {', '.join(dict.fromkeys(refused))}", file=sys.stderr)
    return int(bool(refused))


def _compat(args: argparse.Namespace) -> Run:
    only, out = _words(args.cases, "--cases"), _check(args, "runs/bench/compat")
    compiled = not (args.no_compile or args.quick)
    return lambda: compat.run(out, compiled=compiled, quick=args.quick, only=only, rounds=args.rounds, copy=args.json)


def _gpu(args: argparse.Namespace) -> Run:
    dry = gpu.dry()
    if not dry and not torch.cuda.is_available():
        raise ValueError("--gpu: PyTorch finds no NVIDIA GPU here (FASTLOSS_DRY=1 goes through the motions on a CPU)")
    if args.seconds < 20:
        raise ValueError(f"--seconds: {args.seconds:g} given, at least 20 expected")
    if args.quick:
        raise ValueError("--quick: given with --gpu, where --cases chooses a part")
    patterns = _words(args.cases, "--cases")
    every: list[Case] = cases_gpu.bench(dry) * (not args.full) + cases_gpu.more(dry) * bool(args.full or patterns)
    chosen = cases.select(patterns, tuple(every))
    if args.no_compile:
        chosen = [replace(case, peers=case.peers and EAGER) for case in chosen]
    # None: the best ones.
    libraries = [] if args.peers == "none" else _names(args.peers, list(PEERS), "--peers")
    out = _check(args, "runs/gpu")
    return lambda: gpu.run(out, args.seconds, chosen, libraries, "more" if args.full else "bench", args.json)

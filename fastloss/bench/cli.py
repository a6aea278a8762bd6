"""Time the losses against other libraries, with parity, memory and the project's bars.

Without options: every case and every installed peer, eager and compiled, in the regime that the bars are read from.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from fastloss.cli import CommandError, user_path
from fastloss.measure import cases, providers
from fastloss.measure.peers import PEERS

from . import bars, chart, compat, live, record, regimes, render, warm
from .regimes import BARS, FULL, REGIMES, Job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--quick", action="store_true", help="a few cases against plain eager PyTorch, under a minute, needs only torch"
    )
    add(
        "--full",
        action="store_true",
        help="also the other regimes (default allocator, all cores); with --gpu: the other rows",
    )
    add("--cases", metavar="NAMES", help="comma-separated cases, groups or parts of names (--list shows them)")
    add("--peers", metavar="NAMES", help=f"comma-separated from {','.join(PEERS)}, or none (default: those installed)")
    add("--no-compile", action="store_true", help="leave out the peers under torch.compile")
    add("--regimes", metavar="NAMES", help=f"comma-separated from {','.join(REGIMES)}")
    add("--rounds", type=int, metavar="N", help="interleaved rounds per case, 3 to 1000 (default 15; 5 with --quick)")
    add(
        "--backend",
        default="auto",
        metavar="NAME",
        help="fastloss backend: cpu, reference or auto (default: the device's)",
    )
    add("--out", type=user_path, metavar="DIR", help="where JSON, charts and table go (default runs/bench)")
    add("--json", type=user_path, metavar="FILE", help="write the record to this file too")
    add("--gpu", action="store_true", help="measure the GPU backends instead (FASTLOSS_DRY=1: a dry run on a CPU)")
    add("--seconds", type=float, default=300.0, metavar="N", help="with --gpu: what the run may take (default 300)")
    add("--compat", action="store_true", help="the drop-in losses of fastloss.compat against their originals instead")
    add("--list", action="store_true", help="print the cases and stop")
    add(
        "--render",
        type=user_path,
        metavar="DIR",
        help="rewrite DIR/README.md and charts from its JSON records, measure nothing (with --gpu: a record's page)",
    )


def main(args: argparse.Namespace) -> int:
    """Run the command; CommandError (one sentence, exit status 2) for bad arguments."""
    if args.gpu:
        from .gpu.cli import main as gpu

        return gpu(args)
    try:
        if args.list:
            print("\n".join(f"{c.name:26} {c.group:10} {c.size:16} {c.dtype:8} {c.mode}" for c in cases.CASES))
            return 0
        if args.render:
            return _render(args.render)
        if args.compat:
            return _compat(args)
        plan = _plan(args)
    except ValueError as error:
        raise CommandError(str(error)) from None
    try:
        return _run(args, *plan)
    except regimes.ChildFailed as error:
        print(f"fastloss bench: {error}", file=sys.stderr)
        return 1


def _names(text: str | None, known: list[str], option: str) -> list[str] | None:
    if text is None:
        return None
    names = [n.strip() for n in text.split(",") if n.strip()]
    unknown = [n for n in names if n not in known]
    if unknown or not names:
        raise ValueError(f"{option}: {unknown[0] if unknown else text!r} is not one of {', '.join(known)}")
    return list(dict.fromkeys(names))


def _plan(args: argparse.Namespace) -> tuple[list[cases.Case], list[str], list[str]]:
    """Cases, peers and regimes to run; ValueError names the option that is wrong."""
    if args.quick and args.full:
        raise ValueError("--quick and --full exclude each other")
    if args.rounds is not None and not 3 <= args.rounds <= 1000:
        raise ValueError(f"--rounds: {args.rounds} given, a number from 3 to 1000 expected")
    for option, path in (("--out", args.out), ("--json", args.json and args.json.parent)):
        if path and path.exists() and not path.is_dir():
            raise ValueError(f"{option}: {path} is not a directory")
    patterns = [p.strip() for p in args.cases.split(",") if p.strip()] if args.cases is not None else None
    if patterns == []:
        raise ValueError("--cases: no name given; --list prints them")
    chosen = cases.select(patterns or (list(cases.QUICK) if args.quick else None))
    asked = [] if args.peers == "none" else _names(args.peers, list(PEERS), "--peers")
    wanted = asked if asked is not None else ["torch"] if args.quick else list(PEERS)
    there, absent = providers.installed(wanted)
    if absent and asked is not None:
        raise ValueError(f"--peers: {absent[0]} is not installed (pip install 'fastloss[bench]')")
    if absent:
        print(f"not installed, left out: {', '.join(absent)} (pip install 'fastloss[bench]')", file=sys.stderr)
    names = _names(args.regimes, list(REGIMES), "--regimes") or (list(FULL) if args.full else [BARS])
    _check_backend(args.backend)
    return chosen, there, names


def _check_backend(name: str) -> None:
    from fastloss import backends

    found = backends.available()
    if name != "auto" and name not in found:
        raise ValueError(f"--backend: {name!r} is not one of auto, {', '.join(found)}")
    reason = None if name == "auto" else found[name]  # auto runs what every loss would
    if reason is not None:
        raise ValueError(f"--backend: {name} cannot run here: {reason}")


def _jobs(args: argparse.Namespace, chosen: list[cases.Case], peers: list[str], names: list[str]) -> list[Job]:
    compiled = not (args.no_compile or args.quick) and bool(peers)
    jobs = []
    for name in names:
        groups = () if args.cases else REGIMES[name].groups
        inside = [c.name for c in chosen if not groups or c.group in groups]
        if inside:
            jobs.append(
                Job(
                    "measure",
                    inside,
                    peers,
                    name,
                    compiled,
                    args.backend,
                    args.rounds or (5 if args.quick else 15),
                    seconds=2.0 if args.quick else 8.0 if name == BARS else 3.0,
                    memory=name == BARS,
                )
            )
    return jobs


def _run(args: argparse.Namespace, chosen: list[cases.Case], peers: list[str], names: list[str]) -> int:
    jobs = _jobs(args, chosen, peers, names)
    settings = {
        "peers": peers,
        "rounds": jobs[0].rounds,
        "compiled": jobs[0].compiled,
        "backend": args.backend,
        "quick": args.quick,
    }
    data = record.new(peers, settings)
    compiles = {}
    for job in jobs:  # regimes with as many threads share what is compiled
        threads = REGIMES[job.regime].thread_count
        if absent := [c for c in warm.missing(job) if c not in compiles.get(threads, (job, []))[1]]:
            compiles[threads] = (job, compiles.get(threads, (job, []))[1] + absent)
    total = sum(len(names) for _, names in compiles.values()) + sum(len(j.cases) for j in jobs)
    with live.choose(total) as view:
        for job, absent in compiles.values():
            for event in warm.fill(job, absent):
                if event["event"] == "compiled":
                    view.compiled(event["case"])
                else:
                    view.progress(event["case"], event["doing"])
        for job in jobs:
            data["regimes"][job.regime] = _measure(job, view)
    return _report(args, data)


def _measure(job: Job, view: live.Plain) -> dict:
    regime, rows = REGIMES[job.regime], []
    view.regime(f"{regime.name}: {regime.words}")
    for event in regimes.run(job):
        if event["event"] == "row":
            rows.append(event["row"])
            view.row(event["row"])
        else:
            view.progress(event["case"], event["doing"])
    about = {
        "words": regime.words,
        "threads": regime.thread_count,
        "clock": regime.clock,
        "allocator": regime.allocator,
    }
    return about | {"env": regime.env, "rows": rows}


def _report(args: argparse.Namespace, data: dict) -> int:
    if BARS in data["regimes"]:
        print("\n" + (bars.summary(data) if args.quick else "\n".join(bars.lines(data))))
    if args.json:
        record.save(data, args.json)
    out = args.out or Path("runs/bench")
    name = record.slug(data) + ("--quick" if args.quick else "--part" if args.cases else "")
    record.save(data, out / f"{name}.json")
    for line in [str(out / f"{name}.json"), *_pictures(data, out, name), str(render.write(out))]:
        print(line)
    refused = [r["case"] for regime in data["regimes"].values() for r in regime["rows"] if "refused" in r]
    if refused:
        print(f"fastloss bench: refused for parity: {', '.join(dict.fromkeys(refused))}", file=sys.stderr)
    return 1 if refused else 0


def _pictures(data: dict, out: Path, name: str) -> list[str]:
    if not chart.possible():
        return ["no chart: matplotlib is not installed"]
    drawn = [chart.speed(data, out / f"{name}.png"), chart.many_classes(data, out / f"{name}--3d.png")]
    return [str(p) for p in drawn if p]


def _compat(args: argparse.Namespace) -> int:
    if args.rounds is not None and not 3 <= args.rounds <= 1000:
        raise ValueError(f"--rounds: {args.rounds} given, a number from 3 to 1000 expected")
    if args.out and args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out: {args.out} is not a directory")
    only = [p.strip() for p in args.cases.split(",") if p.strip()] if args.cases is not None else None
    out, compiled = args.out or Path("runs/bench/compat"), not (args.no_compile or args.quick)
    return compat.run(out, compiled=compiled, quick=args.quick, only=only, rounds=args.rounds)


def _render(folder: Path) -> int:
    page = render.write(folder)
    for file in sorted(folder.glob("*.json")):
        with contextlib.suppress(ValueError):  # another tool's file
            _pictures(record.load(file), folder, file.stem)
    print(page)
    return 0

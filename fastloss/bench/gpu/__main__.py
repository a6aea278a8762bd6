"""The steps of bench/gpu.sh that are Python: python -m fastloss.bench.gpu STEP --out DIR --seconds N."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from fastloss import doctor

from .. import record
from . import bars, cases, render, run, smoke, ways
from .lanes import Lane, together

STEPS = ("environment", "smoke", "sanitize", "resident", "full")


def dry() -> bool:
    return os.environ.get("FASTLOSS_DRY", "0") not in ("", "0")


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def environment(out: Path, seconds: float) -> int:
    """What is here, in full."""
    there, absent = ways.installed()
    print(doctor.render(doctor.collect()))
    _write(out, "environment", {"doctor": doctor.collect(), "gpu": run.machine(), "peers": there, "absent": absent})
    return 0


def smoke_all(out: Path, seconds: float) -> int:
    """Every backend and path, each in its own lane, all at once."""
    found: dict[str, dict] = {}
    lanes = [Lane(key, key, dry()) for key in ways.OURS if run.unavailable(key, dry()) is None]

    request = {"do": "smoke", "tiny": dry()}

    def ask(lane: Lane) -> None:
        found[lane.name] = lane.ask(request | {"backend": ways.backend_of(lane.name, dry())}, seconds)
        lane.stop()

    together(lanes, ask)
    for key in ways.OURS:
        answer = found.setdefault(key, {"missing": run.unavailable(key, dry())})
        if "checked" in answer:
            say(f"{key}: {answer['checked'] - len(answer['failures'])} of {answer['checked']} right")
            for failure in answer["failures"][:10]:
                say(f"  {failure}")
        else:
            say(f"{key}: {answer.get('missing') or answer.get('refused')}")
    _write(out, "smoke", found)
    return int(any(a.get("failures") or "refused" in a for a in found.values()))


def sanitize(out: Path, seconds: float) -> int:
    """A small set in this very process, for compute-sanitizer to watch."""
    device = "cpu" if dry() else "cuda"
    answer = smoke.run("cpu" if dry() else "cuda", device, tiny=True)
    print(json.dumps(answer))
    return int(bool(answer.get("failures")) or "missing" in answer)


def bench(out: Path, seconds: float, problems: list, libraries: list[str], name: str, absent: list[str]) -> int:
    """Measures into OUT/name.json (saved after every row) and OUT/name.md."""
    began = time.monotonic()
    data = run.new(dry(), libraries, absent, {"seconds": seconds, "peers": libraries})
    runner = run.Run(data, problems, libraries, dry(), say)
    name += "-dry" * dry()
    target = out / f"{name}.json"

    def note(line: str) -> None:
        say(line)
        record.save(data, target)

    runner.say = note
    try:
        runner.prepare(max(60.0 if dry() else 10.0, min(100.0, 0.35 * seconds)))
        runner.bandwidth()
        runner.measure(0.88 * seconds - (time.monotonic() - began))
        runner.profile(max(3.0, 0.97 * seconds - (time.monotonic() - began)))
    finally:
        runner.stop()
        record.save(data, target)
        (out / f"{name}.md").write_text(render.page(data))
    say(f"{len(data['rows'])} problems in {time.monotonic() - began:.0f} s; {target}")
    print("\n".join(bars.lines(data)))
    return int(not any("seconds" in e for row in data["rows"] for e in row["contenders"].values()))


def _write(out: Path, step: str, result: dict) -> None:
    with (out / "steps.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "result": result}) + "\n")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastloss.bench.gpu", description=__doc__)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--seconds", type=float, default=120.0)
    args = parser.parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.step == "resident":
        return bench(args.out, args.seconds, cases.resident(dry()), [], "resident", [])
    if args.step == "full":
        there, absent = ways.installed()
        return bench(args.out, args.seconds, cases.full(dry()), there, "bench", absent)
    steps = {"environment": environment, "smoke": smoke_all, "sanitize": sanitize}
    return steps[args.step](args.out, args.seconds)


if __name__ == "__main__":
    sys.exit(main())

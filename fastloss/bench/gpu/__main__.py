"""The steps of `bench/gpu.sh checks` that are Python (python -m fastloss.bench.gpu STEP --out DIR --seconds N), and the
run behind `fastloss bench --gpu`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from fastloss import doctor

from .. import record
from . import bars, render, run, smoke, ways
from .lanes import Lane, together


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
    """Every backend and path in a lane of its own, all at once; Triton, which compiles longest, in three."""
    modes = {
        key: [[m] for m in smoke.SHAPES] if key == "triton" and not dry() else [list(smoke.SHAPES)] for key in ways.OURS
    }
    found: dict[str, list[dict]] = {key: [] for key in ways.OURS}
    lanes = {
        Lane(key, key, dry()): those for key in ways.OURS if run.unavailable(key, dry()) is None for those in modes[key]
    }

    def ask(lane: Lane) -> None:
        request = {"do": "smoke", "tiny": dry(), "modes": lanes[lane], "seconds": seconds}
        request["backend"] = ways.backend_of(lane.name, dry())
        found[lane.name].append(lane.ask(request, seconds + 20))
        lane.stop()

    together(list(lanes), ask)
    results = {}
    for key, answers in found.items():
        results[key] = answers or [{"missing": run.unavailable(key, dry())}]
        failures = [failure for answer in answers for failure in answer.get("failures", [])]
        checked = sum(answer.get("checked", 0) for answer in answers)
        others = [a[word] for a in results[key] for word in ("missing", "refused", "late") if word in a]
        say(f"{key}: {checked - len(failures)} of {checked} right" + "".join(f"; {words}" for words in others))
        for failure in failures[:10]:
            say(f"  {failure}")
    _write(out, "smoke", results)
    return int(any(a.get("failures") or "refused" in a for answers in results.values() for a in answers))


def sanitize(out: Path, seconds: float) -> int:
    """A small set in this very process, for compute-sanitizer to watch."""
    device = "cpu" if dry() else "cuda"
    answer = smoke.run(device, device, tiny=True)
    print(json.dumps(answer))
    return int(bool(answer.get("failures")) or "missing" in answer)


def bench(out: Path, seconds: float, problems: list, libraries: list[str] | None, name: str) -> int:
    """Measures into OUT/name.json and OUT/name.md, both written after every row."""
    began = time.monotonic()
    there, absent = ways.installed(libraries)
    data = run.new(dry(), there, absent, {"seconds": seconds, "peers": libraries or "the best"})
    runner = run.Run(data, problems, libraries and there, dry(), say)
    name += "-dry" * dry()
    target = out / f"{name}.json"

    def note(line: str) -> None:
        say(line)
        record.save(data, target)
        (out / f"{name}.md").write_text(render.page(data))

    runner.say = note
    try:
        runner.prepare(60.0 if dry() else max(10.0, 0.3 * seconds))
        runner.bandwidth()
        runner.measure(0.9 * seconds - (time.monotonic() - began))
        runner.profile(max(3.0, 0.97 * seconds - (time.monotonic() - began)))
    finally:
        runner.stop()
        note(f"{len(data['rows'])} problems in {time.monotonic() - began:.0f} s; {target}")
    print("\n".join(bars.lines(data)))
    return int(not any("seconds" in e for row in data["rows"] for e in row["contenders"].values()))


def _write(out: Path, step: str, result: dict) -> None:
    (out / f"{step}.json").write_text(json.dumps(result, indent=1) + "\n")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastloss.bench.gpu", description=__doc__)
    steps = {"environment": environment, "smoke": smoke_all, "sanitize": sanitize}
    parser.add_argument("step", choices=steps)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    return steps[args.step](args.out, args.seconds)


if __name__ == "__main__":
    sys.exit(main())

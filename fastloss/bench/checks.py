"""The steps of `bench/gpu.sh checks` that are Python (python -m fastloss.bench.checks STEP --out DIR --seconds N)."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fastloss import doctor
from fastloss.measure.peers import PEERS, installed

from . import record, smoke
from .gpu import dry, say, unavailable, worker
from .process import Worker, together
from .worker_gpu import OURS, backend_of


def environment(out: Path, seconds: float) -> int:
    """Print and write what is here, in full."""
    there, absent = installed(list(PEERS))
    print(doctor.render(doctor.collect()))
    found = {"doctor": doctor.collect(), "gpu": record.gpu(), "peers": there, "absent": absent}
    return _write(out, "environment", found)


def smoke_all(out: Path, seconds: float) -> int:
    """Try every backend and path in a worker of its own, all at once; Triton, which compiles longest, in three."""
    modes = {
        key: [[m] for m in smoke.SHAPES] if key == "triton" and not dry() else [list(smoke.SHAPES)] for key in OURS
    }
    found: dict[str, list[dict]] = {key: [] for key in OURS}
    every = {worker(key, key): those for key in OURS if unavailable(key, dry()) is None for those in modes[key]}

    def ask(one: Worker) -> None:
        request = {"do": "worker_gpu.look", "backend": backend_of(one.name, dry()), "modes": every[one]}
        found[one.name].append(one.ask(request | {"seconds": seconds, "dry": dry()}, seconds + 20))
        one.close()

    together(list(every), ask)
    results = {key: answers or [{"missing": unavailable(key, dry())}] for key, answers in found.items()}
    for key, answers in results.items():
        failures = [failure for answer in answers for failure in answer.get("failures", [])]
        checked = sum(answer.get("checked", 0) for answer in answers)
        others = [answer[word] for answer in answers for word in ("missing", "refused", "late") if word in answer]
        say(f"{key}: {checked - len(failures)} of {checked} right" + "".join(f"; {words}" for words in others))
        for failure in failures[:10]:
            say(f"  {failure}")
    _write(out, "smoke", results)
    return int(any(a.get("failures") or "refused" in a for answers in results.values() for a in answers))


def sanitize(out: Path, seconds: float) -> int:
    """Run a small set in this very process, for compute-sanitizer to watch."""
    device = "cpu" if dry() else "cuda"
    answer = smoke.run(device, device, tiny=True)
    print(json.dumps(answer))
    return int(bool(answer.get("failures")) or "missing" in answer)


def _write(out: Path, step: str, result: dict) -> int:
    (out / f"{step}.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastloss.bench.checks", description=__doc__)
    steps = {"environment": environment, "smoke": smoke_all, "sanitize": sanitize}
    parser.add_argument("step", choices=steps)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    return steps[args.step](args.out, args.seconds)


if __name__ == "__main__":
    sys.exit(main())

"""The bench of the drop-in losses: each against its original, eager and compiled, forward and backward.

CPU time of one thread, interleaved; a case counts only after its parity check. The target: at least as fast on every
case. Losses that run as plain PyTorch are also compiled themselves, since their originals are.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from fastloss.measure import timing
from fastloss.measure.contenders import OURS, Contender
from fastloss.measure.formula import Truth, compare

from . import live, readings, record, render
from .cases_compat import CASES, ORIGINALS, SIZES, CompatCase
from .regimes import REGIMES
from .tables import COMPAT

THEIRS = "original"
ROUNDS, SECONDS = 15, 4.0
LIMITS = (1e-5, 1e-3)  # relative differences of values and gradients that refuse a case


def make_contenders(case: CompatCase, compiled: bool) -> list[Contender]:
    """Make fastloss's, the original, and those under torch.compile."""

    def contender(key: str, loss: Callable[[Tensor, Tensor], Tensor]) -> Contender:
        return Contender(key, "ours" if key.startswith(OURS) else "peer", lambda x, y: loss(x, y).sum())

    ours, theirs = case.make(False), case.make(True)
    found = [contender(OURS, ours), contender(THEIRS, theirs)]
    if compiled:
        found.append(contender(f"{THEIRS} compiled", torch.compile(theirs)))
        if not fused(ours):
            found.append(contender(f"{OURS} compiled", torch.compile(ours)))
    return found


def fused(loss: nn.Module) -> bool:
    return getattr(getattr(loss, "loss", loss), "fused", True)


def measure(
    library: str, case: str, size: str, compiled: bool, rounds: int, seconds: float, say: Callable[[str], None]
) -> dict:
    """Measure a row's times, and their ratios to fastloss (the compiled original's to the faster of ours)."""
    one = next(c for c in CASES[library] if c.label == case)
    return measure_case(one, size, compiled, rounds, seconds)


def measure_case(case: CompatCase, size: str, compiled: bool, rounds: int, seconds: float) -> dict:
    x, y = case.inputs(size)
    x.requires_grad_()
    torch._dynamo.reset()
    found = [contender.on(y) for contender in make_contenders(case, compiled)]
    row: dict = {"size": "x".join(map(str, x.shape)), "fused": fused(case.make(False)), "contenders": {}}
    value, (grad,) = next(c for c in found if c.key == THEIRS).step(x)
    truth = Truth(float(value.detach()), grad.double(), None, 1.0, THEIRS)
    for contender in found:
        value, (grad,) = contender.step(x)
        verdict = compare(truth, float(value.detach()), grad, LIMITS)
        errors = {"value_error": verdict.value_error, "grad_error": verdict.grad_error}
        row["contenders"][contender.key] = {"role": contender.role, **errors}
        if contender.role == "ours" and not verdict.ok:
            return row | {"refused": f"differs: {verdict.reason}"}
    works = {c.key: lambda c=c: c.step(x) for c in found}
    often = tuple(c.key for c in found if c.role == "ours")
    timings, _ = timing.interleave(works, often, clock="cpu", rounds=rounds, seconds=seconds)
    best = min(often, key=lambda key: timings[key].median)
    for key, timed in timings.items():
        row["contenders"][key] |= {"seconds": timed.median, "spread": timed.spread}
        if key.startswith(THEIRS):
            own = timings[best if key.endswith("compiled") else OURS]
            row["contenders"][key]["ratio"] = asdict(timing.ratio(timed, own))
    return row


def run(
    out: Path,
    *,
    compiled: bool = True,
    quick: bool = False,
    only: list[str] | None = None,
    rounds: int | None = None,
    copy: Path | None = None,
) -> int:
    """Measure, print, and write `<machine>.json` (and a copy) and README.md into `out`; 1 if a case is refused or
    slower."""
    libraries = [lib for lib in CASES if importlib.util.find_spec(ORIGINALS[lib].split(".")[0])]
    data = record.new("compat", libraries, {"rounds": rounds or ROUNDS, "compiled": compiled, "quick": quick})
    todo = [(case, size) for lib in libraries for case in CASES[lib] for size in (("small",) if quick else SIZES)]
    todo = [(c, size) for c, size in todo if not only or any(word in f"{c.label} {size}" for word in only)]
    limits = {"compiled": compiled, "rounds": rounds or ROUNDS, "seconds": SECONDS / 4 if quick else SECONDS}
    worker = REGIMES["default-1t"].worker()
    try:
        with live.choose(len(todo), COMPAT) as view:
            view.title(REGIMES["default-1t"].words)
            for case, size in todo:
                view.progress(case.label, size)
                request = {"do": "compat.measure", "library": case.library, "case": case.label, "size": size, **limits}
                row = {"case": case.label, "library": case.library, "group": size, "size": size, "contenders": {}}
                data["rows"].append(row | worker.ask(request))
                view.row(data["rows"][-1])
    finally:
        worker.close()
    record.save(data, out / f"{record.slug(data)}.json", copy)
    render.write(out)
    slow = [row["case"] for row in data["rows"] if "refused" in row or not fast(row)]
    if slow:
        print(f"fastloss bench --compat: slower than the original, or refused: {', '.join(slow)}", file=sys.stderr)
    return 1 if slow else 0


def fast(row: dict) -> bool:
    return all(readings.ratio(row, key) >= 1.0 for key in row["contenders"] if key.startswith(THEIRS))

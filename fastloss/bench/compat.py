"""`fastloss bench --compat`: each drop-in loss against its original, eager and compiled, forward and backward.

CPU time of one thread, interleaved; a case counts only after its parity check. The bar: at least as fast on every case.
Losses that run as plain PyTorch are also compiled themselves, since their originals are.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fastloss.measure.timing import interleave, ratio

from . import record
from .compat_cases import CASES, ORIGINALS, SIZES, CompatCase

OURS, THEIRS = "fastloss", "original"
ROUNDS, SECONDS = 15, 4.0
VALUE = 1e-5  # relative difference of the losses that refuses a case


def _step(loss: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    def step() -> Tensor:
        leaf = x.detach().requires_grad_()
        value = loss(leaf, y)
        value.sum().backward()
        step.grad = leaf.grad  # type: ignore[attr-defined]
        return value

    return step


def _contenders(case: CompatCase, x: Tensor, y: Tensor, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    ours, theirs = case.make(False), case.make(True)
    works = {OURS: _step(ours, x, y), THEIRS: _step(theirs, x, y)}
    if compiled:
        works[f"{THEIRS} compiled"] = _step(torch.compile(theirs), x, y)
        if not getattr(getattr(ours, "loss", ours), "fused", True):
            works[f"{OURS} compiled"] = _step(torch.compile(ours), x, y)
    return works


def _parity(works: dict[str, Callable[[], Tensor]]) -> float:
    """The largest relative difference of a contender's value and gradient from the original's."""
    truth = works[THEIRS]().detach().double()
    slope = works[THEIRS].grad.double()  # type: ignore[attr-defined]
    worst = 0.0
    for name, work in works.items():
        if name.startswith(OURS):
            value = work().detach().double()
            worst = max(worst, ((value - truth).norm() / truth.norm().clamp_min(1e-30)).item())
            grad = work.grad.double()  # type: ignore[attr-defined]
            worst = max(worst, ((grad - slope).norm() / slope.norm().clamp_min(1e-30)).item() / 100)
    return worst


def measure_case(case: CompatCase, size: str, *, compiled: bool, rounds: int, seconds: float) -> dict:
    """One row: milliseconds per call by contender, and the ratio of each to fastloss (quartiles)."""
    x, y = case.inputs(size)
    torch._dynamo.reset()
    works = _contenders(case, x, y, compiled)
    row = {"library": case.library, "case": case.label, "size": size, "shape": list(x.shape)}
    row["fused"] = getattr(case.make(False), "fused", True)
    row["parity"] = _parity(works)
    if not row["parity"] <= VALUE:
        return row | {"refused": f"differs by {row['parity']:.1e}"}
    often = tuple(n for n in works if n.startswith(OURS))
    timings, _ = interleave(works, often, clock="cpu", rounds=rounds, seconds=seconds)
    row["ms"] = {name: 1e3 * timing.median for name, timing in timings.items()}
    best = min(often, key=lambda name: timings[name].median)
    row["ratio"] = {}
    for name in works:
        if name.startswith(THEIRS):
            own = timings[best if name.endswith("compiled") else OURS]
            found = ratio(timings[name], own)
            row["ratio"][name] = [found.median, found.low, found.high]
    return row


def run(
    out: Path, *, compiled: bool = True, quick: bool = False, only: list[str] | None = None, rounds: int | None = None
) -> int:
    """Measure, print, and write `<machine>.json` and README.md into `out`; 1 if a case is refused or slower."""
    torch.set_num_threads(1)
    libraries = [lib for lib in CASES if importlib.util.find_spec(ORIGINALS[lib].split(".")[0])]
    data = record.new(libraries, {"rounds": rounds or ROUNDS, "compiled": compiled, "quick": quick})
    rows: list[dict] = []
    for library in libraries:
        for case in CASES[library]:
            for size in ("small",) if quick else SIZES:
                if only and not any([word in f"{case.label} {size}" for word in only]):
                    continue
                limits = {"rounds": rounds or ROUNDS, "seconds": SECONDS / 4 if quick else SECONDS}
                rows.append(measure_case(case, size, compiled=compiled, **limits))
                print(line(rows[-1]), flush=True)
    data["regimes"]["compat"] = {"words": "1 thread, CPU time", "threads": 1, "clock": "cpu", "rows": rows}
    record.save(data, out / f"{record.slug(data)}.json")
    (out / "README.md").write_text(page(data))
    slow = [row["case"] for row in rows if "refused" in row or not fast(row)]
    if slow:
        print(f"fastloss bench --compat: slower than the original, or refused: {', '.join(slow)}", file=sys.stderr)
    return 1 if slow else 0


def fast(row: dict) -> bool:
    return all([ratio[0] >= 1.0 for ratio in row["ratio"].values()])


def line(row: dict) -> str:
    head = f"{row['case']:75} {row['size']:6}"
    if "refused" in row:
        return f"{head} REFUSED: {row['refused']}"
    ratios = "  ".join([f"{name} {ratio[0]:.2f}x" for name, ratio in row["ratio"].items()])
    return f"{head} {row['ms'][OURS]:9.3f} ms  {ratios}{'' if row['fused'] else '  (not fused)'}"


def page(data: dict) -> str:
    """The table in Markdown."""
    rows, machine = data["regimes"]["compat"]["rows"], data["machine"]
    versions = ", ".join([f"{name} {version}" for name, version in data["versions"].items()])
    lines = [
        "# Drop-in losses against their originals",
        "",
        "Forward and backward on one core, CPU time, interleaved rounds; the ratio is the original's time over ours,",
        "the median of the rounds (lower and upper quartile). Made by",
        "`fastloss bench --compat --out bench/results/compat`.",
        "Losses that are not fused are compiled too where the original is.",
        "",
        f"{machine['cpu']}, {data['date']}, commit {data['commit'][:10]}; {versions}.",
        "",
        "| loss | input | fused | fastloss, ms | original, eager | original, compiled |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        shape, fused = "×".join(map(str, row["shape"])), "yes" if row["fused"] else "no"
        if "refused" in row:
            lines.append(f"| {row['case']} | {shape} | {fused} | refused: {row['refused']} | | |")
            continue
        cells = []
        for name in (THEIRS, f"{THEIRS} compiled"):
            found = row["ratio"].get(name)
            cells.append(f"{found[0]:.2f} ({found[1]:.2f} to {found[2]:.2f})" if found else "")
        lines.append(f"| {row['case']} | {shape} | {fused} | {row['ms'][OURS]:.3f} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"

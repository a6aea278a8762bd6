"""The bars that the project set itself, read from a record: pass, miss, or unproven where rows are noisy or absent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fastloss.measure.providers import OURS

from .regimes import BARS

BIG = 2_000_000  # pixels


@dataclass
class Bar:
    """`value` against `target`; `detail` says which case was worst. `verdict`: pass, miss, unproven."""

    name: str
    target: str
    value: str
    verdict: str
    detail: str


def _timed(row: dict, roles: tuple[str, ...], how: str | None = None) -> dict[str, dict]:
    return {
        key: entry
        for key, entry in row["contenders"].items()
        if "ratio" in entry and entry["role"] in roles and how in (None, entry["how"])
    }


def fastest(row: dict, how: str | None = None, roles: tuple[str, ...] = ("peer",)) -> tuple[str, dict] | None:
    """The fastest contender of the given roles: (name, entry), or None if nothing was timed."""
    timed = _timed(row, roles, how)
    return min(timed.items(), key=lambda item: item[1]["ratio"]["median"]) if timed else None


def _ratio(row: dict, how: str | None = None, roles: tuple[str, ...] = ("peer",)) -> float | None:
    found = fastest(row, how, roles)
    return found[1]["ratio"]["median"] if found else None


def _mine(row: dict) -> dict:
    return row["contenders"].get(OURS, {})


def _judge(
    name: str,
    rows: list[dict],
    measure: Callable[[dict], float | None],
    bar: float,
    *,
    unit: str = "x",
    most: bool = False,
    mean: bool = False,
) -> Bar:
    """`most`: values may not exceed the bar, else they must reach it. `mean`: the geometric mean, not the worst row."""
    sign = "at most" if most else "at least"
    target = f"{sign} {_show(bar, unit)}" + (" geometric mean" if mean else " each")
    values = [(measure(row), row) for row in rows]
    known = [(v, row) for v, row in values if v is not None]
    if not known:
        return Bar(name, target, "-", "unproven", "nothing measured")
    worst, row = (max if most else min)(known, key=lambda item: item[0])
    value = math.exp(sum(math.log(v) for v, _ in known) / len(known)) if mean else worst
    good = value <= bar if most else value >= bar
    missed = [r["case"] for v, r in known if (v > bar if most else v < bar)]
    noisy = [r["case"] for _, r in known if r.get("noisy")]
    absent = [r["case"] for v, r in values if v is None]
    detail = f"{len(known)} cases, worst {row['case']} {_show(worst, unit)}"
    if missed and not mean:
        detail += f"; missed: {', '.join(missed)}"
    if noisy:
        detail += f"; noisy: {', '.join(noisy)}"
    if absent:
        detail += f"; no value: {', '.join(absent)}"
    verdict = "miss" if not good else "unproven" if noisy or absent else "pass"
    return Bar(name, target, _show(value, unit), verdict, detail)


def _show(value: float, unit: str) -> str:
    return f"{100 * value:.0f}%" if unit == "%" else f"{value:.2f}{unit}"


def _memory(row: dict, key: str) -> float | None:
    return _mine(row).get("memory", {}).get(key)


def check(record: dict) -> list[Bar]:
    """Every bar, in the order of the issue; ratios: medians over rounds, 1-thread CPU time without page faults."""
    rows = record["regimes"].get(BARS, {}).get("rows", [])
    work = [r for r in rows if r["group"] != "overhead"]
    small = [r for r in rows if r["group"] == "overhead"]
    big = [r for r in work if r["pixels"] >= BIG]
    softmax = [r for r in work if r["group"] == "softmax"]
    region = [r for r in big if r["title"] in ("Dice", "IoU", "Tversky")]
    streaming = [r for r in work if "TopK" not in r["title"] and r["numel"] >= 100_000]
    peer = lambda row: _ratio(row)  # noqa: E731
    eager = lambda row: _ratio(row, "eager")  # noqa: E731
    any_ = lambda row: _ratio(row, roles=("peer", "baseline"))  # noqa: E731
    return [
        _judge("fastest peer, 2 Mpx and more", big, peer, 4.0),
        _judge("fastest peer, all but 64^2", work, peer, 5.0, mean=True),
        _judge("fastest eager peer, all but 64^2", work, eager, 8.0, mean=True),
        _judge("fastest peer or hand-written torch, all but 64^2 (information)", work, any_, 1.0, mean=True),
        _judge("fastest peer, softmax", softmax, peer, 3.5),
        _judge(
            "share of memcpy's bytes/s, Dice IoU Tversky at 2 Mpx",
            region,
            lambda r: _mine(r).get("of_memcpy"),
            0.55,
            unit="%",
        ),
        _judge(
            "64^2 forward and backward against eager (plain torch too)",
            small,
            lambda r: _ratio(r, "eager", ("peer", "baseline")),
            1.0,
        ),
        _judge("kept for backward, in logits", work, lambda r: _memory(r, "kept"), 1.01, unit=" logits", most=True),
        _judge(
            "held by a forward without gradient, in logits (top-k aside)",
            streaming,
            lambda r: _memory(r, "no_grad_peak"),
            0.1,
            unit=" logits",
            most=True,
        ),
    ]


def summary(record: dict) -> str:
    """One line for a quick run: the geometric mean over plain eager PyTorch."""
    rows = record["regimes"].get(BARS, {}).get("rows", [])
    ratios = [v for r in rows if (v := _ratio(r, "eager", ("peer", "baseline"))) is not None]
    if not ratios:
        return "nothing was compared"
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return (
        f"fastest eager contender over fastloss: {mean:.1f} (geometric mean of {len(ratios)}), least {min(ratios):.1f}"
    )


def lines(record: dict) -> list[str]:
    """The bars as text, one a line."""
    found = check(record)
    width = max(len(b.name) for b in found)
    return [f"{b.verdict.upper():8} {b.name:{width}}  {b.value:>10} ({b.target}); {b.detail}" for b in found]

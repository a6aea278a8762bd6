"""The targets that the project set itself, read from a record: pass, miss, or unproven (rows are noisy or absent)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from fastloss.measure.timing import NOISE

from . import readings as read
from .readings import ANY, entry, graph, over, own, seconds
from .regimes import JUDGED

PASS, MISS, UNPROVEN = "pass", "miss", "unproven"
BIG = 2_000_000  # pixels
Rows = list[dict]


@dataclass(frozen=True)
class Target:
    """`most`: no value may exceed the limit, else each must reach it. `mean`: the geometric mean, not the worst row.

    `optional`: rows without a value do not count (a peer has no such loss); else one missing value leaves it unproven.
    """

    name: str
    rows: Rows
    measure: Callable[[dict], float | None]
    limit: float
    unit: str = "x"
    most: bool = False
    mean: bool = False
    optional: bool = False
    note: str = ""


@dataclass(frozen=True)
class Result:
    """`value` against `target`; `detail` says which case was worst. `verdict`: pass, miss, unproven."""

    name: str
    target: str
    value: str
    verdict: str
    detail: str


def cpu(rows: Rows) -> list[Target]:
    """List the targets of a CPU. Ratios are medians over rounds, 1-thread CPU time without page faults."""
    work = [r for r in rows if r["group"] != "overhead"]
    small = [r for r in rows if r["group"] == "overhead"]
    big = [r for r in work if r["pixels"] >= BIG]
    softmax = [r for r in work if r["group"] == "softmax"]
    region = [r for r in big if r["title"] in ("Dice", "IoU", "Tversky")]
    streaming = [r for r in work if "TopK" not in r["title"] and r["numel"] >= 100_000]
    kept, held = (lambda r, what=what: read.memory(r, what) for what in ("kept", "no_grad_peak"))
    hand = "fastest peer or hand-written torch, all but 64^2 (information)"
    return [
        Target("fastest peer, 2 Mpx and more", big, read.peer, 4),
        Target("fastest peer, all but 64^2", work, read.peer, 5, mean=True),
        Target("fastest eager peer, all but 64^2", work, lambda r: read.peer(r, "eager"), 8, mean=True),
        Target(hand, work, lambda r: read.peer(r, roles=ANY), 1, mean=True),
        Target("fastest peer, softmax", softmax, read.peer, 3.5),
        Target("of memcpy's bytes/s, Dice IoU Tversky at 2 Mpx", region, lambda r: own(r).get("of_memcpy"), 0.55, "%"),
        Target("64^2 against eager (plain torch too)", small, lambda r: read.peer(r, "eager", ANY), 1),
        Target("kept for backward", work, kept, 1.01, " logits", most=True),
        Target("held by a forward without gradient (top-k aside)", streaming, held, 0.1, " logits", most=True),
    ]


def gpu(rows: Rows) -> list[Target]:
    """List the targets of the CUDA and Triton backends."""

    def pick(*groups: str, title: str = "", dtype: str = "", target: str = "uint8") -> Rows:
        found = [r for r in rows if r["group"] in groups and r["levels"] == 1 and r["target"] == target]
        return [r for r in found if title in ("", r["title"]) and dtype in ("", r["dtype"])]

    def us(row: dict) -> float | None:
        return over(graph(row), 1e-6)

    def in_proportion(row: dict) -> float | None:
        """Return bfloat16's time in a graph over float32's in proportion to the bytes, plus 1 us."""
        wide = [r for r in pick(row["group"], title="Dice", dtype="float32") if us(r)]
        return over(us(row), us(wide[0]) * row["least_bytes"] / wide[0]["least_bytes"] + 1) if wide else None

    def of_dice(row: dict) -> float | None:
        dice = pick(row["group"], title="Dice", dtype=row["dtype"])
        return over(seconds(row, "cuda"), seconds(dice[0], "cuda") if dice else None)

    def beyond(row: dict) -> float | None:
        """Return MiB at the peak of forward and backward beyond the inputs and one gradient."""
        peak = read.memory(row, "peak")
        return None if peak is None else (peak - 1) * row["logits_bytes"] / 2**20

    def of_cuda(what: str) -> Callable[[dict], float | None]:
        return lambda row: over(entry(row, "triton").get(what), entry(row, "cuda").get(what))

    def peer(kind: str, mine: str = "cuda") -> Callable[[dict], float | None]:
        return lambda row: read.peer(row, kind, ANY, mine)

    masked = [r for title in ("mask", "ignore_index") for r in pick("8mpx", title=f"Dice+BCE, {title}")]
    masked += pick("8mpx", title="Dice+BCE", target="float32")
    ce = [r for title in ("", ", ignore_index", " smoothed") for r in pick("c14", title=f"Dice+CE{title}")]
    dice8, dice2 = (pick(size, title="Dice", dtype="float32") for size in ("8mpx", "2mpx"))
    half = pick("2mpx", "8mpx", title="Dice", dtype="bfloat16")
    nine = pick("c9", title="Dice+Focal", dtype="float32")
    topk = pick("2mpx", "8mpx", "268mpx", title="TopK")
    busy = [r for r in rows if r["title"] not in ("Dice", "BCE", "Focal")]  # compiled: more than two passes
    work = [r for r in rows if r["group"] != "64"]
    simple = [r for r in work if "TopK" not in r["title"]]
    mine, triton = ([r for r in rows if key in r["contenders"]] for key in ("cuda", "triton"))
    most = [
        Target("Dice at 8.4 Mpx over the copy, graph", dice8, read.of_graph_copy, 1.6, note=" (reach for 1.25x)"),
        Target("Dice at 2.1 Mpx, graph", dice2, us, 11, " us", note=" (reach for 9)"),
        Target(
            "Dice at 2.1 Mpx, cold", dice2, lambda r: over(seconds(r, "cuda"), 1e-6), 14, " us", note=" (reach for 12)"
        ),
        Target("Dice in bfloat16 over float32's in proportion to the bytes plus 1 us, graph", half, in_proportion, 1),
        Target("Dice at 268 Mpx over a copy of two passes", pick("268mpx", title="Dice"), read.split_of_copy, 1.18),
        Target("Dice+BCE, masked or float targets, over the copy, graph", masked, read.of_graph_copy, 2.5),
        Target("any call over the copy, graph", simple, read.of_graph_copy, 4),
        Target("Dice+Focal 8x9x224^2, graph", nine, us, 15, " us"),
        Target("Dice+CE of 14 classes over a copy of its path", ce, read.of_path_copy, 1.4),
        Target("118 and 150 classes over a copy of their path", pick("c118", "c150"), read.of_path_copy, 1.8),
        Target("top-k over Dice", topk, of_dice, 2),
        Target("peak of forward and backward beyond one gradient", mine, beyond, 1, " MiB"),
        Target("Triton over CUDA at 268 Mpx", pick("268mpx"), of_cuda("seconds"), 1.15),
        Target("Triton's host time over CUDA's", pick("64"), of_cuda("host_seconds"), 1.5),
    ]
    least = [
        Target("compiled peer where it makes more than two passes", busy, peer("compiled"), 1.5, optional=True),
        Target("compiled peer", rows, peer("compiled"), 1, optional=True),
        Target("eager peer", work, peer("eager"), 8, optional=True),
        Target("Triton: compiled peer", rows, peer("compiled", "triton"), 1, optional=True),
        Target("CUDA: captured in a CUDA graph", mine, lambda r: read.captured(r, "cuda"), 1, ""),
        Target("Triton: captured in a CUDA graph", triton, lambda r: read.captured(r, "triton"), 1, ""),
    ]
    return [replace(target, most=True) for target in most] + least


def compat(rows: Rows) -> list[Target]:
    """List those of drop-ins: as fast as the original, and, compiled or not, as the compiled original."""
    keys = [("eager", "original"), ("compiled", "original compiled")]
    return [
        Target(f"original, {kind}", rows, lambda r, key=key: read.ratio(r, key), 1, optional=kind == "compiled")
        for kind, key in keys
    ]


TARGETS = {"cpu": cpu, "gpu": gpu, "compat": compat}


def rows_of(data: dict) -> Rows:
    """Return the rows that the targets are read from."""
    return data["regimes"].get(JUDGED, {}).get("rows", []) if data["kind"] == "cpu" else data["rows"]


def check(data: dict) -> list[Result]:
    """Judge every target of a record; a row that was never reached leaves its targets unproven."""
    return [judge(target, data.get("dry", False)) for target in TARGETS[data["kind"]](rows_of(data))]


def judge(target: Target, dry: bool = False) -> Result:
    unit, most, limit = target.unit, target.most, target.limit
    words = f"{'at most' if most else 'at least'} {_show(limit, unit, 'g')}"
    words += (" geometric mean" if target.mean else " each") + target.note
    values = [(target.measure(row), row) for row in ([] if dry else target.rows)]
    known = [(value, row) for value, row in values if value is not None]
    if not known:
        return Result(target.name, words, "-", UNPROVEN, "dry run" if dry else "nothing measured")
    worst, row = (max if most else min)(known, key=lambda pair: pair[0])
    value = math.exp(sum(math.log(v) for v, _ in known) / len(known)) if target.mean else worst
    missed = [r["case"] for v, r in known if (v > limit if most else v < limit)]
    noisy = [r["case"] for _, r in known if r.get("noisy", own(r).get("spread", 0) > NOISE)]
    absent = [] if target.optional else [r["case"] for v, r in values if v is None]
    detail = f"{len(known)} cases, worst {row['case']} {_show(worst, unit)}"
    for what, names in (("missed", [] if target.mean else missed), ("noisy", noisy), ("not measured", absent)):
        detail += f"; {what}: {', '.join(names)}" if names else ""
    good = value <= limit if most else value >= limit
    verdict = MISS if not good else UNPROVEN if noisy or absent else PASS
    return Result(target.name, words, _show(value, unit), verdict, detail)


def _show(value: float, unit: str, form: str = ".2f") -> str:
    return f"{100 * value:.0f}%" if unit == "%" else f"{value:{form}}{unit}"


def lines(data: dict) -> list[str]:
    """Write the targets as text, one a line."""
    found = check(data)
    width = max(len(r.name) for r in found)
    return [f"{r.verdict.upper():8} {r.name:{width}}  {r.value:>10} ({r.target}); {r.detail}" for r in found]


def summary(data: dict) -> str:
    """Sum a quick run up in one line: the geometric mean over plain eager PyTorch."""
    ratios = [value for row in rows_of(data) if (value := read.peer(row, "eager", ANY)) is not None]
    if not ratios:
        return "nothing was compared"
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return (
        f"fastest eager contender over fastloss: {mean:.1f} (geometric mean of {len(ratios)}), least {min(ratios):.1f}"
    )

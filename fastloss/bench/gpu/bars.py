"""The bars of the CUDA and Triton backends, read from a record: passed, missed, or not measured."""

from __future__ import annotations

from collections.abc import Callable

from ..bars import Bar

PASSED, MISSED, OPEN = "passed", "missed", "not measured"
NOISE = 0.15  # interquartile range over median of our own time
FAMILIES = ("sigmoid_", "softmax_")  # the CUDA backend's kernels that read logits


def seconds(row: dict, key: str) -> float | None:
    return row["contenders"].get(key, {}).get("seconds")


def fastest(row: dict, how: str) -> tuple[str, float] | None:
    """The fastest peer that computes the same formula: `how` is eager or compiled."""
    found = {
        key: entry["seconds"]
        for key, entry in row["contenders"].items()
        if entry.get("role") == "peer" and "seconds" in entry and key.endswith(" compiled") == (how == "compiled")
    }
    return min(found.items(), key=lambda item: item[1]) if found else None


def path(row: dict, key: str = "cuda") -> str | None:
    """`one pass` if one kernel over the logits wrote the gradient in forward, where it then lies; else `split`."""
    entry = row["contenders"].get(key, {})
    names = entry.get("profile", {}).get("forward", [])
    passes = [name for name in names if any(family in name for family in FAMILIES)]
    if not passes or "memory" not in entry:
        return None
    return "one pass" if len(passes) == 1 and 2 * entry["memory"]["kept"] >= row["one_gradient"] else "split"


def over(upper: float | None, lower: float | None) -> float | None:
    return None if upper is None or not lower else upper / lower


def of_copy(row: dict) -> float | None:
    entry = row["contenders"].get("cuda", {})
    return over(entry.get("seconds"), entry.get("copy"))


def of_graph_copy(row: dict) -> float | None:
    """Time over the copy of the least bytes, both in a CUDA graph."""
    graph = row["contenders"].get("cuda", {}).get("graph", {})
    return over(graph.get("seconds"), graph.get("copy"))


def split_of_copy(row: dict) -> float | None:
    return over(seconds(row, "cuda"), row["contenders"].get("cuda split", {}).get("path_copy"))


def of_path_copy(row: dict) -> float | None:
    """Time over a copy of the bytes of the path that ran."""
    return {"one pass": of_copy, "split": split_of_copy}.get(path(row) or "", lambda row: None)(row)


def peer(row: dict, how: str, key: str = "cuda") -> float | None:
    found = fastest(row, how)
    return None if found is None else over(found[1], seconds(row, key))


def graph_us(row: dict) -> float | None:
    found = row["contenders"].get("cuda", {}).get("graph", {}).get("seconds")
    return None if found is None else 1e6 * found


def cold_us(row: dict) -> float | None:
    found = seconds(row, "cuda")
    return None if found is None else 1e6 * found


def beyond(row: dict) -> float | None:
    """MiB at the peak of forward and backward beyond the inputs and one gradient."""
    peak = row["contenders"].get("cuda", {}).get("memory", {}).get("peak")
    return None if peak is None else (peak - row["one_gradient"]) / 2**20


def captured(key: str) -> Callable[[dict], float | None]:
    """1 if the call was captured in a CUDA graph, 0 if that failed."""

    def measure(row: dict) -> float | None:
        graph = row["contenders"].get(key, {}).get("graph")
        return None if graph is None else float("seconds" in graph)

    return measure


def judge(name, rows, measure, bar, *, unit="x", most=False, optional=False, dry=False, note="") -> Bar:
    """`most`: no value may exceed the bar, else each must reach it. `optional`: rows without a value do not count
    (a peer has no such loss); otherwise one missing value leaves the bar open."""
    target = f"{'at most' if most else 'at least'} {bar:g}{unit} each{note}"
    if dry:
        return Bar(name, target, "-", OPEN, "dry run")
    values = [(measure(row), row) for row in rows]
    known = [(value, row) for value, row in values if value is not None]
    if not known:
        return Bar(name, target, "-", OPEN, "nothing measured")
    worst, row = (max if most else min)(known, key=lambda item: item[0])
    missed = [r["problem"] for v, r in known if (v > bar if most else v < bar)]
    absent = [] if optional else [r["problem"] for v, r in values if v is None]
    noisy = [r["problem"] for _, r in known if r["contenders"].get("cuda", {}).get("spread", 0) > NOISE]
    detail = f"{len(known)} cases, worst {row['problem']}"
    for words, names in (("missed", missed), ("noisy", noisy), ("not measured", absent)):
        detail += f"; {words}: {', '.join(names)}" if names else ""
    verdict = MISSED if missed else OPEN if noisy or absent else PASSED
    return Bar(name, target, f"{worst:.2f}{unit}", verdict, detail)


def check(data: dict) -> list[Bar]:
    """Every bar. A row that was never reached leaves its bars open."""
    rows, dry = data["rows"], data["dry"]

    def pick(*sizes: str, title: str = "", dtype: str = "", target: str = "uint8") -> list[dict]:
        return [
            r
            for r in rows
            if r["size"] in sizes
            and r["levels"] == 1
            and r["target"] == target
            and title in ("", r["title"])
            and dtype in ("", r["dtype"])
        ]

    def in_proportion(row: dict) -> float | None:
        """bfloat16's time in a graph over float32's in proportion to the bytes, plus 1 us."""
        wide = [r for r in pick(row["size"], title="Dice", dtype="float32") if graph_us(r)]
        found = graph_us(row)
        if not wide or found is None:
            return None
        return found / (graph_us(wide[0]) * row["least_bytes"] / wide[0]["least_bytes"] + 1)

    def of_dice(row: dict) -> float | None:
        dice = pick(row["size"], title="Dice", dtype=row["dtype"])
        return over(seconds(row, "cuda"), seconds(dice[0], "cuda") if dice else None)

    def triton_over_cuda(row: dict) -> float | None:
        return over(seconds(row, "triton"), seconds(row, "cuda"))

    def host(row: dict) -> float | None:
        both = [row["contenders"].get(key, {}).get("host_seconds") for key in ("triton", "cuda")]
        return over(*both)

    def bar(*arguments, **settings) -> Bar:
        return judge(*arguments, dry=dry, **settings)

    masked = [r for title in ("mask", "ignore_index") for r in pick("8mpx", title=f"Dice+BCE, {title}")]
    masked += pick("8mpx", title="Dice+BCE", target="float32")
    ce = [r for title in ("", ", ignore_index", " smoothed") for r in pick("c14", title=f"Dice+CE{title}")]
    dice8, dice2 = (pick(size, title="Dice", dtype="float32") for size in ("8mpx", "2mpx"))
    busy = [r for r in rows if r["title"] not in ("Dice", "BCE", "Focal")]  # compiled: more than two passes
    work = [r for r in rows if r["size"] != "64"]
    ours = [r for r in rows if "cuda" in r["contenders"]]
    theirs = [r for r in rows if "triton" in r["contenders"]]
    mib = {"unit": " MiB", "most": True}
    us = {"unit": " us", "most": True}
    return [
        bar("Dice at 8.4 Mpx over the copy, graph", dice8, of_graph_copy, 1.6, most=True, note=" (reach for 1.25x)"),
        bar("Dice at 2.1 Mpx, graph", dice2, graph_us, 11, **us, note=" (reach for 9)"),
        bar("Dice at 2.1 Mpx, cold", dice2, cold_us, 14, **us, note=" (reach for 12)"),
        bar(
            "Dice in bfloat16 over float32's in proportion to the bytes plus 1 us, graph",
            pick("2mpx", "8mpx", title="Dice", dtype="bfloat16"),
            in_proportion,
            1,
            most=True,
        ),
        bar("Dice at 268 Mpx over a copy of two passes", pick("268mpx", title="Dice"), split_of_copy, 1.18, most=True),
        bar("Dice+BCE, masked or float targets, over the copy, graph", masked, of_graph_copy, 2.5, most=True),
        bar(
            "any call over the copy, graph", [r for r in work if "TopK" not in r["title"]], of_graph_copy, 4, most=True
        ),
        bar("Dice+Focal 8x9x224^2, graph", pick("c9", title="Dice+Focal", dtype="float32"), graph_us, 15, **us),
        bar("Dice+CE of 14 classes over a copy of its path", ce, of_path_copy, 1.4, most=True),
        bar("118 and 150 classes over a copy of their path", pick("c118", "c150"), of_path_copy, 1.8, most=True),
        bar("top-k over Dice", pick("2mpx", "8mpx", "268mpx", title="TopK"), of_dice, 2, most=True),
        bar(
            "compiled peer where it makes more than two passes", busy, lambda r: peer(r, "compiled"), 1.5, optional=True
        ),
        bar("compiled peer", rows, lambda r: peer(r, "compiled"), 1.0, optional=True),
        bar("eager peer", work, lambda r: peer(r, "eager"), 8.0, optional=True),
        bar("peak of forward and backward beyond one gradient", ours, beyond, 1.0, **mib),
        bar("CUDA: captured in a CUDA graph", ours, captured("cuda"), 1, unit=""),
        bar("Triton over CUDA at 268 Mpx", pick("268mpx"), triton_over_cuda, 1.15, most=True),
        bar("Triton: compiled peer", rows, lambda r: peer(r, "compiled", "triton"), 1.0, optional=True),
        bar("Triton's host time over CUDA's", pick("64"), host, 1.5, most=True),
        bar("Triton: captured in a CUDA graph", theirs, captured("triton"), 1, unit=""),
    ]


def lines(data: dict) -> list[str]:
    """The bars as text, one a line."""
    found = check(data)
    width = max(len(b.name) for b in found)
    return [f"{b.verdict:12} {b.name:{width}}  {b.value:>16} ({b.target}); {b.detail}" for b in found]

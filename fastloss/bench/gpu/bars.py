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
    """The fastest peer that computes the same formula: `how` is eager, compiled, or a key."""
    found = {
        key: entry["seconds"]
        for key, entry in row["contenders"].items()
        if entry.get("role") == "peer" and "seconds" in entry
    }
    if how == "eager":
        found = {k: v for k, v in found.items() if not k.endswith(" compiled") and k != "exacta"}
    elif how == "compiled":
        found = {k: v for k, v in found.items() if k.endswith(" compiled")}
    else:
        found = {k: v for k, v in found.items() if k == how}
    return min(found.items(), key=lambda item: item[1]) if found else None


def path(row: dict, key: str = "cuda") -> str | None:
    """`one pass` if the forward that writes the gradient ran one kernel over the logits, else `split`."""
    names = row["contenders"].get(key, {}).get("profile", {}).get("forward", [])
    passes = [name for name in names if any(family in name for family in FAMILIES)]
    return None if not passes else "one pass" if len(passes) == 1 else "split"


def over(upper: float | None, lower: float | None) -> float | None:
    return None if upper is None or not lower else upper / lower


def of_copy(row: dict) -> float | None:
    entry = row["contenders"].get("cuda", {})
    return over(entry.get("seconds"), entry.get("copy"))


def of_path_copy(row: dict) -> float | None:
    """Time over a copy of the bytes of the path that ran."""
    name = path(row)
    if name is None:
        return None
    if name == "split" and row["split_bytes"] != row["least_bytes"]:
        return over(seconds(row, "cuda"), row["contenders"].get("cuda split", {}).get("path_copy"))
    return of_copy(row)


def split_of_copy(row: dict) -> float | None:
    return over(seconds(row, "cuda"), row["contenders"].get("cuda split", {}).get("path_copy"))


def peer(row: dict, how: str, key: str = "cuda") -> float | None:
    found = fastest(row, how)
    return None if found is None else over(found[1], seconds(row, key))


def graph_us(row: dict) -> float | None:
    """Microseconds in a CUDA graph, as if each pixel had the 9 bytes of float32 and uint8."""
    found = row["contenders"].get("cuda", {}).get("graph", {}).get("seconds")
    return None if found is None else 1e6 * found * 9 * row["pixels"] / row["least_bytes"]


def peak(row: dict) -> float | None:
    return over(row["contenders"].get("cuda", {}).get("memory", {}).get("peak"), row["one_gradient"])


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
    """Every bar, in the order of the issues. A row that was never reached leaves its bars open."""
    rows, dry = data["rows"], data["dry"]

    def pick(*sizes: str, title: str = "", dtype: str = "") -> list[dict]:
        return [
            r
            for r in rows
            if r["size"] in sizes
            and r["levels"] == 1
            and r["target"] == "uint8"
            and title in ("", r["title"])
            and dtype in ("", r["dtype"])
        ]

    def of_dice(row: dict) -> float | None:
        dice = pick(row["size"], title="Dice", dtype=row["dtype"])
        return over(seconds(row, "cuda"), seconds(dice[0], "cuda") if dice else None)

    def triton_over_cuda(row: dict) -> float | None:
        return over(seconds(row, "triton"), seconds(row, "cuda"))

    def host(row: dict) -> float | None:
        both = [row["contenders"].get(key, {}).get("host_seconds") for key in ("triton", "cuda")]
        return over(*both)

    heavy = [r for r in rows if r["mode"] == "multiclass" or "TopK" in r["title"]]
    light = [r for r in rows if r not in heavy]
    ours = [r for r in rows if "cuda" in r["contenders"]]
    theirs = [r for r in rows if "triton" in r["contenders"]]

    def bar(*arguments, **settings) -> Bar:
        return judge(*arguments, dry=dry, **settings)

    return [
        bar("Dice at 8.4 Mpx over the copy", pick("8mpx", title="Dice"), of_copy, 1.35, most=True),
        bar(
            "Dice at 2.1 Mpx, in a CUDA graph (bfloat16 scaled by its bytes)",
            pick("2mpx", title="Dice"),
            graph_us,
            10,
            unit=" us",
            most=True,
        ),
        bar(
            "Dice at 268 Mpx over a copy of two passes' bytes",
            pick("268mpx", title="Dice"),
            split_of_copy,
            1.18,
            most=True,
        ),
        bar(
            "softmax Dice+Focal, 9 and 14 classes, over a copy of its path's bytes",
            pick("c9", "c14", title="Dice+Focal"),
            of_path_copy,
            1.25,
            most=True,
        ),
        bar(
            "top-k over Dice, resident range",
            pick("2mpx", "8mpx", title="TopK"),
            of_dice,
            2.5,
            most=True,
            note=" (reach for 1.5x)",
        ),
        bar("fastest compiled peer, binary and multilabel", light, lambda r: peer(r, "compiled"), 1.5, optional=True),
        bar("fastest compiled peer, softmax or top-k", heavy, lambda r: peer(r, "compiled"), 4.0, optional=True),
        bar("fastest eager peer", rows, lambda r: peer(r, "eager"), 10.0, optional=True),
        bar("exacta", rows, lambda r: peer(r, "exacta"), 1.5, optional=True),
        bar("peak of forward and backward, in gradients", ours, peak, 1.01, unit=" gradients", most=True),
        bar("CUDA: captured in a CUDA graph", ours, captured("cuda"), 1, unit=""),
        bar("Triton over CUDA at 268 Mpx", pick("268mpx"), triton_over_cuda, 1.15, most=True),
        bar("Triton: fastest compiled peer", rows, lambda r: peer(r, "compiled", "triton"), 1.0, optional=True),
        bar("Triton: exacta", rows, lambda r: peer(r, "exacta", "triton"), 1.0, optional=True),
        bar("Triton's host time over CUDA's", pick("64"), host, 1.5, most=True),
        bar("Triton: captured in a CUDA graph", theirs, captured("triton"), 1, unit=""),
    ]


def lines(data: dict) -> list[str]:
    """The bars as text, one a line."""
    found = check(data)
    width = max(len(b.name) for b in found)
    return [f"{b.verdict:12} {b.name:{width}}  {b.value:>16} ({b.target}); {b.detail}" for b in found]

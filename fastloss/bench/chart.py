"""Bar charts of a record (needs matplotlib): speed against peers by case, and the README's 3D many-class picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fastloss.measure.providers import OURS

from .bars import fastest
from .regimes import BARS

COLOURS = {"fastloss": "#1b7f5c", "smp": "#c2603c", "monai": "#4a6fa5", "exacta": "#8d6bab", "torch": "#8a8a8a"}
SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}
TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
HERO = ("softmax3d-dice+ce", "softmax3d-dice+focal")


def possible() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def _axes(width: float, height: float, columns: int = 1):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False, layout="constrained")
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[0])


def _save(figure, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _bar(axis, at: float, entry: dict, value: float, height: float) -> None:
    compiled = entry["how"] == "compiled"
    axis.barh(
        at,
        value,
        height,
        color=COLOURS.get(entry["library"], "#666"),
        alpha=0.55 if compiled else 1.0,
        hatch="//" if compiled else None,
        edgecolor="white",
        linewidth=0.3,
    )


def speed(data: dict, path: Path) -> Path | None:
    """The fastest eager and the fastest compiled peer of each case, as multiples of fastloss's time."""
    rows = [r for r in data["regimes"].get(BARS, {}).get("rows", []) if "seconds" in r["contenders"].get(OURS, {})]
    bars = []
    for row in rows:
        for how in ("eager", "compiled"):
            best = fastest(row, how) or fastest(row, how, ("peer", "baseline"))
            if best:
                bars.append((row, *best))
    if not bars:
        return None
    figure, (axis,) = _axes(9, 1.2 + 0.2 * len(bars) + 0.05 * len(rows))
    ticks, at, last = [], 0.0, None
    for row, name, entry in bars:
        at += 1.0 if row is last else 1.5
        if row is not last:
            ticks.append((at, f"{row['title']}  {row['size']} {SHORT.get(row['dtype'], row['dtype'])}"))
        last, value = row, entry["ratio"]["median"]
        _bar(axis, at, entry, value, 0.9)
        axis.text(value, at, f" {value:.1f}  {name}", va="center", fontsize=7)
    axis.set_yticks([t for t, _ in ticks], [words for _, words in ticks], fontsize=8)
    axis.set_ylim(at + 1, 0.5)
    axis.set_xscale("log")
    axis.set_xticks(TICKS, [str(t) for t in TICKS])
    axis.minorticks_off()
    low, high = min(b[2]["ratio"]["median"] for b in bars), max(b[2]["ratio"]["median"] for b in bars)
    axis.set_xlim(min(0.8, 0.8 * low), 2.2 * high)
    axis.axvline(1, color=COLOURS[OURS], linewidth=2)
    axis.set_xlabel("fastest eager peer (solid) and fastest compiled peer (hatched): time / fastloss's time")
    axis.set_title(f"forward + backward, 1 thread, {data['machine']['cpu']}", fontsize=10)
    return _save(figure, path)


def many_classes(data: dict, path: Path) -> Path | None:
    """Time and kept memory of the first 3D many-class case that was measured."""
    rows = {r["case"]: r for r in data["regimes"].get(BARS, {}).get("rows", [])}
    row = next((rows[n] for n in HERO if "seconds" in rows.get(n, {}).get("contenders", {}).get(OURS, {})), None)
    if row is None:
        return None
    entries = {
        k: e
        for k, e in row["contenders"].items()
        if "seconds" in e and e["role"] in ("ours", "peer") and e.get("memory")
    }
    order = sorted(entries, key=lambda k: entries[k]["seconds"])
    figure, (time, memory) = _axes(10, 0.9 + 0.42 * len(order), 2)
    for i, key in enumerate(order):
        entry = entries[key]
        _bar(time, i, entry, 1e3 * entry["seconds"], 0.7)
        kept, peak = entry["memory"]["kept"], entry["memory"]["peak"]
        memory.barh(i, peak, 0.7, color="#dddddd")
        _bar(memory, i, entry, kept, 0.7)
        slower = f"  {entry['ratio']['median']:.1f}x" if "ratio" in entry else ""
        time.text(1e3 * entry["seconds"], i, f" {1e3 * entry['seconds']:.0f} ms{slower}", va="center", fontsize=9)
        memory.text(max(kept, peak), i, f" {kept:.1f}, peak {peak:.1f}", va="center", fontsize=9)
    for axis, title in (
        (time, "forward + backward, 1 thread, ms"),
        (memory, "kept for backward (grey: peak), in logits"),
    ):
        axis.set_title(title, fontsize=10)
        axis.invert_yaxis()
        axis.margins(x=0.22)
    time.set_yticks(range(len(order)), order)
    time.get_yticklabels()[order.index(OURS)].set_fontweight("bold")
    memory.set_yticks([])
    figure.suptitle(f"{row['title']} on {row['size']} {row['dtype']} logits, {data['machine']['cpu']}", fontsize=11)
    return _save(figure, path)

"""Bar charts of a record (needs matplotlib): speed against peers by case, and the README's pictures: a 3D loss of many
classes, and logits that never exist."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fastloss.measure.cases import TAGS
from fastloss.measure.contenders import OURS

from . import readings as read
from .targets import rows_of

COLOURS = {"fastloss": "#1b7f5c", "smp": "#c2603c", "monai": "#4a6fa5", "exacta": "#8d6bab", "torch": "#8a8a8a"}
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


def _bar(axis, at: float, key: str, value: float, height: float) -> None:
    compiled = read.how(key) == "compiled"
    axis.barh(
        at,
        value,
        height,
        color=COLOURS.get(key.removesuffix(" compiled"), "#666"),
        alpha=0.55 if compiled else 1.0,
        hatch="//" if compiled else None,
        edgecolor="white",
        linewidth=0.3,
    )


def draw(data: dict, stem: Path) -> list[Path]:
    """Draw the charts of a CPU record into files that begin with `stem`; none without matplotlib."""
    if data["kind"] != "cpu" or not possible():
        return []
    drawn = [
        speed(data, stem.with_name(f"{stem.name}.png")),
        many_classes(data, stem.with_name(f"{stem.name}--3d.png")),
    ]
    return [path for path in drawn if path]


def speed(data: dict, path: Path) -> Path | None:
    """Draw the fastest eager and the fastest compiled peer of each case, as multiples of fastloss's time."""
    bars: list[tuple[dict, str, float]] = []
    for row in rows_of(data):
        for how in ("eager", "compiled"):
            best = read.fastest(row, how) or read.fastest(row, how, read.ANY)
            if best and (value := read.ratio(row, best)) is not None:
                bars.append((row, best, value))
    if not bars:
        return None
    figure, (axis,) = _axes(9, 1.2 + 0.2 * len(bars) + 0.05 * len({row["case"] for row, _, _ in bars}))
    ticks, at, last = [], 0.0, None
    for row, key, value in bars:
        at += 1.0 if row is last else 1.5
        if row is not last:
            ticks.append((at, f"{row['title']}  {row['size']} {TAGS[row['dtype']]}"))
        last = row
        _bar(axis, at, key, value, 0.9)
        axis.text(value, at, f" {value:.1f}  {key}", va="center", fontsize=7)
    axis.set_yticks([t for t, _ in ticks], [words for _, words in ticks], fontsize=8)
    axis.set_ylim(at + 1, 0.5)
    axis.set_xscale("log")
    axis.set_xticks(TICKS, [str(t) for t in TICKS])
    axis.minorticks_off()
    values = [value for _, _, value in bars]
    axis.set_xlim(min(0.8, 0.8 * min(values)), 2.2 * max(values))
    axis.axvline(1, color=COLOURS[OURS], linewidth=2)
    axis.set_xlabel("fastest eager peer (solid) and fastest compiled peer (hatched): time / fastloss's time")
    axis.set_title(f"forward + backward, 1 thread, {data['machine']['cpu']}", fontsize=10)
    return _save(figure, path)


def many_classes(data: dict, path: Path) -> Path | None:
    """Time and kept memory of the first 3D many-class case that was measured."""
    rows = {row["case"]: row for row in rows_of(data) if read.seconds(row, OURS)}
    row = next((rows[name] for name in HERO if name in rows), None)
    if row is None:
        return None
    entries = {
        key: entry
        for key, entry in row["contenders"].items()
        if "seconds" in entry and entry["role"] in ("ours", "peer") and entry.get("memory")
    }
    order = sorted(entries, key=lambda key: entries[key]["seconds"])
    figure, (time, memory) = _axes(10, 0.9 + 0.42 * len(order), 2)
    for i, key in enumerate(order):
        kept, peak = entries[key]["memory"]["kept"], entries[key]["memory"]["peak"]
        ms = 1e3 * entries[key]["seconds"]
        _bar(time, i, key, ms, 0.7)
        memory.barh(i, peak, 0.7, color="#dddddd")
        _bar(memory, i, key, kept, 0.7)
        slower = f"  {read.ratio(row, key):.1f}x" if key != OURS else ""
        time.text(ms, i, f" {ms:.0f} ms{slower}", va="center", fontsize=9)
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


HEADLINE = "up4-150x512"  # of bench/bands.py
INK, DARK_INK = "#1f2328", "#e6edf3"  # of a light page and of a dark one
DARK = f"""<style>@media (prefers-color-scheme: dark) {{
 text {{ fill: {DARK_INK} !important }}
 [style*="stroke: {INK}"] {{ stroke: {DARK_INK} !important }}
}}</style>"""


def bands(data: dict, path: Path) -> Path:
    """Draw time and memory of the headline case of a record of bench/bands.py, one thread: an SVG file that suits light
    and dark pages."""
    import matplotlib
    import matplotlib.pyplot as plt

    rows = {way: row for way, row in data["cases"][HEADLINE]["1"].items() if "peak" in row}
    order = sorted(rows, key=lambda way: rows[way]["ratio"])
    settings = {"svg.hashsalt": "fastloss", "svg.fonttype": "none", "font.family": "sans-serif"}
    settings |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    with matplotlib.rc_context(settings):
        figure, axes = _axes(9, 0.8 + 0.32 * len(order), 2)
        for i, way in enumerate(order):
            name, _, how = way.partition(", ")
            key = name.lower() + (" compiled" if how == "compiled" else "")
            mebibytes = rows[way]["peak"] / 2**20
            for axis, value, words in (
                (axes[0], rows[way]["ratio"], f"{rows[way]['ratio']:.1f}x"),
                (axes[1], mebibytes, f"{mebibytes:.0f} MiB"),
            ):
                _bar(axis, i, key, value, 0.7)
                axis.text(value, i, f" {words}", va="center", fontsize=9)
        for axis, title in zip(axes, ("CPU time of forward and backward", "memory beyond the inputs")):
            axis.set_title(title, fontsize=10)
            axis.invert_yaxis()
            axis.margins(x=0.2)
            axis.set_xticks([])
            axis.spines["bottom"].set_visible(False)
        axes[0].set_yticks(range(len(order)), order)
        axes[1].set_yticks([])
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)
    path.write_text(path.read_text(encoding="utf-8").replace("<defs>", f"{DARK}\n <defs>", 1), encoding="utf-8")
    return path

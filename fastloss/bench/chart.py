"""Bar charts of a record (needs matplotlib): speed against peers by case, and the README's 3D many-class picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from .providers import OURS
from .regimes import BARS

COLOURS = {"fastloss": "#1b7f5c", "smp": "#c2603c", "monai": "#4a6fa5", "exacta": "#8d6bab", "torch": "#8a8a8a"}
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
    """Each peer's time over fastloss's, by case, on a logarithmic axis."""
    rows = [r for r in data["regimes"].get(BARS, {}).get("rows", []) if "seconds" in r["contenders"].get(OURS, {})]
    rows = [r for r in rows if r["group"] != "overhead"]
    if not rows:
        return None
    keys = list(
        dict.fromkeys(
            k for r in rows for k, e in r["contenders"].items() if "ratio" in e and e["role"] in ("peer", "baseline")
        )
    )
    figure, (axis,) = _axes(9, 0.9 + 0.13 * len(rows) * (len(keys) + 2))
    for i, row in enumerate(rows):
        entries = [(k, row["contenders"].get(k)) for k in keys]
        for j, (_, entry) in enumerate(entries):
            if entry and "ratio" in entry and entry["role"] in ("peer", "baseline"):
                _bar(
                    axis,
                    i + (j - len(keys) / 2) / (len(keys) + 2),
                    entry,
                    entry["ratio"]["median"],
                    1 / (len(keys) + 2),
                )
    axis.set_yticks(range(len(rows)), [f"{r['title']}  {r['size']} {r['dtype']}" for r in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.axvline(1, color=COLOURS["fastloss"], linewidth=2)
    axis.set_xlabel("time / fastloss's time (1 thread, CPU time, forward + backward); hatched: under torch.compile")
    handles = [
        axis.barh([0], [0], color=COLOURS[n], label=n)
        for n in ("torch", "smp", "monai", "exacta")
        if any(k.startswith(n) for k in keys)
    ]
    axis.legend(handles=handles, fontsize=8, loc="lower right")
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
        _bar(memory, i, entry, entry["memory"]["kept"], 0.7)
        slower = f"  {entry['ratio']['median']:.1f}x" if "ratio" in entry else ""
        time.text(1e3 * entry["seconds"], i, f" {1e3 * entry['seconds']:.0f} ms{slower}", va="center", fontsize=9)
        memory.text(entry["memory"]["kept"], i, f" {entry['memory']['kept']:.1f}", va="center", fontsize=9)
    for axis, title in (
        (time, "forward + backward, 1 thread, ms"),
        (memory, "kept for backward, multiples of the logits"),
    ):
        axis.set_title(title, fontsize=10)
        axis.invert_yaxis()
        axis.margins(x=0.22)
    time.set_yticks(range(len(order)), order)
    memory.set_yticks([])
    figure.suptitle(f"{row['title']} on {row['size']} {row['dtype']} logits, {data['machine']['cpu']}", fontsize=11)
    return _save(figure, path)

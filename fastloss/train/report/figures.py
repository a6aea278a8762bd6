"""The papers' figures, and charts of what was measured, as PNG bytes."""

from __future__ import annotations

import io
import statistics
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..datasets.files import reading
from ..experiments import Row, title
from .page import Figure
from .published import PAPER2_TABLE4
from .results import Reproduction

COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#66ccee", "#ccbb44")
# Okabe and Ito's, which colour-blind readers tell apart
HIT, FALSE, MISSED = (0.00, 0.62, 0.45), (0.90, 0.62, 0.00), (0.34, 0.71, 0.91)
LEGEND = "Green right, orange false, blue missed."
COLUMNS = 6
Cell = tuple[str, np.ndarray]  # title and picture [H, W, 3]


def figure2(found: Reproduction) -> list[Figure]:
    """Draw paper 2's Fig. 2: the training loss with its drop at the switch, and validation Dice."""
    for table, name in (("figure2", "iou-to-dice"), ("table3", "iou-to-bce")):
        row = found.find(table, name)
        log = found.log(row) if row else None
        if log:
            figure, (above, below) = _axes(2, 1, (8, 6))
            epochs = np.array(log["epoch"]) + 1
            above.plot(epochs, log["train_loss"], color=COLOURS[0], label="training")
            above.plot(epochs, log["valid_loss"], color=COLOURS[1], label="validation")
            below.plot(epochs, log[found.column("dice")], color=COLOURS[0])
            for axes in (above, below):
                for epoch, altered in zip(log["epoch"], log["altered"]):
                    if altered:
                        axes.axvline(epoch + 0.5, color="0.3", linestyle=":")
            above.set(ylabel="loss (another one after the switch)", title=f"{row.title}, seed 0")
            above.legend()
            below.set(ylabel="validation Dice")
            _by_epoch(above)
            _by_epoch(below)
            return [Figure("figure2.png", f"Fig. 2: {row.title} and its switch", _png(figure), found.caveat)]
    return []


def pairs(found: Reproduction) -> list[Figure]:
    """Draw validation Dice by epoch of each composite, its altered twin, and the second loss alone for as long."""
    figure, panels = _axes(2, 2, (10, 7))
    drawn = False
    for axes, (composite, altered) in zip(panels.flat, PAPER2_TABLE4):
        control = altered.split("-to-")[1]
        for colour, (table, name) in zip(COLOURS, (("table3", altered), ("table2", composite), ("controls", control))):
            row = found.find(table, name)
            if row and (log := found.log(row)):
                axes.plot(np.array(log["epoch"]) + 1, log[found.column("dice")], color=colour, label=row.title)
                drawn = True
        axes.set(ylabel="validation Dice", title=title(altered))
        _by_epoch(axes)
        axes.legend(fontsize="small") if axes.lines else None
    return [Figure("pairs.png", "Altered, composite, and the second loss alone", _png(figure), found.caveat)] * drawn


def masks(found: Reproduction) -> list[Figure]:
    """Draw every finished method on one slice, coloured by its errors: paper 2's Fig. 3, or the slice with the largest
    truth (see `Slices.example`)."""
    cells: list[Cell] = []
    seen: dict[str, Row] = {row.name: row for row in found.rows if not row.folds and row.table != "controls"}
    where = ""
    for row in seen.values():
        path = found.example(row)
        if path is None:
            continue
        with reading(path), np.load(path) as arrays:
            grey = torch.from_numpy(arrays["image"].astype(np.float32))
            grey = (grey - grey.min()) / (grey.max() - grey.min()).clamp_min(1e-6)
            truth, guess = (_outline(arrays[name]) for name in ("truth", "found"))
            where = str(arrays["name"])
            pixels = int(truth.sum())
            top, left, height, width = arrays["region"].tolist()
        where += f", {pixels} pixels of truth"
        where += ", the region of the paper's Fig. 3" if height else ", the largest of the validation slices"
        if height:
            grey, truth, guess = (array[top : top + height, left : left + width] for array in (grey, truth, guess))
        if not cells:
            cells += [("input", paint(grey, [])), ("truth", paint(grey, [(truth, HIT)]))]
        early = " (before the switch)" if found.predates(row) else ""
        cells.append(_guessed(f"{row.title}\n{{}}{early}", grey, truth, guess))
    if not cells:
        return []
    picture = mosaic(cells, min(COLUMNS, len(cells)))
    return [Figure("masks.png", "Masks of every method", picture, found.caveat, f"{where}. {LEGEND}")]


def demo_masks(images: Tensor, truth: Tensor, found: dict[str, Tensor], z: list[int]) -> Figure:
    """Draw a line for each slice: image, truth, each method's mask coloured by its errors. All [n, H, W], masks 0 or
    1."""
    cells: list[Cell] = []
    for row, number in enumerate(z):
        grey, true = images[row].clamp(0, 1), truth[row].bool()
        cells += [(f"input, slice {number}", paint(grey, [])), ("truth", paint(grey, [(true, HIT)]))]
        cells += [_guessed(f"{name}\n{{}}", grey, true, mask[row].bool()) for name, mask in found.items()]
    words = f"Validation slices with the largest truth (top), a middle and a small one. {LEGEND}"
    return Figure("masks.png", "Masks beside the truth", mosaic(cells, 2 + len(found)), caption=words)


def _guessed(title: str, grey: Tensor, truth: Tensor, guess: Tensor) -> Cell:
    dice = 2 * (guess & truth).sum() / (guess.sum() + truth.sum()).clamp_min(1)
    layers = [(guess & truth, HIT), (guess & ~truth, FALSE), (~guess & truth, MISSED)]
    return title.format(f"Dice {dice:.2f}"), paint(grey, layers)


def paint(grey: Tensor, layers: list[tuple[Tensor, tuple[float, float, float]]]) -> np.ndarray:
    picture = grey[..., None].repeat(1, 1, 3)
    for where, colour in layers:
        picture[where] = 0.35 * picture[where] + 0.65 * torch.tensor(colour)
    return picture.numpy()


def mosaic(cells: list[Cell], columns: int) -> bytes:
    """Draw titled pictures, as many in a line."""
    lines = -(-len(cells) // columns)
    figure, panels = _axes(lines, columns, (2.0 * columns, 2.3 * lines))
    for axes in np.ravel(panels):
        axes.axis("off")
    for axes, (name, picture) in zip(np.ravel(panels), cells):
        axes.imshow(picture)
        axes.set_title(name, fontsize="small")
    return _png(figure)


def demo_curves(
    logs: dict[str, list[dict[str, list[float]]]], switch: dict[str, int], baseline: float
) -> Figure:  # fmt: skip
    """Draw training loss and validation Dice by epoch, means over the seeds' logs; `switch`: method -> epoch that
    altered its loss."""
    figure, (above, below) = _axes(2, 1, (8, 7))
    for colour, (method, mine) in zip(COLOURS, logs.items()):
        loss, dice = (np.array([log[name] for log in mine]) for name in ("train_loss", "dice"))
        epochs = np.arange(1, loss.shape[1] + 1)
        above.plot(epochs, loss.mean(0), color=colour, label=method, zorder=3 if method in switch else 2)
        below.plot(epochs, dice.mean(0), color=colour, label=method)
        below.fill_between(epochs, dice.min(0), dice.max(0), color=colour, alpha=0.15, linewidth=0)
        if method in switch:
            for axes in (above, below):
                axes.axvline(switch[method] + 0.5, color=colour, linestyle=":")
            at = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top", "color": colour}
            above.annotate(f"{method}: switch", (switch[method] + 0.5, 0.97), (6, 0), **at)
    below.axhline(baseline, color="0.4", linestyle="--", label="intensity thresholds")
    above.set(ylabel="training loss, each method's own scale", yscale="log")
    below.set(ylabel="validation Dice (band: range of seeds)", ylim=(0, 1))
    for axes in (above, below):
        _by_epoch(axes)
    below.legend(ncols=2, fontsize="small")
    return Figure("curves.png", "Losses and Dice by epoch, the switch marked", _png(figure))


def _outline(labels: np.ndarray) -> Tensor:
    """Find any foreground: of class indices, or of several channels."""
    mask = torch.from_numpy(labels) > 0
    return mask if mask.ndim == 2 else mask.any(0)


def paper1(found: Reproduction) -> list[Figure]:
    """Draw paper 1's Fig. 1 (losses) and Fig. 2 (Dice and Jaccard) by epoch."""
    logs = {name: found.log(row) for name in ("baseline", "modified") if (row := found.find("table2", name))}
    logs = {name: log for name, log in logs.items() if log}
    if not logs:
        return []
    figure, panels = _axes(1, 4, (15, 3.6))
    columns = (("train_loss", "training loss"), ("valid_loss", "validation loss"),
               (found.column("dice"), "validation Dice"), (found.column("iou"), "validation Jaccard"))  # fmt: skip
    for axes, (column, words) in zip(panels.flat, columns):
        for colour, (name, log) in zip(COLOURS, logs.items()):
            axes.plot(np.array(log["epoch"]) + 1, log[column], color=colour, label=name)
        axes.set_title(words)
        _by_epoch(axes)
    panels.flat[0].legend()
    return [Figure("curves.png", "Fig. 1 and 2: losses, Dice and Jaccard by epoch", _png(figure), found.caveat)]


def throughput(rows: list[dict[str, Any]]) -> list[Figure]:
    """Draw loss time and its extra memory by contender, one panel a case."""
    cases = list(dict.fromkeys([row["case"] for row in rows]))
    figure, panels = _axes(len(cases), 2, (11, 1.2 + 1.5 * len(cases)))
    for (times, memory), case in zip(panels, cases):
        mine = [row for row in rows if row["case"] == case]
        names = [row["contender"] for row in mine]
        colours = [COLOURS[0] if name == "fastloss" else "0.65" for name in names]
        for axes, key, scale, unit in ((times, "loss_seconds", 1e3, "ms"), (memory, "loss_peak_bytes", 2**-20, "MiB")):
            values = [scale * (statistics.median(row[key]) if isinstance(row[key], list) else row[key] or 0)
                      for row in mine]  # fmt: skip
            axes.barh(names, values, color=colours)
            axes.invert_yaxis()
            what = "forward and backward" if unit == "ms" else "peak memory beyond the logits"
            axes.set_xlabel(f"loss: {what}, {unit}", fontsize="small")
        times.set_title(case, fontsize="small", loc="left")
    return [Figure("throughput.png", "Loss inside the training step", _png(figure))]


def _by_epoch(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _axes(lines: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=size, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    for axes in panels.flat:
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    return figure, panels[:, 0] if columns == 1 else panels


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()

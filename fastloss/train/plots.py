"""The two pictures of a demo: how the losses fell, and masks beside the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkpoint import read_log, write_atomically

COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#66ccee", "#ccbb44")
HIT, FALSE, MISSED = (0.20, 0.75, 0.35), (0.90, 0.25, 0.20), (0.25, 0.50, 0.95)


def curves(path: Path, runs: dict[str, list[Path]], switch: dict[str, int], baseline: float, title: str) -> None:
    """Training loss and validation Dice by epoch, means over seeds; `switch`: method -> epoch that altered its loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for colour, (method, folders) in zip(COLOURS, runs.items()):
        loss = np.mean([_epoch_means(read_log(folder / "steps.csv")) for folder in folders], axis=0)
        dice = np.array([read_log(folder / "epochs.csv")["dice"] for folder in folders])
        epochs = np.arange(1, len(loss) + 1)
        above.plot(epochs, loss, color=colour, label=method, zorder=3 if method in switch else 2)
        below.plot(epochs, dice.mean(0), color=colour, label=method)
        below.fill_between(epochs, dice.min(0), dice.max(0), color=colour, alpha=0.15, linewidth=0)
        if method in switch:
            for axes in (above, below):
                axes.axvline(switch[method] + 0.5, color=colour, linestyle=":")
            words = f"{method}: switch"
            above.annotate(words, (switch[method] + 0.5, 0.97), (6, 0), xycoords=("data", "axes fraction"),
                           textcoords="offset points", va="top", color=colour)  # fmt: skip
    below.axhline(baseline, color="0.4", linestyle="--", label="intensity thresholds")
    above.set(ylabel="training loss, each method's own scale", yscale="log", title=title)
    below.set(xlabel="epoch", ylabel="validation Dice (band: range of seeds)", ylim=(0, 1))
    for axes in (above, below):
        axes.grid(alpha=0.25)
    below.legend(ncols=2, fontsize="small")
    _save(figure, path)


def _epoch_means(log: dict[str, list[float]]) -> np.ndarray:
    epoch, loss = np.array(log["epoch"], dtype=int), np.array(log["loss"])
    return np.bincount(epoch, loss) / np.bincount(epoch)


def masks(path: Path, images: Tensor, truth: Tensor, found: dict[str, Tensor], z: list[int], title: str) -> None:
    """Rows: slices; columns: image, truth, each method's mask coloured by its errors. All [n, H, W], masks 0 or 1."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = 2 + len(found)
    figure = Figure(figsize=(1.9 * columns, 2.05 * len(z) + 0.9), layout="constrained")
    grid = figure.subplots(len(z), columns, squeeze=False)
    for row, axes in enumerate(grid):
        grey, true = images[row].clamp(0, 1), truth[row].bool()
        axes[0].imshow(grey.numpy(), cmap="gray", vmin=0, vmax=1)
        axes[1].imshow(painted(grey, [(true, HIT)]))
        axes[0].set_ylabel(f"slice {z[row]}")
        for cell, mask in zip(axes[2:], found.values()):
            guess = mask[row].bool()
            cell.imshow(painted(grey, [(guess & true, HIT), (guess & ~true, FALSE), (~guess & true, MISSED)]))
            dice = 2 * (guess & true).sum() / (guess.sum() + true.sum()).clamp_min(1)
            cell.set_xlabel(f"Dice {dice:.2f}", fontsize="small")
        for cell in axes:
            cell.set(xticks=[], yticks=[])
    for cell, name in zip(grid[0], ["input", "truth", *found]):
        cell.set_title(name, fontsize="medium")
    colours = [Patch(color=HIT, label="right"), Patch(color=FALSE, label="false"), Patch(color=MISSED, label="missed")]
    figure.legend(handles=colours, loc="outside lower center", ncols=3)
    figure.suptitle(title, fontsize="medium")
    _save(figure, path)


def painted(grey: Tensor, layers: list[tuple[Tensor, tuple[float, float, float]]]) -> np.ndarray:
    picture = grey[..., None].repeat(1, 1, 3)
    for where, colour in layers:
        picture[where] = 0.35 * picture[where] + 0.65 * torch.tensor(colour)
    return picture.numpy()


def _save(figure, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))

"""Draws the pictures of the pages, with the losses themselves: `python docs/pictures.py` rewrites docs/assets/*."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import fastloss as fl

ASSETS = Path(__file__).resolve().parent / "assets"
LOSSES = {
    "cross-entropy": (fl.BCEWithLogitsLoss(), "#4a6fa5"),
    "focal": (fl.FocalLoss("binary"), "#8d6bab"),
    "top-k (3%)": (fl.TopKLoss("binary", k=0.03), "#8a8a8a"),
    "Dice": (fl.DiceLoss("binary"), "#1b7f5c"),
    "IoU": (fl.IoULoss("binary"), "#79b791"),
    "Tversky (0.3 FP, 0.7 FN)": (fl.TverskyLoss("binary", alpha=0.3, beta=0.7), "#c2603c"),
    "Dice + cross-entropy": (fl.DiceLoss("binary") + fl.BCEWithLogitsLoss(), "#222222"),
}
plt.rcParams.update({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "fastloss"})


def save(figure, name: str) -> None:
    """The same bytes for the same picture: no date, no random names."""
    date = {"metadata": {"Date": None}} if name.endswith(".svg") else {"dpi": 110, "metadata": {"Software": None}}
    figure.savefig(ASSETS / name, facecolor="white", **date)
    plt.close(figure)


def distance(size: int, row: float, column: float) -> torch.Tensor:
    """Of each pixel to a point: [size, size], in pixels."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((rows - row) ** 2 + (columns - column) ** 2).sqrt()


def gradients() -> None:
    """Where each loss pushes, in an image with a large and a small object."""
    size, small = 128, distance(128, 100, 98)
    target = ((distance(size, 50, 46) < 28) | (small < 6)).float()
    found = ((28 - distance(size, 53, 50)) / 1.5).clamp(-6, 6)
    missed = (-3.0 - (small - 6).clamp(min=0)).clamp(min=-6)
    x = torch.maximum(found, missed)[None, None].requires_grad_()
    figure, axes = plt.subplots(3, 3, figsize=(7.5, 8.2), layout="constrained")
    panels = [("target", target), ("prediction", x.detach().sigmoid()[0, 0])]
    for axis, (title, image) in zip(axes.flat, panels):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=11)
    for axis, (title, (loss, _)) in zip(axes.flat[2:], LOSSES.items()):
        (gradient,) = torch.autograd.grad(loss(x, target[None, None]), x)
        push = -gradient[0, 0]
        share = push.abs()[small < 10].sum() / push.abs().sum()
        most = push.abs().max()
        axis.imshow(push / most, cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_title(f"{title}: {share:.0%}", fontsize=11)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(True)
    save(figure, "gradients.png")


def sizes() -> None:
    """The loss of a missed object and of one that is a pixel too large, by its radius."""
    radii = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96]
    middle = distance(256, 127.5, 127.5)
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 4.8), layout="constrained", sharey=True)
    for axis, title, grown in zip(axes, ("missed", "one pixel too large"), (None, 1)):
        for name, (loss, colour) in LOSSES.items():
            if "+" in name:
                continue
            values = []
            for radius in radii:
                target = (middle < radius).float()[None, None]
                predicted = torch.zeros_like(target) if grown is None else (middle < radius + grown).float()[None, None]
                values.append(loss(12 * predicted - 6, target).item())
            axis.loglog(radii, values, color=colour, label=name, linewidth=2)
        axis.set_title(f"an object that is {title}", fontsize=12)
        axis.set_xlabel("radius of the object, pixels")
    axes[0].set_ylabel("loss")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=11, frameon=False)
    save(figure, "sizes.svg")


def pixel() -> None:
    """How hard one pixel of the object is pushed up, by its probability; each curve relative to its highest point."""
    x = torch.where(distance(64, 32, 32) < 12, 3.0, -3.0)[None, None]
    target = (x > 0).float()
    logits = torch.linspace(-7, 7, 141)
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, (loss, colour) in LOSSES.items():
        if name in ("cross-entropy", "focal", "Dice", "Tversky (0.3 FP, 0.7 FN)"):
            pushes = []
            for logit in logits:
                moved = x.clone()
                moved[..., 32, 32] = logit
                moved.requires_grad_()
                (gradient,) = torch.autograd.grad(loss(moved, target), moved)
                pushes.append(-gradient[0, 0, 32, 32])
            push = torch.stack(pushes)
            style = "--" if name.startswith("Tversky") else "-"
            axis.plot(logits.sigmoid(), push / push.max(), style, color=colour, label=name, linewidth=2)
    axis.set_xlabel("probability of a pixel of the object")
    axis.set_ylabel("push, relative")
    axis.legend(fontsize=10, frameon=False)
    save(figure, "pixel.svg")


def schedules() -> None:
    """The weight of the second loss over the epochs."""
    a, b = fl.FocalLoss("binary"), fl.DiceLoss("binary")
    made = {
        "abrupt: [(0, A), (50, B)]": fl.LossSchedule([(0, a), (50, b)]),
        "linear(A, B, 20, 80)": fl.LossSchedule.linear(a, b, 20, 80),
        "alternating(A, B, 20, 80, 20)": fl.LossSchedule.alternating(a, b, 20, 80, 20),
    }
    figure, axes = plt.subplots(3, 1, figsize=(7, 5.4), layout="constrained", sharex=True)
    for axis, (title, schedule) in zip(axes, made.items()):
        weights = []
        for epoch in range(101):
            schedule.step(epoch)
            blended = getattr(schedule.active, "weight_1", None)
            weights.append(float(blended) if blended is not None else float(schedule.active is schedule.losses[-1]))
        axis.step(range(101), weights, where="post", color="#1b7f5c", linewidth=2)
        axis.set_title(title, fontsize=11, loc="left")
        axis.set_yticks([0, 1], ["A", "B"])
        axis.set_ylim(-0.1, 1.1)
    axes[-1].set_xlabel("epoch")
    save(figure, "schedules.svg")


if __name__ == "__main__":
    torch.manual_seed(0)
    made = {f.__name__: f for f in (gradients, sizes, pixel, schedules)}
    for name in sys.argv[1:] or made:
        made[name]()

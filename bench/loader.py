"""Does loading slices slow a training step? Steps on batches from the store against steps on one resident batch.

    python bench/loader.py                                   # paper 2: U-Net/EfficientNet-B0 at 256, on phantom data
    python bench/loader.py --paper 1 --workers 8 --device cuda

Steps of both kinds alternate. Beside wall time it gives the process's CPU time, which other processes disturb less and
which, with --workers 0 on a CPU, holds all of the loading. The last line is the loader alone.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from fastloss import BCEWithLogitsLoss, DiceLoss, FocalLoss, IoULoss
from fastloss.train.datasets import SliceDataset, Store, open_dataset
from fastloss.train.models import LEVIT, PAPER, build_model

PAPERS = {1: ("synapse", LEVIT, 224, "transunet"), 2: ("msd-colon", PAPER, 256, "none")}


def batches(loader: torch.utils.data.DataLoader, dataset: SliceDataset) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in itertools.count():
        dataset.set_epoch(epoch)
        yield from loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--paper", type=int, choices=PAPERS, default=2)
    parser.add_argument("--data", default="phantom")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    kind, name, size, augment = PAPERS[args.paper]
    store = open_dataset(args.data, kind=kind, cache_dir=args.cache)
    dataset = SliceDataset(store, range(len(store)), size=size, augment=augment, seed=0)
    loader = torch.utils.data.DataLoader(
        dataset,
        args.batch,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        pin_memory=args.device != "cpu",
    )
    stream = batches(loader, dataset)
    step = stepper(name, store, args.device)
    resident = [t.to(args.device) for t in next(stream)]
    step(*resident)
    loaded, kept = [], []
    for _ in range(args.steps):
        kept.append(timed(lambda: step(*resident), args.device))
        loaded.append(timed(lambda: step(*(t.to(args.device, non_blocking=True) for t in next(stream))), args.device))
    for clock, label in enumerate(("wall", "CPU")):
        a, b = ([times[clock] for times in all_times] for all_times in (loaded, kept))
        ratios = [x / y for x, y in zip(a, b)]
        print(
            f"{label} time of a step: {statistics.median(a):.4f} s from the store, {statistics.median(b):.4f} s "
            f"resident; ratio {statistics.median(ratios):.3f} "
            f"(quartiles {', '.join(f'{q:.3f}' for q in statistics.quantiles(ratios, n=4)[::2])})"
        )
    count = max(1, 200 // args.batch)
    wall, cpu = timed(lambda: [next(stream) for _ in range(count)], "cpu")
    images = count * args.batch
    print(f"loading alone: {1e3 * wall / images:.2f} ms an image (CPU {1e3 * cpu / images:.2f} ms), {kind}, {augment}")


def stepper(name: str, store: Store, device: str) -> Callable[[Tensor, Tensor], None]:
    network = build_model(name, store.num_classes).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    region = IoULoss("binary") if store.mode == "binary" else DiceLoss(store.mode)
    loss = region + (BCEWithLogitsLoss("binary") if store.mode == "binary" else FocalLoss(store.mode))

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        loss(network(x.to(memory_format=torch.channels_last)), y).backward()
        optimizer.step()

    return step


def timed(work: Callable[[], object], device: str) -> tuple[float, float]:
    """(wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()

"""The same loss by fastloss and by segmentation-models-pytorch, on the same logits of every step of a training."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from functools import partial

from lightning_fabric import Fabric
from torch import Tensor

from fastloss import LossSchedule
from fastloss.cli import CommandError
from fastloss.compound import Criterion
from fastloss.measure.contenders import Contender

from .contenders import contenders, split, time_call
from .training import Steps

CHECK_EVERY = 10  # steps between two looks at whose gradient is off


def pair_with_smp(criterion: Criterion, shape: tuple[int, ...]) -> list[Contender]:
    """Return fastloss's contender and smp's; CommandError if smp has no such loss."""
    found, missing = contenders(criterion, shape, ["smp"])
    if missing:
        raise CommandError(missing[0])
    return found


class SideBySide(Steps):
    """Train with fastloss's gradient, and log beside each step what smp makes of the same logits.

    `value_gap` is |difference|, `gradient_gap` the norm of the difference over the norm of smp's gradient, `error` and
    `smp_error` the same between the gradient of fastloss, of smp, and that of smp in float64 (NaN but in every
    CHECK_EVERYth step); `loss_s` and `smp_s` are the seconds of each loss, `step_s` those of the step without what the
    comparison adds.
    """

    columns = ("value_gap", "gradient_gap", "error", "smp_error", "loss_s", "smp_s", "step_s", "images")

    def __init__(self) -> None:
        self.criterion: Criterion | None = None
        self.pair: list[Contender] = []
        self.clock = self.overhead = 0.0
        self.found: list[float] = []

    def batches(self, source: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Start the clock before each batch is read."""
        batches = iter(source)
        while True:
            self.clock = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def backward(self, fabric: Fabric, schedule: LossSchedule, logits: Tensor, y: Tensor, step: int) -> Tensor:
        """Alternate who is first, as the second finds warm caches."""
        start = time.perf_counter()
        if self.criterion is not schedule.active:
            self.criterion, self.pair = schedule.active, pair_with_smp(schedule.active, tuple(logits.shape))
        taken = {}
        for each in reversed(self.pair) if step % 2 else self.pair:
            target = each.target(y)  # smp refuses integer masks; the conversion is not counted as its time
            taken[each.key] = time_call(fabric.device, partial(split, each.loss, logits, target))
        ((value, gradient), seconds), ((theirs, their_gradient), their_seconds) = [taken[c.key] for c in self.pair]
        errors = (math.nan, math.nan)
        if step % CHECK_EVERY == 0:
            _, exact = split(self.pair[1].loss, logits.double(), y.double())
            errors = distance(gradient, exact), distance(their_gradient, exact)
        gaps = float((value - theirs).abs()), distance(gradient, their_gradient)
        self.found = [*gaps, *errors, seconds, their_seconds]
        self.overhead = time.perf_counter() - start - seconds
        fabric.backward(logits, gradient)
        self.images = len(logits)
        return value

    def cells(self) -> tuple[float, ...]:
        return (*self.found, time.perf_counter() - self.clock - self.overhead, self.images)


def distance(gradient: Tensor, other: Tensor) -> float:
    """Return the norm of the difference over that of the other."""
    gap, norm = (gradient - other).norm(), other.norm()
    return float(gap / norm) if norm > 0 else float(gap)

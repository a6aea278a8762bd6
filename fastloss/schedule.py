"""Losses that change during training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import _arguments as check
from ._planned import SETTINGS
from ._types import Direction
from .compound import CompoundLoss, Criterion
from .explanation import Explained
from .stats import Stats

# Names that cannot be assigned: arguments of the ways to make a schedule, and what is read only.
_SETTINGS = {"a", "b", "stages", "starts", "start", "end", "period", "patience", "min_delta", "mode", "active", "kind"}


class LossSchedule(Explained, nn.Module):
    """A loss that is altered between epochs: `schedule(x, y)` computes the one that is active.

    `LossSchedule([(0, A), (50, B)])` is A in the epochs 0 to 49 and B from 50 on, any number of stages (the dynamic
    alteration of the loss). `linear`, `alternating` and `on_plateau` build the other kinds. Call `step(epoch)` before
    each epoch:

        for epoch in range(epochs):
            if schedule.step(epoch, metric):
                ...  # the loss changed: reset what must not carry over (momentum, best value)

    A blend keeps its two weights in 0-d buffers that are filled in place: its changes recompile nothing and are seen by
    a captured CUDA graph. An abrupt change is another computation and takes effect on the next call.
    """

    _kind: ClassVar[str] = "abrupt"

    def __init__(self, stages: Iterable[tuple[int, Criterion]]) -> None:
        """Change the loss abruptly at given epochs.

        Args:
            stages: pairs (first epoch, loss), the first at epoch 0, epochs increasing.

        Raises:
            ValueError: no stages, epochs that do not start at 0 or do not increase.
            TypeError: an epoch is no integer, a loss is none of fastloss.
        """
        stages = check.pairs("stages", stages, "(first epoch, loss)")
        starts = [check.count("a stage's first epoch", start) for start, _ in stages]
        if starts[0] != 0 or any([b <= a for a, b in pairwise(starts)]):
            raise ValueError(f"stages must start at epoch 0 and then increase, got {starts}.")
        self._begin([loss for _, loss in stages], starts=starts)

    @classmethod
    def linear(cls, a: Criterion, b: Criterion, start: int, end: int) -> LossSchedule:
        """a until `start`, b from `end`, in between (1 - t) a + t b with t = (epoch - start) / (end - start).

        The "naive" schedule of Taubert et al. 2020, "Loss scheduling for class-imbalanced image segmentation problems".
        Raises ValueError unless 0 <= start < end, and what a + b raises.
        """
        return LinearSchedule(a, b, start, end)

    @classmethod
    def alternating(cls, a: Criterion, b: Criterion, start: int, end: int, period: int) -> LossSchedule:
        """a until `start`, b from `end`, in between waves of `period` epochs: the weight t of b rises linearly from 0
        to 1 in the first half of each and falls back along a quarter cosine in the second; a weighs 1 - t.

        The "alternating" schedule of Taubert et al. 2020 (a linear ramp followed by a sinusoidal decay), repeated.
        Raises ValueError unless 0 <= start < end and period >= 2, and what a + b raises.
        """
        return AlternatingSchedule(a, b, start, end, period)

    @classmethod
    def on_plateau(
        cls, a: Criterion, b: Criterion, patience: int = 10, min_delta: float = 0.0, mode: Direction = "max"
    ) -> LossSchedule:
        """a until the metric given to `step` has not improved by more than min_delta for `patience` steps, then b.

        mode: "max" (a score) or "min" (a loss). A NaN metric is no improvement. Raises ValueError for patience < 1,
        min_delta < 0 or another mode.
        """
        return PlateauSchedule(a, b, patience, min_delta, mode)

    def _begin(self, losses: list[Criterion], **settings: Any) -> None:
        super().__init__()
        for loss in losses:
            if not isinstance(loss, Criterion):
                raise TypeError(f"a stage must be a loss of fastloss, got {type(loss).__name__}.")
        self.losses = nn.ModuleList(losses)
        self._settings = settings
        self._index = 0
        self._epoch = -1

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SETTINGS or name in SETTINGS:
            check.refuse_change(self, name)
        super().__setattr__(name, value)

    @property
    def active(self) -> Criterion:
        """The loss in force: a stage, or the compound whose weights a blend moves."""
        active: Any = self.losses[self._index]
        return active

    @property
    def stages(self) -> list[tuple[int, Criterion]]:
        """The pairs (first epoch, loss) of an abrupt schedule; empty for the other kinds."""
        losses: Any = self.losses
        return list(zip(self._settings.get("starts", ()), losses))

    @property
    def weights(self) -> tuple[float, ...]:
        """What each loss counts now, in the order given: the two weights of a blend, else 1 and 0."""
        return tuple([float(number == self._index) for number in range(len(self.losses))])

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None, pixel_weight: Tensor | None = None) -> Tensor:
        """The active loss; see `Criterion.forward`."""
        return self.losses[self._index](x, y, mask, pixel_weight)

    def with_stats(
        self,
        x: Tensor,
        y: Tensor,
        threshold: float = 0.5,
        mask: Tensor | None = None,
        pixel_weight: Tensor | None = None,
    ) -> tuple[Tensor, Stats]:
        """(loss, `Stats`) of the active loss; see `Criterion.with_stats`."""
        return self.active.with_stats(x, y, threshold, mask, pixel_weight)

    def step(self, epoch: int, metric: float | Tensor | None = None) -> bool:
        """Bring the loss to `epoch` (counted from 0) and return whether it changed.

        `metric` is the latest validation metric; only `on_plateau` reads it, and counts each epoch once.

        Raises:
            ValueError: epoch is negative, or the metric is missing after epoch 0 of `on_plateau`.
            TypeError: epoch is no integer.
        """
        epoch = check.count("epoch", epoch)
        changed = self._move(epoch, metric)
        self._epoch = epoch
        return changed

    def _move(self, epoch: int, metric: float | Tensor | None) -> bool:
        """Alter the loss for `epoch` and return whether it changed; `self._epoch` is still the one before."""
        before = self._index
        self._index = sum([start <= epoch for start in self._settings["starts"]]) - 1
        return self._index != before

    def get_extra_state(self) -> dict[str, Any]:
        state = {"kind": self._kind, "index": self._index, "epoch": self._epoch}
        return {**state, "best": None, "waited": 0, "applied": None}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what get_extra_state saved; raises ValueError if it belongs to another kind of schedule."""
        if state["kind"] != self._kind:
            raise ValueError(f"state_dict must come from a schedule of kind {self._kind!r}, got {state['kind']!r}.")
        self._index, self._epoch = state["index"], state["epoch"]

    def _get_name(self) -> str:
        return "LossSchedule"

    def extra_repr(self) -> str:
        settings = ", ".join([f"{name}={value!r}" for name, value in self._settings.items()])
        return f"{self._kind}, {settings}, active={self._index}"


class _Blend(LossSchedule):
    """One loss until epoch `start`, another from `end`, and a weighted sum of both in between."""

    def _blend(self, a: Criterion, b: Criterion, start: int, end: int, **settings: int) -> None:
        start, end = check.count("start", start), check.count("end", end)
        if start >= end:
            raise ValueError(f"start must be before end, got start={start} and end={end}.")
        weights = [torch.tensor(value, dtype=torch.float64) for value in (1.0, 0.0)]
        self._begin([CompoundLoss([(weights[0], a), (weights[1], b)])], start=start, end=end, **settings)
        self._share = -1.0
        self._apply_share(0.0)

    @property
    def weights(self) -> tuple[float, ...]:
        return (1.0 - self._share, self._share)

    def _move(self, epoch: int, metric: float | Tensor | None) -> bool:
        start, end = self._settings["start"], self._settings["end"]
        return self._apply_share(self._share_between(epoch) if start < epoch < end else float(epoch >= end))

    def _share_between(self, epoch: int) -> float:
        """The weight of the second loss between `start` and `end`."""
        raise NotImplementedError

    def _apply_share(self, share: float) -> bool:
        changed = share != self._share
        self._share = share
        blend: Any = self.losses[0]
        with torch.no_grad():
            for name, value in (("weight_0", 1.0 - share), ("weight_1", share)):
                weight = blend._tensor(name)
                if weight.is_inference() and not torch.is_inference_mode_enabled():  # made or moved there
                    weight = blend._buffers[name] = weight.clone()
                weight.fill_(value)
        return changed

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "applied": self._share}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self._apply_share(state["applied"])


class LinearSchedule(_Blend):
    """What `LossSchedule.linear` makes."""

    _kind = "linear"

    def __init__(self, a: Criterion, b: Criterion, start: int, end: int) -> None:
        """See `LossSchedule.linear`."""
        self._blend(a, b, start, end)

    def _share_between(self, epoch: int) -> float:
        start, end = self._settings["start"], self._settings["end"]
        return (epoch - start) / (end - start)


class AlternatingSchedule(_Blend):
    """What `LossSchedule.alternating` makes."""

    _kind = "alternating"

    def __init__(self, a: Criterion, b: Criterion, start: int, end: int, period: int) -> None:
        """See `LossSchedule.alternating`."""
        self._blend(a, b, start, end, period=check.count("period", period, 2))

    def _share_between(self, epoch: int) -> float:
        phase = (epoch - self._settings["start"]) % self._settings["period"] / self._settings["period"]
        return 2.0 * phase if phase < 0.5 else math.cos(math.pi * (phase - 0.5))


class PlateauSchedule(LossSchedule):
    """What `LossSchedule.on_plateau` makes."""

    _kind = "on_plateau"

    def __init__(
        self, a: Criterion, b: Criterion, patience: int = 10, min_delta: float = 0.0, mode: Direction = "max"
    ) -> None:
        """See `LossSchedule.on_plateau`."""
        self._begin(
            [a, b],
            patience=check.count("patience", patience, 1),
            min_delta=check.number("min_delta", min_delta, 0.0),
            mode=check.choice("mode", mode, ("max", "min")),
        )
        self._best: float | None = None
        self._waited = 0

    def _move(self, epoch: int, metric: float | Tensor | None) -> bool:
        if metric is None:
            if epoch > 0 and self._index == 0:
                raise ValueError("metric must be given to step() of an on_plateau schedule after epoch 0, got None.")
            return False
        if self._index == 1 or epoch <= self._epoch:
            return False
        value = float(metric)
        sign = 1.0 if self._settings["mode"] == "max" else -1.0
        if not math.isnan(value) and (self._best is None or sign * (value - self._best) > self._settings["min_delta"]):
            self._best, self._waited = value, 0
            return False
        self._waited += 1
        if self._waited < self._settings["patience"]:
            return False
        self._index = 1
        return True

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "best": self._best, "waited": self._waited}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self._best, self._waited = state["best"], state["waited"]

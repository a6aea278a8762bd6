"""What the trainers' callbacks share: the schedule, when it moves, the metric that it reads, and what is saved."""

from __future__ import annotations

from typing import Any, Literal

from fastloss import LossSchedule

from .. import _arguments as check
from ..schedule import PlateauSchedule

Every = Literal["epoch", "step"]


class Mover:
    """Moves one schedule and remembers the last value of the metric."""

    def __init__(self, every: Every, monitor: str | None) -> None:
        self.every = check.choice("every", every, ("epoch", "step"))
        if monitor is not None and not isinstance(monitor, str):
            raise TypeError(f"monitor must be the name of a metric or None, got {type(monitor).__name__}.")
        self.monitor = monitor
        self.latest: float | None = None
        self.due = False  # whether the metric should be there by now
        self.saved: dict[str, Any] | None = None  # came before the schedule
        self.schedule: LossSchedule | None = None

    def take(self, schedule: object) -> None:
        """Take the schedule over, in the state that was loaded before; raises TypeError and ValueError."""
        if not isinstance(schedule, LossSchedule):
            raise TypeError(f"schedule must be a fastloss.LossSchedule, got {type(schedule).__name__}.")
        adaptive = isinstance(schedule, PlateauSchedule)
        if adaptive and self.every == "step":
            raise ValueError("every must be 'epoch' for a schedule on_plateau, which counts epochs, got 'step'.")
        if adaptive != (self.monitor is not None):
            expected = "name the metric that a schedule on_plateau reads" if adaptive else "be None"
            raise ValueError(f"monitor must {expected}{'' if adaptive else ' but for a schedule on_plateau'}, "
                             f"got {self.monitor!r}.")  # fmt: skip
        self.schedule = schedule
        if self.saved is not None:
            schedule.set_extra_state(self.saved)
            self.saved = None

    def note(self, metrics: Any) -> None:
        """Keep the metric, if it is among these."""
        if self.monitor is not None and self.monitor in metrics:
            self.latest = float(metrics[self.monitor])

    def move(self, place: int, metric: float | None, names: Any = ()) -> bool:
        """Bring the schedule to epoch or step `place` and return whether it changed; ValueError for a metric that is
        not among `names` though it should be."""
        assert self.schedule is not None
        if self.monitor is None or metric is not None or place == 0:
            return self.schedule.step(place, metric)
        if self.due:
            known = ", ".join(sorted(map(str, names))) or "none"
            raise ValueError(f"monitor must name a metric that is there after validation, got {self.monitor!r}; "
                             f"there are: {known}.")  # fmt: skip
        return False

    def weights(self, prefix: str) -> dict[str, float]:
        """{"loss_weight_0": …, "loss_weight_1": …}"""
        assert self.schedule is not None
        return {f"{prefix}_{number}": weight for number, weight in enumerate(self.schedule.weights)}

    def state_dict(self) -> dict[str, Any]:
        position = self.saved if self.schedule is None else self.schedule.get_extra_state()
        return {"schedule": position, "metric": self.latest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.latest, self.saved = state["metric"], state["schedule"]
        if self.schedule is not None:
            self.take(self.schedule)

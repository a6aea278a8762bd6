"""A handler that moves a `fastloss.LossSchedule` in engines of PyTorch-Ignite, MONAI's trainers among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastloss import LossSchedule

from .. import _arguments as check
from ._moving import Every, Mover

if TYPE_CHECKING:
    from ignite.engine import Engine


class LossScheduleHandler:
    """Moves a `LossSchedule` at the start of each epoch, or of each optimiser step, of a training engine.

        SupervisedTrainer(…, loss_function=schedule, train_handlers=[LossScheduleHandler(schedule)])

    or `LossScheduleHandler(schedule).attach(trainer)`. The weights of its losses go to `engine.state.metrics` as
    `loss_weight_0`, `loss_weight_1` …, where MONAI's StatsHandler and the loggers of Ignite find them. Save the
    handler beside the trainer (`CheckpointSaver(save_dict={"trainer": trainer, "loss_schedule": handler, …})`): the
    schedule's place and the last value of the metric are restored.
    """

    def __init__(
        self,
        schedule: LossSchedule,
        every: Every = "epoch",
        monitor: str | None = None,
        evaluator: Engine | None = None,
        accumulation_steps: int = 1,
        name: str = "loss_weight",
    ) -> None:
        """Make the handler.

        Args:
            schedule: what to move.
            every: "epoch", or "step": the schedule's epochs are then optimiser steps.
            monitor: the metric that `on_plateau` reads at the start of an epoch, and nothing else does. An epoch
                without a new value counts as one without improvement; before the first value nothing counts.
            evaluator: the engine whose `state.metrics` has it; None: the one that trains.
            accumulation_steps: iterations for each optimiser step.
            name: of the weights among the metrics; of several handlers each needs its own.

        Raises:
            TypeError, ValueError: an argument does not fit; in training also: the evaluator has run without `monitor`.
        """
        self._mover = Mover(every, monitor)
        self._mover.take(schedule)
        if evaluator is not None and monitor is None:
            raise ValueError("evaluator must be None without monitor, which it would be asked for.")
        self._evaluator, self._name = evaluator, name
        self._accumulation = check.count("accumulation_steps", accumulation_steps, 1)
        if self._accumulation > 1 and every == "epoch":
            raise ValueError(f"accumulation_steps must be 1 for every='epoch', got {accumulation_steps}.")

    def attach(self, engine: Engine) -> None:
        """Have the engine that trains call this."""
        from ignite.engine import Events

        event = Events.EPOCH_STARTED if self._mover.every == "epoch" else Events.ITERATION_STARTED
        engine.add_event_handler(event, self)
        self._evaluator = self._evaluator or engine

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        mover = self._mover
        if mover.every == "epoch":
            metrics = self._note()
            mover.due = bool(set(metrics) - set(mover.weights(self._name)))
            mover.move(state.epoch - 1, mover.latest, metrics)
        else:
            mover.move((state.iteration - 1) // self._accumulation, None)
        state.metrics.update(mover.weights(self._name))

    def _note(self) -> dict[str, Any]:
        """Keep the metric, and return all that are there."""
        found: Any = None if self._evaluator is None else self._evaluator.state
        metrics = {} if found is None else found.metrics
        self._mover.note(metrics)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds; after validation, so that its metric is not lost."""
        self._note()
        return self._mover.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._mover.load_state_dict(state_dict)

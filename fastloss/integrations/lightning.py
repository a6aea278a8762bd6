"""A Lightning callback that moves a `fastloss.LossSchedule`, for `lightning` and for `pytorch_lightning`."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from fastloss import LossSchedule

from ._moving import Every, Mover

PACKAGES = ("lightning.pytorch", "pytorch_lightning")

if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningModule, Trainer
else:

    def _callback() -> type:
        """The base class: of the package that is loaded already, as the user's Trainer is from there."""
        for name in sorted(PACKAGES, key=lambda name: name not in sys.modules):
            try:
                return importlib.import_module(name).Callback
            except ModuleNotFoundError as error:
                if error.name != name.partition(".")[0]:
                    raise
        words = "fastloss.integrations.lightning needs Lightning; run `pip install lightning`"
        raise ModuleNotFoundError(words, name="lightning")

    Callback = _callback()


class LossScheduleCallback(Callback):
    """Moves the `LossSchedule` of a LightningModule at the start of each epoch, or of each optimiser step.

        Trainer(callbacks=[LossScheduleCallback()])

    The weights of its losses are logged as `loss_weight_0`, `loss_weight_1` …. Checkpoints hold the schedule's
    place, also where it is no submodule, and the last value of the metric; a resumed training continues. Processes
    agree: the metric is that of the first.
    """

    def __init__(
        self,
        schedule: LossSchedule | None = None,
        every: Every = "epoch",
        monitor: str | None = None,
        name: str = "loss_weight",
    ) -> None:
        """Make the callback.

        Args:
            schedule: what to move; None: the only LossSchedule among the module's submodules.
            every: "epoch", or "step": the schedule's epochs are then batches at whose end an optimiser stepped, counted
                once whether one of them stepped or several, with accumulation and manual optimisation too.
            monitor: the logged metric that `on_plateau` reads at the start of an epoch, and nothing else does. An epoch
                without a new value counts as one without improvement; before the first value nothing counts.
            name: of the logged weights; of several callbacks each needs its own.

        Raises:
            TypeError, ValueError: an argument does not fit; when fitting begins also: no or several schedules in the
                module, and `monitor` that is not logged though validation has run.
        """
        self._mover = Mover(every, monitor)
        self._schedule, self._name = schedule, name
        if schedule is not None:
            self._mover.take(schedule)
        self._steps: int | None = None  # at the start of a batch: those done, and the trainer's global_step
        self._seen = 0

    @property
    def state_key(self) -> str:
        return self._generate_state_key(name=self._name)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._schedule is None and stage == "fit":
            found = [module for module in pl_module.modules() if isinstance(module, LossSchedule)]
            if len(found) != 1:
                raise ValueError(f"schedule must be given, as {type(pl_module).__name__} has {len(found)} "
                                 "LossSchedules among its submodules; one is expected.")  # fmt: skip
            self._mover.take(found[0])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._mover.every == "epoch":
            self._note(trainer)
            metric = trainer.strategy.broadcast(self._mover.latest)
            self._mover.move(trainer.current_epoch, metric, trainer.callback_metrics)
            self._log(pl_module, on_step=False)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._mover.every == "step":
            if self._steps is None:  # a checkpoint of a training without this callback: as if one optimiser had stepped
                self._steps = trainer.global_step
            elif trainer.global_step != self._seen:
                self._steps += 1
            self._seen = trainer.global_step
            self._mover.move(self._steps, None)
            self._log(pl_module, on_step=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._note(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer)
        self._mover.due |= (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0

    def state_dict(self) -> dict[str, Any]:
        return {**self._mover.state_dict(), "steps": self._steps, "seen": self._seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._mover.load_state_dict(state_dict)
        self._steps, self._seen = state_dict["steps"], state_dict["seen"]

    def _note(self, trainer: Trainer) -> None:
        self._mover.note(trainer.callback_metrics)

    def _log(self, pl_module: LightningModule, on_step: bool) -> None:
        pl_module.log_dict(self._mover.weights(self._name), on_step=on_step, on_epoch=not on_step, batch_size=1)

"""LossScheduleCallback in real Lightning trainers: the right moment, several optimisers, resumed trainings, metrics."""

import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import fastloss as fl

pl = pytest.importorskip("pytorch_lightning")
from fastloss.integrations.lightning import LossScheduleCallback

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("repeatable")]
BATCHES = 4
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture
def repeatable():
    """Lightning refuses what only warns elsewhere; nothing here depends on it."""
    torch.use_deterministic_algorithms(False)


def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2 * BATCHES, 1, 8, 8, generator=generator)
    return DataLoader(TensorDataset(images, (images > 0.5).to(torch.uint8)), batch_size=2)


def blend(end=4):
    return fl.LossSchedule.linear(fl.BCEWithLogitsLoss(), fl.DiceLoss("binary"), 0, end)


class Module(pl.LightningModule):
    """Notes the weights of its schedule in every step, and validation Dice from a list."""

    def __init__(self, schedule, scores=(), optimisers=1, manual=False, submodule=True):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Conv2d(1, 1, 3, padding=1) for _ in range(optimisers)])
        self.owner = schedule if submodule else [schedule]
        self.scores, self.automatic_optimization = scores, not manual
        self.seen = []

    @property
    def schedule(self):
        return self.owner if isinstance(self.owner, torch.nn.Module) else self.owner[0]

    def training_step(self, batch, index):
        self.seen.append((self.current_epoch, index, self.schedule.weights))
        if self.scores and not self.trainer.enable_validation:
            self.log("dice", self.scores[self.current_epoch], on_step=False, on_epoch=True)
        losses = [self.schedule(layer(batch[0]), batch[1]) for layer in self.layers]
        if self.automatic_optimization:
            return sum(losses)
        found = self.optimizers()
        for optimiser, loss in zip(found if isinstance(found, list) else [found], losses):
            self.manual_backward(loss / 2)
            if index % 2:  # two batches for each step
                optimiser.step()
                optimiser.zero_grad()

    def validation_step(self, batch, index):
        if self.current_epoch < len(self.scores):
            self.log("dice", self.scores[self.current_epoch])

    def configure_optimizers(self):
        return [torch.optim.SGD(layer.parameters(), 0.1) for layer in self.layers]


def fit(module, callbacks, folder, path=None, valid=False, **settings):
    settings = {"enable_checkpointing": False, **QUIET, **settings}
    trainer = pl.Trainer(callbacks=callbacks, default_root_dir=folder, **settings)
    trainer.fit(module, data(), data() if valid else None, ckpt_path=path)
    return trainer


def test_it_moves_at_the_start_of_each_epoch_and_logs_the_weights(tmp_path):
    module = Module(blend())
    trainer = fit(module, [LossScheduleCallback()], tmp_path, max_epochs=3)
    assert module.seen == [(epoch, at, (1 - epoch / 4, epoch / 4)) for epoch in range(3) for at in range(BATCHES)]
    assert {name: float(value) for name, value in trainer.callback_metrics.items()} == {
        "loss_weight_0": 0.5, "loss_weight_1": 0.5}  # fmt: skip


@pytest.mark.parametrize("optimisers,manual", [(1, False), (1, True), (2, True)])
def test_steps_are_counted_once_whatever_steps(optimisers, manual, tmp_path):
    """Two batches for each step: by accumulation, or in the module's own loop with one optimiser or two."""
    module = Module(blend(end=8), optimisers=optimisers, manual=manual)
    accumulated = {} if manual else {"accumulate_grad_batches": 2}
    fit(module, [LossScheduleCallback(every="step")], tmp_path, max_epochs=2, **accumulated)
    assert [weights[1] for *_, weights in module.seen] == [step / 8 for step in (0, 0, 1, 1, 2, 2, 3, 3)]


@pytest.mark.parametrize("every", ["epoch", "step"])
@pytest.mark.parametrize("submodule", [True, False])
def test_a_resumed_training_continues(every, submodule, tmp_path):
    def run(epochs, folder, path=None):
        module = Module(blend(end=12), submodule=submodule)
        callback = LossScheduleCallback(None if submodule else module.schedule, every)
        fit(module, [callback], folder, path, enable_checkpointing=True, max_epochs=epochs)
        return module, *(tmp_path / folder).rglob("*.ckpt")

    whole, _ = run(3, tmp_path / "whole")
    first, path = run(1, tmp_path / "part")
    rest, *_ = run(3, tmp_path / "rest", path)
    assert first.seen + rest.seen == whole.seen
    assert len(set(whole.seen)) == 3 * BATCHES


@pytest.mark.parametrize("valid,at_epoch_end", [(True, True), (True, False), (False, True)])
def test_a_plateau_reads_the_metric_also_after_a_resume(valid, at_epoch_end, tmp_path):
    """Of validation or of training; a checkpoint is written when the epoch ends, or when validation does."""
    scores = (0.5, 0.4, 0.3, 0.2, 0.1)

    def run(epochs, folder, path=None):
        schedule = fl.LossSchedule.on_plateau(fl.BCEWithLogitsLoss(), fl.DiceLoss("binary"), patience=2)
        module = Module(schedule, scores)
        saving = pl.callbacks.ModelCheckpoint(folder, save_on_train_epoch_end=at_epoch_end)
        callbacks = [LossScheduleCallback(monitor="dice"), saving]
        fit(module, callbacks, folder, path, valid, enable_checkpointing=True, max_epochs=epochs)
        return [weights[1] for epoch, at, weights in module.seen if at == 0], *folder.rglob("*.ckpt")

    assert run(5, tmp_path / "whole")[0] == [0, 0, 0, 1, 1]
    for stop in (1, 2, 3):
        begun, path = run(stop, tmp_path / f"part{stop}")
        assert begun + run(5, tmp_path / f"rest{stop}", path)[0] == [0, 0, 0, 1, 1], stop


def test_a_metric_that_comes_late_is_waited_for_and_one_that_never_comes_is_named(tmp_path):
    schedule = fl.LossSchedule.on_plateau(fl.BCEWithLogitsLoss(), fl.DiceLoss("binary"), patience=2)
    module = Module(schedule, (0.5,) * 6)
    fit(module, [LossScheduleCallback(monitor="dice")], tmp_path, None, True, max_epochs=6, check_val_every_n_epoch=2)
    assert [weights[1] for epoch, at, weights in module.seen if at == 0] == [0, 0, 0, 0, 1, 1]
    schedule.step(0)
    with pytest.raises(ValueError, match="got 'dize'; there are: dice, loss_weight_0, loss_weight_1"):
        fit(Module(schedule, (0.5,) * 3), [LossScheduleCallback(monitor="dize")], tmp_path, None, True, max_epochs=3)


def test_two_schedules_have_a_callback_each(tmp_path):
    module = Module(blend())
    module.second = fl.LossSchedule([(0, fl.BCEWithLogitsLoss()), (1, fl.DiceLoss("binary"))])
    with pytest.raises(ValueError, match="schedule must be given, as Module has 2 LossSchedules"):
        fit(module, [LossScheduleCallback()], tmp_path, max_epochs=1)
    callbacks = [LossScheduleCallback(module.schedule), LossScheduleCallback(module.second, name="second")]
    trainer = fit(module, callbacks, tmp_path, max_epochs=2, enable_checkpointing=True)
    assert module.schedule.weights == (0.75, 0.25) and module.second.weights == (0.0, 1.0)
    assert float(trainer.callback_metrics["second_1"]) == 1.0


def test_bad_arguments():
    adaptive = fl.LossSchedule.on_plateau(fl.BCEWithLogitsLoss(), fl.DiceLoss("binary"))
    for arguments, error, words in (
        ({"every": "batch"}, ValueError, "every must be one of"),
        ({"monitor": 3}, TypeError, "monitor must be the name of a metric or None, got int"),
        ({"schedule": fl.DiceLoss("binary")}, TypeError, "schedule must be a fastloss.LossSchedule, got DiceLoss"),
        ({"schedule": adaptive}, ValueError, "monitor must name the metric"),
        ({"schedule": adaptive, "monitor": "dice", "every": "step"}, ValueError, "every must be 'epoch'"),
        ({"schedule": blend(), "monitor": "dice"}, ValueError, "monitor must be None but for a schedule on_plateau"),
    ):
        with pytest.raises(error, match=words):
            LossScheduleCallback(**arguments)


def test_the_base_class_is_of_the_lightning_that_is_loaded():
    """In processes of their own; `lightning` only where it is installed."""
    for package in ("pytorch_lightning", "lightning.pytorch"):
        if package != "pytorch_lightning":
            try:
                __import__(package)
            except ImportError:
                continue
        code = f"import {package} as pl; from fastloss.integrations.lightning import LossScheduleCallback as C; "
        done = subprocess.run([sys.executable, "-c", code + "assert issubclass(C, pl.Callback)"], capture_output=True)
        assert done.returncode == 0, done.stderr.decode()

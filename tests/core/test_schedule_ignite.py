"""LossScheduleHandler in engines of Ignite and in MONAI's trainer."""

import pytest
import torch

import fastloss as fl

pytest.importorskip("ignite")
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver

from fastloss.integrations.ignite import LossScheduleHandler

BATCHES = 4
pytestmark = pytest.mark.filterwarnings("ignore")


def blend(end=4):
    return fl.LossSchedule.linear(fl.BCEWithLogitsLoss(), fl.DiceLoss("binary"), 0, end)


def plateau():
    return fl.LossSchedule.on_plateau(fl.BCEWithLogitsLoss(), fl.DiceLoss("binary"), patience=2)


def engine(schedule):
    """One that only notes the weights of its schedule in each step."""
    seen = []
    made = Engine(lambda _, batch: seen.append(schedule.weights))
    return made, seen


@pytest.mark.parametrize("accumulation", [1, 2])
def test_steps_with_accumulation(accumulation):
    schedule = blend(end=8)
    network = torch.nn.Conv2d(1, 1, 3, padding=1)
    images = [torch.randn(1, 1, 8, 8) for _ in range(BATCHES)]
    batches = [(image, (image > 0).to(torch.uint8)) for image in images]
    used = []

    def loss(x, y):
        used.append(schedule.weights[1])
        return schedule(x, y)

    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    trainer = create_supervised_trainer(network, optimiser, loss, gradient_accumulation_steps=accumulation)
    LossScheduleHandler(schedule, "step", accumulation_steps=accumulation).attach(trainer)
    trainer.run(batches, max_epochs=2)
    assert used == [step // accumulation / 8 for step in range(2 * BATCHES)]
    assert trainer.state.metrics["loss_weight_1"] == used[-1]


def test_a_resumed_training_continues(tmp_path):
    def made():
        schedule = blend(end=12)
        trainer, seen = engine(schedule)
        handler = LossScheduleHandler(schedule)
        handler.attach(trainer)
        return trainer, handler, schedule, seen

    whole, *_, expected = made()
    whole.run(range(BATCHES), max_epochs=4)
    first, handler, _, begun = made()
    parts = {"trainer": first, "loss_schedule": handler}
    first.add_event_handler(Events.EPOCH_COMPLETED, Checkpoint(parts, DiskSaver(tmp_path), filename_pattern="last.pt"))
    first.run(range(BATCHES), max_epochs=2)
    second, handler, schedule, rest = made()
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    Checkpoint.load_objects({"trainer": second, "loss_schedule": handler}, state)
    assert schedule.weights == begun[-1]
    second.run(range(BATCHES), max_epochs=4)
    assert begun + rest == expected and expected[0] == (1.0, 0.0) and len(set(expected)) == 4


def test_a_plateau_reads_the_evaluator(tmp_path):
    scores = [0.5, 0.4, 0.3, 0.2, 0.1]

    def made():
        schedule = plateau()
        trainer, seen = engine(schedule)
        evaluator = Engine(lambda *_: None)

        @trainer.on(Events.EPOCH_COMPLETED)
        def score():
            evaluator.run([0])
            evaluator.state.metrics["dice"] = scores[trainer.state.epoch - 1]

        handler = LossScheduleHandler(schedule, monitor="dice", evaluator=evaluator)
        handler.attach(trainer)
        return trainer, handler, seen

    for stop in (1, 2, 3, 5):
        trainer, handler, seen = made()
        trainer.run([0], max_epochs=stop)
        if stop < 5:
            state = {"trainer": trainer.state_dict(), "loss_schedule": handler.state_dict()}
            trainer, handler, rest = made()
            Checkpoint.load_objects({"trainer": trainer, "loss_schedule": handler}, state)
            trainer.run([0], max_epochs=5)
            seen += rest
        assert [weights[1] for weights in seen] == [0, 0, 0, 1, 1], stop


def test_a_metric_that_comes_late_is_waited_for_and_one_that_never_comes_is_named():
    trainer, seen = engine(schedule := plateau())
    evaluator = Engine(lambda *_: None)
    LossScheduleHandler(schedule, monitor="dice", evaluator=evaluator).attach(trainer)
    trainer.run([0], max_epochs=2)
    assert seen == [(1.0, 0.0)] * 2
    evaluator.state.metrics = {"dize": 0.5}
    trainer.logger.disabled = True
    with pytest.raises(ValueError, match="got 'dice'; there are: dize"):
        trainer.run([0], max_epochs=3)


def test_bad_arguments():
    for arguments, error, words in (
        ({"schedule": None}, TypeError, "schedule must be a fastloss.LossSchedule, got NoneType"),
        ({"schedule": blend(), "every": "batch"}, ValueError, "every must be one of"),
        ({"schedule": blend(), "accumulation_steps": 2}, ValueError, "accumulation_steps must be 1 for every='epoch'"),
        ({"schedule": blend(), "every": "step", "accumulation_steps": 0}, ValueError, "must be at least 1"),
        ({"schedule": blend(), "evaluator": Engine(print)}, ValueError, "evaluator must be None without monitor"),
        ({"schedule": plateau()}, ValueError, "monitor must name the metric"),
    ):
        with pytest.raises(error, match=words):
            LossScheduleHandler(**arguments)


def test_monai_trains_and_shows_the_weights():
    pytest.importorskip("monai")
    from monai.engines import SupervisedTrainer

    schedule = blend()
    network = torch.nn.Conv2d(1, 1, 3, padding=1)
    images = [torch.randn(1, 1, 8, 8) for _ in range(BATCHES)]
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=[{"image": image, "label": (image > 0).to(torch.uint8)} for image in images],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=schedule,
        train_handlers=[LossScheduleHandler(schedule)],
    )
    trainer.run()
    assert trainer.state.metrics == {"loss_weight_0": 0.5, "loss_weight_1": 0.5}

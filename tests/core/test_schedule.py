"""Losses that change: which one is active when, resuming in the middle, and copies."""

import copy
import io
import math
import pickle

import pytest
import torch
from cases import SHAPES, logits, target

import fastloss as fl

A, B, C = fl.DiceLoss("binary"), fl.BCEWithLogitsLoss(), fl.FocalLoss("binary")
X, Y = logits(SHAPES["binary"], torch.float64), target("binary", SHAPES["binary"])


def shares(schedule, epochs):
    """The weight of the second loss at each epoch, and whether `step` said that it changed."""
    rows = []
    for epoch in epochs:
        changed = schedule.step(epoch)
        weights = [schedule.active._tensor(name).item() for name in ("weight_0", "weight_1")]
        assert weights[0] + weights[1] == pytest.approx(1.0)
        rows.append((pytest.approx(weights[1]), changed))
    return rows


def test_abrupt():
    schedule = fl.LossSchedule([(0, A), (50, B), (80, C)])
    assert schedule.active is A
    seen = {epoch: (schedule.step(epoch), schedule.active) for epoch in range(100)}
    assert [epoch for epoch, (changed, _) in seen.items() if changed] == [50, 80]
    assert seen[49][1] is A and seen[50][1] is B and seen[79][1] is B and seen[99][1] is C
    assert torch.equal(schedule(X, Y), C(X, Y))
    assert schedule.step(10) and schedule.active is A  # back again: a fold starts anew
    assert schedule.step(90) and schedule.active is C


def test_linear():
    schedule = fl.LossSchedule.linear(A, B, 10, 20)
    got = shares(schedule, range(25))
    expected = [0.0] * 11 + [i / 10 for i in range(1, 10)] + [1.0] * 5
    assert [share for share, _ in got] == expected
    assert [epoch for epoch, (_, changed) in enumerate(got) if changed] == list(range(11, 21))
    schedule.step(13)
    torch.testing.assert_close(schedule(X, Y), 0.7 * A(X, Y) + 0.3 * B(X, Y), rtol=1e-12, atol=0)
    value, stats = schedule.with_stats(X, Y)
    assert value == pytest.approx(schedule(X, Y).item(), rel=1e-12) and list(stats.terms) == ["dice", "bce"]


def test_alternating():
    """Up along a line for half a period, down along a quarter cosine for the other half (Taubert et al. 2020)."""
    got = shares(fl.LossSchedule.alternating(A, B, 4, 20, 8), range(24))
    wave = [0.0, 0.25, 0.5, 0.75, *[math.cos(math.pi * (i / 8 - 0.5)) for i in range(4, 8)]]
    assert [share for share, _ in got] == [0.0] * 4 + wave * 2 + [1.0] * 4
    assert max(wave) == 1.0 and wave[4] == 1.0


@pytest.mark.parametrize("mode,sign", [("max", 1), ("min", -1)])
def test_on_plateau(mode, sign):
    schedule = fl.LossSchedule.on_plateau(A, B, patience=3, min_delta=0.05, mode=mode)
    assert not schedule.step(0)
    metrics = [0.1, 0.5, 0.52, 0.6, 0.61, float("nan"), 0.64, 9.0]
    changes = [schedule.step(epoch + 1, sign * metric) for epoch, metric in enumerate(metrics)]
    assert changes == [False] * 6 + [True, False]
    assert schedule.active is B and not schedule.step(20, sign * 100.0)


def test_on_plateau_counts_an_epoch_once():
    schedule = fl.LossSchedule.on_plateau(A, B, patience=2)
    schedule.step(0, 1.0)
    assert not any(schedule.step(1, torch.tensor(0.5)) for _ in range(5))
    assert schedule.step(2, 0.5)


KINDS = {
    "abrupt": lambda: fl.LossSchedule(
        [(0, fl.DiceLoss("binary")), (4, fl.BCEWithLogitsLoss()), (7, fl.IoULoss("binary"))]
    ),
    "linear": lambda: fl.LossSchedule.linear(fl.DiceLoss("binary"), fl.BCEWithLogitsLoss(), 2, 9),
    "alternating": lambda: fl.LossSchedule.alternating(fl.DiceLoss("binary"), fl.BCEWithLogitsLoss(), 2, 9, 3),
    "on_plateau": lambda: fl.LossSchedule.on_plateau(fl.DiceLoss("binary"), fl.BCEWithLogitsLoss(), patience=2),
}
METRICS = [0.1, 0.3, 0.2, 0.35, 0.34, 0.33, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]


def run(schedule, epochs):
    return [(schedule.step(epoch, METRICS[epoch]), schedule(X, Y).item()) for epoch in epochs]


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("stop", range(12))
@pytest.mark.parametrize("kind", KINDS)
def test_resume_is_exact(kind, stop):
    """A run cut anywhere and continued from its state has the same bits as one that was not."""
    whole = run(KINDS[kind](), range(12))
    first = KINDS[kind]()
    rows = run(first, range(stop))
    second = KINDS[kind]()
    second.load_state_dict(through_a_file(first.state_dict()))
    assert rows + run(second, range(stop, 12)) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_copies_go_on_by_themselves(kind):
    schedule = KINDS[kind]()
    run(schedule, range(5))
    copies = [copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))]
    expected = run(schedule, range(5, 12))
    for other in copies:
        assert run(other, range(5, 12)) == expected


def test_a_state_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="kind 'linear'.*'abrupt'"):
        KINDS["linear"]().load_state_dict(KINDS["abrupt"]().state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_moving_a_schedule_keeps_its_weights_apart(kind):
    """`to` and `half` on a network that holds the schedule must not change what the schedule does."""
    schedule = KINDS[kind]()
    expected = run(KINDS[kind](), range(12))
    net = torch.nn.ModuleDict({"loss": schedule}).to("cpu")
    assert run(schedule, range(12)) == expected
    assert list(net.parameters()) == []
    for epoch in range(12):
        schedule.half().step(epoch, 0.1)
        assert schedule(X, Y).isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_repr(kind):
    text = repr(KINDS[kind]())
    assert kind in text and "DiceLoss('binary')" in text and "BCEWithLogitsLoss('binary')" in text


def test_a_captured_weight_tensor_is_filled_in_place():
    """A CUDA graph or a compiled graph holds the buffer's address."""
    schedule = KINDS["linear"]()
    buffers = {name: b.data_ptr() for name, b in schedule.named_buffers()}
    run(schedule, range(12))
    assert {name: b.data_ptr() for name, b in schedule.named_buffers()} == buffers and len(buffers) == 2


def test_weights():
    schedule = fl.LossSchedule([(0, A), (2, B), (5, C)])
    schedule.step(3)
    assert schedule.weights == (0.0, 1.0, 0.0)
    blend = fl.LossSchedule.linear(A, B, 0, 4)
    blend.step(1)
    assert blend.weights == (0.75, 0.25) == tuple([blend.active._tensor(f"weight_{at}").item() for at in (0, 1)])
    with pytest.raises(AttributeError, match="weights"):
        blend.weights = (1.0, 0.0)

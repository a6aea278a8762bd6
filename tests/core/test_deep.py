"""Deep supervision: targets sampled without copies, weights inside the fused pass."""

import pickle
from copy import deepcopy

import pytest
import torch
from tolerances import assert_value, assert_vector
from torch.nn.functional import interpolate

import fastloss as fl
from fastloss import _ops
from fastloss.deep import INTERPOLATIONS, halving, sample


def pyramid(sizes=((16, 24), (8, 12), (4, 6)), channels=3):
    return [torch.randn(2, channels, *size, requires_grad=True) for size in sizes]


def labels(dtype=torch.uint8, channels=3):
    return torch.randint(0, channels, (2, 16, 24)).to(dtype)


def multiclass():
    return fl.DiceLoss("multiclass") + 0.5 * fl.CrossEntropyLoss()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_targets_are_sampled_as_torch_does(interpolation):
    for have in range(1, 60):
        t = torch.arange(have * 6.0).reshape(1, 1, have, 6)
        for wanted in range(1, have + 1):
            theirs = interpolate(t, size=[wanted, 3], mode=interpolation)
            assert torch.equal(sample(t, [wanted, 3], interpolation), theirs), (have, wanted)
            assert torch.equal(sample(t[0, 0].short(), [wanted, 3], interpolation), theirs[0, 0].short())


def test_sizes_that_divide_make_a_view():
    y = labels()
    assert sample(y, (4, 8)).data_ptr() == y[:, 2:, 1:].data_ptr()
    assert sample(y, (16, 24)) is y


@pytest.mark.parametrize("weights", (None, [1.0, 0.5, 0.0], [0.3, 0.3, 2.0]))
@pytest.mark.parametrize("sizes", (((16, 24), (8, 12), (4, 6)), ((16, 24), (9, 13), (5, 7))), ids=("even", "odd"))
def test_value_and_gradient_are_those_of_the_levels(weights, sizes, backend):
    x, y, criterion = pyramid(sizes), labels(), multiclass()
    with fl.backends.use(backend):
        loss = fl.DeepSupervisionLoss(criterion, weights)(x, y)
        grads = torch.autograd.grad(loss, x, allow_unused=True)
        expected = 0.0
        for weight, level in zip(weights or halving(3), x):
            target = interpolate(y[:, None].float(), size=level.shape[2:], mode="nearest-exact")[:, 0].long()
            expected = expected + (weight * criterion(level, target) if weight else 0.0)
        theirs = torch.autograd.grad(expected, x, allow_unused=True)
    assert_value(loss, expected, torch.float32)
    for weight, ours, other in zip(weights or halving(3), grads, theirs):
        if weight == 0:
            assert ours is None and other is None
        else:
            assert_vector(ours, other, torch.float32)


def test_masks_and_pixel_weights_are_sampled_too():
    x, y = pyramid(), labels()
    mask, pixel_weight = torch.rand(2, 16, 24) < 0.7, torch.rand(2, 16, 24)
    loss = fl.DeepSupervisionLoss(multiclass(), [1.0, 1.0, 1.0])(x, y, mask, pixel_weight)
    expected = sum(
        multiclass()(level, *[t[:, step // 2 :: step, step // 2 :: step] for t in (y, mask, pixel_weight)])
        for level, step in zip(x, (1, 2, 4))
    )
    assert_value(loss, expected, torch.float32)


def test_one_target_for_each_level():
    x, y = pyramid(), labels()
    given = [y, y[:, 1::2, 1::2], y[:, 2::4, 2::4]]
    criterion = fl.DeepSupervisionLoss(multiclass())
    assert torch.equal(criterion(x, given), criterion(x, y))


def test_weight_tensors_and_other_modules():
    x, y, weight = pyramid(), labels(), torch.tensor(1.0)
    criterion = fl.DeepSupervisionLoss(fl.DiceLoss("multiclass") + weight * fl.CrossEntropyLoss())
    before = criterion(x, y)
    weight.fill_(0.0)
    assert_value(criterion(x, y), fl.DeepSupervisionLoss(fl.DiceLoss("multiclass"))(x, y), torch.float32)
    assert criterion(x, y) != before
    plain = fl.DeepSupervisionLoss(torch.nn.CrossEntropyLoss())(x, y.long())
    assert_value(fl.DeepSupervisionLoss(fl.CrossEntropyLoss())(x, y), plain, torch.float32)


def test_the_gradient_written_ahead_is_right_for_every_level(monkeypatch):
    """Each level is its own encoding with its weight inside, so no backward computes anything anew."""
    if fl.backends.available()["cpu"] is not None:
        pytest.skip("the cpu backend does not run here")
    x, y, criterion = pyramid(), labels(), fl.DeepSupervisionLoss(multiclass())
    criterion(x, y).backward()
    calls = []
    monkeypatch.setitem(_ops.BACKWARD, "cpu", lambda *a: calls.append(a))
    for _ in range(3):
        criterion(x, y).backward()
    assert not calls


def test_a_schedule_takes_effect_on_every_level():
    x, y, first, second = pyramid(), labels(), multiclass(), fl.FocalLoss("multiclass")
    schedule = fl.LossSchedule([(0, first), (1, second)])
    criterion = fl.DeepSupervisionLoss(schedule)
    for epoch, loss in enumerate((first, second)):
        schedule.step(epoch)
        assert torch.equal(criterion(x, y), fl.DeepSupervisionLoss(loss)(x, y))


def test_pickling_copies_and_repr():
    x, y = pyramid(), labels()
    criterion = fl.DeepSupervisionLoss(multiclass(), [1, 0.5, 0.25], interpolation="nearest")
    for other in (pickle.loads(pickle.dumps(criterion)), deepcopy(criterion)):
        assert torch.equal(other(x, y), criterion(x, y)) and repr(other) == repr(criterion)
    assert "weights=[1.0, 0.5, 0.25], interpolation='nearest'" in repr(criterion)


@pytest.mark.compile
def test_compiles_whole():
    x, y, criterion = pyramid(), labels(), fl.DeepSupervisionLoss(multiclass(), [1.0, 0.5, 0.0])
    loss = torch.compile(criterion, fullgraph=True)(x, y)
    grads = torch.autograd.grad(loss, x[:2])
    theirs = torch.autograd.grad(criterion(x, y), x[:2])
    assert_value(loss, criterion(x, y), torch.float32)
    for ours, other in zip(grads, theirs):
        assert_vector(ours, other, torch.float32)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    (
        (lambda: fl.DeepSupervisionLoss(sum), TypeError, "criterion must be a loss module"),
        (lambda: fl.DeepSupervisionLoss(multiclass(), [0.0, 0]), ValueError, "must not all be 0"),
        (lambda: fl.DeepSupervisionLoss(multiclass(), [-1.0]), ValueError, "weights must be finite and at least 0"),
        (lambda: fl.DeepSupervisionLoss(multiclass(), interpolation="linear"), ValueError, "interpolation must be one"),
        (lambda: fl.DeepSupervisionLoss(multiclass())(pyramid()[0], labels()), TypeError, "x must be a list"),
        (lambda: fl.DeepSupervisionLoss(multiclass(), [1.0])(pyramid(), labels()), ValueError, "each of the 1 weights"),
        (lambda: fl.DeepSupervisionLoss(multiclass())([], labels()), ValueError, "at least one output"),
        (lambda: fl.DeepSupervisionLoss(multiclass())(pyramid(), [labels()]), ValueError, "each of the 3 outputs"),
    ),
)
def test_bad_input(make, error, words):
    with pytest.raises(error, match=words):
        make()

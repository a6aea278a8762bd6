"""Settings after construction: a native loss refuses them with a sentence, or they work; none is taken and ignored."""

import copy
import inspect
import pickle
from functools import partial

import pytest
import torch
from cases import SHAPES, logits, target

import fastloss as fl
from fastloss._planned import Planned
from fastloss.compound import Criterion

X, Y = logits(SHAPES["binary"]), target("binary", SHAPES["binary"])
LOSSES = {
    "bce": fl.BCEWithLogitsLoss,
    "ce": fl.CrossEntropyLoss,
    "focal": partial(fl.FocalLoss, "binary"),
    "topk": partial(fl.TopKLoss, "binary"),
    "dice": partial(fl.DiceLoss, "binary"),
    "jaccard": partial(fl.JaccardLoss, "binary"),
    "tversky": partial(fl.TverskyLoss, "binary"),
    "mcc": fl.MCCLoss,
    "generalized dice": fl.GeneralizedDiceLoss,
    "tvmf dice": fl.TvMFDiceLoss,
    "boundary dou": fl.BoundaryDoULoss,
    "sensitivity": fl.SensitivitySpecificityLoss,
    "weighted dice": fl.WeightedSoftDiceLoss,
    "poly": fl.PolyLoss,
    "explog": fl.ExpLogCrossEntropyLoss,
    "boundary": fl.BoundaryLoss,
    "unified": fl.UnifiedFocalLoss,
    "balanced": fl.BalancedCrossEntropyLoss,
    "recall": fl.RecallCrossEntropyLoss,
    "wasserstein": partial(fl.GeneralizedWassersteinDiceLoss, [[0.0, 1.0], [1.0, 0.0]]),
    "compound": lambda: 0.5 * fl.DiceLoss("binary") + torch.tensor(0.5) * fl.BCEWithLogitsLoss(),
    "abrupt": lambda: fl.LossSchedule([(0, fl.DiceLoss("binary")), (5, fl.BCEWithLogitsLoss())]),
    "linear": lambda: fl.LossSchedule.linear(fl.DiceLoss("binary"), fl.BCEWithLogitsLoss(), 0, 5),
    "alternating": lambda: fl.LossSchedule.alternating(fl.DiceLoss("binary"), fl.BCEWithLogitsLoss(), 0, 5, 2),
    "plateau": lambda: fl.LossSchedule.on_plateau(fl.DiceLoss("binary"), fl.BCEWithLogitsLoss()),
    "deep": lambda: fl.DeepSupervisionLoss(fl.DiceLoss("binary")),
}
OWNERS = [cls for cls in vars(fl).values() if inspect.isclass(cls) and issubclass(cls, Criterion | Planned)]
MAKERS = [fl.LossSchedule.linear, fl.LossSchedule.alternating, fl.LossSchedule.on_plateau, fl.LossSchedule]
NAMES = sorted(
    {name for made in (*OWNERS, *MAKERS, fl.DeepSupervisionLoss) for name in inspect.signature(made).parameters}
)
VALUES = [5.0, 0, True, "multiclass", None, [1.0, 2.0], fl.BCEWithLogitsLoss()]


def test_every_native_loss_is_here():
    assert {type(make()) for make in LOSSES.values()} >= {*OWNERS, fl.LossSchedule, fl.DeepSupervisionLoss}
    assert {"gamma", "pos_weight", "k", "stages", "patience", "criterion", "terms", "empty", "backend"} <= set(NAMES)


@pytest.mark.parametrize("name", [*NAMES, "spec", "active"])
@pytest.mark.parametrize("kind", LOSSES)
def test_a_setting_is_refused_or_works(kind, name):
    loss = LOSSES[kind]()
    works = kind == "deep" and name in ("criterion", "weights", "interpolation")
    schedule = isinstance(loss, fl.LossSchedule)
    if not schedule and name in (
        "a",
        "b",
        "active",
        "stages",
        "start",
        "end",
        "period",
        "patience",
        "min_delta",
        "epoch",
    ):
        return  # no setting of a loss
    if kind != "deep" and name in ("criterion", "interpolation"):
        return
    before = repr(loss)
    for value in VALUES:
        if works:
            continue
        with pytest.raises(AttributeError, match=rf"^{name} of {type(loss).__name__} cannot .* build a new .*\.$"):
            setattr(loss, name, value)
    assert repr(loss) == before


def test_what_has_to_be_assigned_still_is():
    loss = LOSSES["compound"]()
    loss.train(False)
    loss.note = "a user's own"
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), loss.to(torch.float64)):
        assert torch.equal(twin(X, Y), loss(X, Y)) and (twin.mode, twin.ignore_index) == ("binary", None)


def test_a_subclass_keeps_its_own_arguments():
    class Mine(fl.DiceLoss):
        def __init__(self, gamma):
            super().__init__("binary")
            self.gamma = gamma

    mine = Mine(3.0)
    mine.gamma = 4.0
    with pytest.raises(AttributeError, match="smooth of Mine"):
        mine.smooth = 1.0


def test_weight_tensors_can_be_replaced_and_filled():
    dice, bce = fl.DiceLoss("binary"), fl.BCEWithLogitsLoss()
    loss = torch.tensor(0.5) * dice + torch.tensor(0.25) * bce
    loss(X, Y)
    loss.weight_0 = torch.tensor(2.0)
    assert torch.equal(loss(X, Y), (torch.tensor(2.0) * dice + torch.tensor(0.25) * bce)(X, Y))
    loss.weight_1.data.copy_(torch.tensor(3.0))
    assert torch.equal(loss(X, Y), (torch.tensor(2.0) * dice + torch.tensor(3.0) * bce)(X, Y))
    for error, value in (
        (ValueError, torch.ones(2)),
        (TypeError, torch.tensor(1)),
        (TypeError, None),
        (TypeError, 0.5),
    ):
        with pytest.raises(error, match="weight"):
            loss.weight_0 = value
    loss.weight_0 = torch.nn.Parameter(torch.tensor(2.0))
    loss(X, Y).backward()
    assert torch.allclose(loss.weight_0.grad, dice(X, Y), rtol=1e-6)


def test_deep_supervision_takes_changes_and_checks_them():
    loss = LOSSES["deep"]()
    pyramid = [X, X[..., ::2, ::2]]
    y = [Y, Y[..., ::2, ::2]]
    loss(pyramid, y)
    loss.weights = [3.0, 1.0]
    loss.criterion = fl.BCEWithLogitsLoss()
    expected = fl.DeepSupervisionLoss(fl.BCEWithLogitsLoss(), [3.0, 1.0])(pyramid, y)
    assert torch.equal(loss(pyramid, y), expected)
    for name, value in (
        ("weights", {0: 1.0, 1: 2.0}),
        ("weights", [0.0, 0.0]),
        ("weights", {1.0, 2.0}),
        ("weights", [-1.0]),
    ):
        with pytest.raises((TypeError, ValueError), match=name):
            setattr(loss, name, value)
    for name, value in (("criterion", 1.0), ("interpolation", "bilinear")):
        with pytest.raises((TypeError, ValueError), match=name):
            setattr(loss, name, value)
    assert torch.equal(loss(pyramid, y), expected)


def test_a_weighted_sum_takes_changes_and_checks_them():
    from fastloss.compat import WeightedSum

    dice, bce = fl.DiceLoss("binary"), fl.BCEWithLogitsLoss()
    loss = WeightedSum([(1.0, dice), (1.0, bce)])
    loss(X, Y)
    loss.weights = [0.5, -2.0]
    assert torch.equal(loss(X, Y), WeightedSum([(0.5, dice), (-2.0, bce)])(X, Y))
    for value in ({0: 0.5, 1: 0.5}, {0.5, 0.25}, [1.0], "12", [float("nan"), 1.0], None, [True, True]):
        with pytest.raises((TypeError, ValueError), match="weight"):
            loss.weights = value
    assert loss.weights == (0.5, -2.0)


@pytest.mark.parametrize("place", ("meta", "fake"))
def test_repr_where_a_weight_cannot_be_read(place):
    from torch._subclasses.fake_tensor import FakeTensorMode

    if place == "meta":
        loss = LOSSES["compound"]().to("meta")
    else:
        with FakeTensorMode():
            loss = torch.empty(()) * fl.DiceLoss("binary")
    assert f"weight_0=<{place}>" in repr(loss)


def test_repr_of_a_drop_in_on_meta():
    from fastloss.compat import monai
    from fastloss.compat import torch as own

    assert "<meta>" in repr(own.CrossEntropyLoss(torch.ones(3)).to("meta"))
    assert "<meta>" in repr(monai.DiceLoss(softmax=True, weight=[1.0, 2.0]).to("meta"))

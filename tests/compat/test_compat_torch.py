"""fastloss.compat.torch against PyTorch's own losses and torchvision's focal loss."""

import pickle
import warnings

import pytest
import torch
from tolerances import assert_value, assert_vector
from torch import nn

from fastloss.compat import torch as own

SHAPES = ((3,), (6, 3), (2, 3, 7), (2, 3, 6, 5), (2, 3, 4, 3, 2), (2, 3, 2, 3, 2, 2))


def agree(ours, theirs, x, y, factor=2.0):
    results = []
    for loss in (ours, theirs):
        leaf = x.detach().clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value = loss(leaf, y)
        results.append((value, torch.autograd.grad(value.sum(), leaf)[0]))
    (value, grad), (expected, other) = results
    assert value.shape == expected.shape
    if expected.isnan().any():
        assert value.isnan().equal(expected.isnan())
    else:
        assert_value(value, expected, torch.float32, scale=1.0, factor=factor)
        assert_vector(grad, other, torch.float32, factor=factor)


def ids(shape):
    return torch.randint(0, 3, (shape[0], *shape[2:]) if len(shape) > 1 else ())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ("mean", "sum", "none"))
@pytest.mark.parametrize(
    "settings",
    ({}, {"weight": torch.tensor([0.5, 2.0, 1.0])}, {"label_smoothing": 0.2}, {"ignore_index": 1}),
    ids=("plain", "weight", "smoothing", "ignore"),
)
def test_cross_entropy(shape, reduction, settings):
    ours, theirs = [module.CrossEntropyLoss(reduction=reduction, **settings) for module in (own, nn)]
    x, y = torch.randn(shape) * 2, ids(shape)
    agree(ours, theirs, x, y)
    if "ignore_index" not in settings:
        agree(ours, theirs, x, torch.softmax(torch.randn(shape), 1 if len(shape) > 1 else 0))


@pytest.mark.parametrize("shape", ((4,), *SHAPES[1:]), ids=str)
@pytest.mark.parametrize("reduction", ("mean", "sum", "none"))
def test_bce(shape, reduction):
    x, y = torch.randn(shape) * 2, torch.rand(shape)
    channels = [1] * len(shape)
    channels[1 if len(shape) > 1 else 0] = shape[1] if len(shape) > 1 else 1
    for settings in (
        {},
        {"pos_weight": torch.tensor(2.5)},
        {"pos_weight": torch.rand(channels[1:] if len(shape) > 1 else channels)},
        {"weight": torch.rand(shape)},
        {"weight": torch.rand(shape[-1:])},
    ):
        ours, theirs = [module.BCEWithLogitsLoss(reduction=reduction, **settings) for module in (own, nn)]
        agree(ours, theirs, x, y)


def test_a_pos_weight_along_another_axis_warns_and_is_right():
    settings = {"pos_weight": torch.rand(5)}
    x, y = torch.randn(2, 3, 6, 5), torch.rand(2, 3, 6, 5)
    ours = own.BCEWithLogitsLoss(**settings)
    with pytest.warns(UserWarning, match="pos_weight is not one number for each channel"):
        value = ours(x, y)
    assert_value(value, nn.BCEWithLogitsLoss(**settings)(x, y), torch.float32)


@pytest.mark.parametrize("shape", ((4,), *SHAPES[1:]), ids=str)
@pytest.mark.parametrize("reduction", ("mean", "sum", "none"))
@pytest.mark.parametrize("alpha", (0.25, 0.9, -1))
@pytest.mark.parametrize("gamma", (0.5, 2))
def test_focal(shape, reduction, alpha, gamma):
    focal = pytest.importorskip("torchvision.ops").sigmoid_focal_loss
    x, y = torch.randn(shape) * 2, torch.rand(shape).round()

    def theirs(x, y):
        return focal(x, y, alpha, gamma, reduction)

    agree(own.SigmoidFocalLoss(alpha, gamma, reduction), theirs, x, y, factor=4.0)
    assert torch.equal(
        own.sigmoid_focal_loss(x, y, alpha, gamma, reduction), own.SigmoidFocalLoss(alpha, gamma, reduction)(x, y)
    )


def test_nothing_valid_is_nan_unless_mended():
    x, y = torch.randn(2, 3, 5), torch.full((2, 5), -100)
    agree(own.CrossEntropyLoss(), nn.CrossEntropyLoss(), x, y)
    assert own.CrossEntropyLoss(strict=False)(x, y) == 0
    for shape in ((0, 3, 5), (2, 3, 0)):
        empty = torch.zeros(shape)
        assert own.CrossEntropyLoss()(empty, torch.zeros((shape[0], shape[2]), dtype=torch.int64)).isnan()
        assert own.BCEWithLogitsLoss()(empty, empty).isnan()
        assert own.SigmoidFocalLoss(reduction="mean")(empty, empty).isnan()


def test_labels_that_no_type_can_hold_are_not_ignored():
    """156 is what -100 wraps to in uint8."""
    x = torch.randn(1, 157, 4)
    y = torch.full((1, 4), 156, dtype=torch.uint8)
    assert_value(own.CrossEntropyLoss()(x, y), nn.CrossEntropyLoss()(x, y.long()), torch.float32)


@pytest.mark.parametrize(
    ("make", "words"),
    (
        (lambda: own.CrossEntropyLoss()(torch.randn(2, 3, 5), torch.full((2, 5), 3)), "class ids from 0 to 2, got 3"),
        (lambda: own.CrossEntropyLoss()(torch.randn(2, 3, 5), torch.zeros(2, 6).long()), "y must be class ids"),
        (lambda: own.CrossEntropyLoss()(torch.randn(2, 3, 5), torch.zeros(2, 1, 5).long()), "target must be class ids"),
        (
            lambda: own.CrossEntropyLoss(ignore_index=0)(torch.randn(2, 3, 5), torch.rand(2, 3, 5)),
            "ignore_index must be negative with probabilities",
        ),
        (lambda: own.CrossEntropyLoss(reduction="most"), "reduction must be one of"),
        (lambda: own.BCEWithLogitsLoss()(torch.randn(2, 3), torch.zeros(2)), r"target must have the shape \[2, 3\]"),
        (lambda: own.BCEWithLogitsLoss()(torch.randn(2, 3), torch.full((2, 3), 2.0)), "between 0 and 1"),
        (lambda: own.SigmoidFocalLoss()(torch.randn(2, 3), torch.zeros(2)), r"targets must have the shape \[2, 3\]"),
        (lambda: own.SigmoidFocalLoss(reduction="most"), "reduction must be one of"),
    ),
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_they_are_instances_of_torchs_classes_and_keep_their_state():
    loss = own.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)
    assert isinstance(loss, nn.CrossEntropyLoss) and isinstance(own.BCEWithLogitsLoss(), nn.BCEWithLogitsLoss)
    other = own.CrossEntropyLoss(torch.ones(3), label_smoothing=0.1)
    other.load_state_dict(nn.CrossEntropyLoss(loss.weight, label_smoothing=0.1).state_dict())
    x, y = torch.randn(2, 3, 5), ids((2, 3, 5))
    for copy in (other, pickle.loads(pickle.dumps(loss))):
        assert torch.equal(copy(x, y), loss(x, y))
    assert repr(loss) == "fastloss.compat.torch.CrossEntropyLoss(weight=[1.0, 2.0, 3.0], label_smoothing=0.1)"


@pytest.mark.compile
@pytest.mark.parametrize("name", ("CrossEntropyLoss", "BCEWithLogitsLoss", "SigmoidFocalLoss"))
def test_compiles_whole(name):
    loss = getattr(own, name)(reduction="mean")
    x = torch.randn(2, 3, 6, requires_grad=True)
    y = ids((2, 3, 6)) if name == "CrossEntropyLoss" else torch.rand(2, 3, 6)
    value = torch.compile(loss, fullgraph=True)(x, y)
    assert_value(value, loss(x, y), torch.float32)

"""fastloss.compat.nnunet against nnU-Net 2.8.1: values and gradients over a grid."""

import warnings
from functools import partial

import pytest
import torch
from tolerances import assert_value, assert_vector

from fastloss.compat import nnunet

dice = pytest.importorskip("nnunetv2.training.loss.dice")
entropies = pytest.importorskip("nnunetv2.training.loss.robust_ce_loss")
compounds = pytest.importorskip("nnunetv2.training.loss.compound_losses")
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.helpers import softmax_helper_dim1

IGNORED = 3
SHAPES = ((2, 3, 12, 10), (2, 3, 6, 5, 4))
THEIRS = {
    **{name: getattr(dice, name) for name in ("SoftDiceLoss", "MemoryEfficientSoftDiceLoss")},
    **{name: getattr(entropies, name) for name in ("RobustCrossEntropyLoss", "TopKLoss")},
    **{name: getattr(compounds, name) for name in ("DC_and_CE_loss", "DC_and_topk_loss", "DC_and_BCE_loss")},
}
DICES = ("SoftDiceLoss", "MemoryEfficientSoftDiceLoss")


def both(name, *args, **kwargs):
    """(ours, theirs) with the same arguments; dictionaries are copied, since nnU-Net writes to them."""

    def copied():
        return [dict(a) if isinstance(a, dict) else a for a in args]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about reduce=False
        return getattr(nnunet, name)(*copied(), **kwargs), THEIRS[name](*copied(), **kwargs)


def agree(ours, theirs, x, *inputs, factor=2.0):
    """The peer runs in the float32 of its own sums; ours is fused, and warns of nothing."""
    values, grads = [], []
    for loss in (ours, theirs):
        leaf = x.detach().clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("error" if loss is ours else "default")
            value = loss(leaf, *inputs)
        values.append(value)
        grads.append(torch.autograd.grad(value.sum(), leaf)[0])
    assert values[0].shape == values[1].shape
    if values[1].isnan().any():
        assert values[0].isnan().equal(values[1].isnan())
    else:
        assert_value(*values, torch.float32, scale=1.0, factor=factor)
    assert_vector(*grads, x.dtype, factor=factor)
    return values


def logits(shape=SHAPES[0]):
    return torch.randn(shape) * 2


def labels(shape=SHAPES[0], dtype=torch.int16, ignored=False):
    y = torch.randint(0, shape[1], (shape[0], 1, *shape[2:]))
    y[0][y[0] == shape[1] - 1] = 0  # a class that a sample lacks
    if ignored:
        y[torch.rand(y.shape) < 0.3] = IGNORED
    return y.to(dtype)


def regions(shape=SHAPES[0], dtype=torch.float32, ignored=False):
    y = torch.rand(shape) < 0.4
    y[0, 0] = False
    if ignored:
        y = torch.cat([y, torch.rand(shape[0], 1, *shape[2:]) < 0.3], 1)
    return y.to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=("2d", "3d"))
@pytest.mark.parametrize("name", DICES)
@pytest.mark.parametrize("batch_dice", (False, True))
@pytest.mark.parametrize("do_bg", (False, True))
@pytest.mark.parametrize("smooth", (0.0, 1e-5, 1.0))
def test_dice_of_labels(shape, name, batch_dice, do_bg, smooth):
    ours, theirs = both(name, softmax_helper_dim1, batch_dice, do_bg, smooth, ddp=False)
    assert ours.fused and "not fused" not in repr(ours)
    agree(ours, theirs, logits(shape), labels(shape))
    mask = torch.rand(shape[0], 1, *shape[2:]) < 0.6
    agree(ours, theirs, logits(shape), labels(shape), mask)
    mask[0] = False  # a sample in which nothing counts
    agree(ours, theirs, logits(shape), labels(shape), mask)


@pytest.mark.parametrize("name", DICES)
@pytest.mark.parametrize("batch_dice", (False, True))
@pytest.mark.parametrize("dtype", (torch.bool, torch.uint8, torch.float32))
def test_dice_of_regions(name, batch_dice, dtype):
    ours, theirs = both(name, torch.sigmoid, batch_dice=batch_dice, ddp=False)
    assert ours.fused
    agree(ours, theirs, logits(), regions(dtype=dtype))
    agree(ours, theirs, logits(), regions(dtype=dtype), torch.rand(2, 1, 12, 10) < 0.6)
    agree(ours, theirs, logits(), labels())  # labels are made one-hot under a sigmoid too


@pytest.mark.parametrize("name", DICES)
def test_dice_of_soft_and_one_hot_targets(name):
    ours, theirs = both(name, softmax_helper_dim1, ddp=False)
    agree(ours, theirs, logits(), torch.softmax(torch.randn(SHAPES[0]), 1))
    one_hot = torch.nn.functional.one_hot(labels()[:, 0].long(), 3).movedim(-1, 1)
    agree(ours, theirs, logits(), one_hot)
    ours, theirs = both(name, torch.sigmoid, do_bg=False, ddp=False)
    agree(ours, theirs, logits(), torch.rand(SHAPES[0]))


@pytest.mark.parametrize("clip_tp", (0.0, 1.0, 15.0))
@pytest.mark.parametrize("batch_dice", (False, True))
def test_dice_clip_tp(clip_tp, batch_dice):
    ours, theirs = both("SoftDiceLoss", softmax_helper_dim1, batch_dice, False, 1e-5, False, clip_tp)
    assert ours.fused
    agree(ours, theirs, logits(), labels())


@pytest.mark.parametrize("dtype", (torch.uint8, torch.int16, torch.int64, torch.float32))
def test_labels_of_every_type_with_and_without_a_channel(dtype):
    ours, theirs = both("MemoryEfficientSoftDiceLoss", softmax_helper_dim1, ddp=False)
    agree(ours, theirs, logits(), labels(dtype=dtype))
    agree(ours, theirs, logits(), labels(dtype=dtype)[:, 0])
    ours, theirs = both("RobustCrossEntropyLoss")
    agree(ours, theirs, logits(), labels(dtype=dtype))
    agree(ours, theirs, logits(), labels(dtype=dtype)[:, 0])


@pytest.mark.parametrize(
    "nonlin",
    (
        torch.nn.Softmax(1),
        partial(torch.softmax, dim=1),
        partial(torch.nn.functional.softmax, dim=1),
        torch.nn.Sigmoid(),
    ),
    ids=("Softmax", "softmax", "functional", "Sigmoid"),
)
def test_activations_that_run_fused(nonlin):
    ours, theirs = both("SoftDiceLoss", nonlin, ddp=False)
    assert ours.fused
    agree(ours, theirs, logits(), labels())


@pytest.mark.parametrize(
    ("nonlin", "words"),
    ((None, "apply_nonlin=None means"), (torch.relu, "apply_nonlin=relu is"), (torch.nn.Softmax(2), "Softmax")),
    ids=("none", "relu", "other axis"),
)
@pytest.mark.parametrize("name", DICES)
def test_other_activations_run_as_plain_pytorch_and_say_so(name, nonlin, words):
    ours, theirs = both(name, nonlin, smooth=0.1, ddp=False)
    assert not ours.fused and words in ours.why_not_fused and ours.why_not_fused in repr(ours)
    agree(ours, theirs, logits().abs(), labels())
    agree(ours, theirs, logits().abs(), labels(), torch.rand(2, 1, 12, 10))


@pytest.mark.parametrize("name", DICES)
def test_inputs_that_no_kernel_takes_warn_once(name):
    ours, theirs = both(name, softmax_helper_dim1, ddp=False)
    x, y, weights = logits(), labels(), torch.rand(2, 1, 12, 10)
    with pytest.warns(UserWarning, match="plain PyTorch: loss_mask is not boolean"):
        value = ours(x, y, weights)
    assert_value(value, theirs(x, y, weights), torch.float32, scale=1.0)
    agree(ours, theirs, x, y, weights)  # said already


@pytest.mark.parametrize("reduction", ("mean", "sum", "none"))
@pytest.mark.parametrize("weight", (None, [0.5, 2.0, 1.25]))
@pytest.mark.parametrize("label_smoothing", (0.0, 0.1))
@pytest.mark.parametrize("ignored", (False, True))
def test_robust_cross_entropy(reduction, weight, label_smoothing, ignored):
    weight = weight and torch.tensor(weight)
    settings = {"weight": weight, "reduction": reduction, "label_smoothing": label_smoothing, "ignore_index": IGNORED}
    ours, theirs = both("RobustCrossEntropyLoss", **settings)
    for shape in SHAPES:
        agree(ours, theirs, logits(shape), labels(shape, ignored=ignored))


@pytest.mark.parametrize("dtype", (torch.int16, torch.int32, torch.float32))
def test_robust_cross_entropy_of_one_class(dtype):
    """No kernel takes it: plain PyTorch, which reads int64 labels only."""
    ours, theirs = both("RobustCrossEntropyLoss")
    x, y = logits((2, 1, 6, 5)), torch.zeros(2, 1, 6, 5, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_value(ours(x, y), theirs(x, y), x.dtype, scale=1.0)


@pytest.mark.parametrize("k", (1, 10, 33.3, 90, 100))
@pytest.mark.parametrize("weight", (None, [0.5, 2.0, 1.25]))
@pytest.mark.parametrize("label_smoothing", (0, 0.1))
@pytest.mark.parametrize("ignored", (False, True))
def test_topk_counts_ignored_pixels(k, weight, label_smoothing, ignored):
    weight = weight and torch.tensor(weight)
    ours, theirs = both("TopKLoss", weight, IGNORED, k, label_smoothing)
    for shape in SHAPES:
        agree(ours, theirs, logits(shape), labels(shape, ignored=ignored))


DICE = ({}, {"batch_dice": True, "do_bg": False, "smooth": 1e-5, "ddp": False}, {"smooth": 0.0, "clip_tp": 5.0})


@pytest.mark.parametrize("shape", SHAPES, ids=("2d", "3d"))
@pytest.mark.parametrize("kwargs", DICE, ids=("default", "trainer", "clip"))
@pytest.mark.parametrize("ignore_label", (None, IGNORED, 0))
@pytest.mark.parametrize("weights", ((1, 1), (0.3, 2.0), (0, 1), (1, 0)), ids=str)
@pytest.mark.parametrize("name", ("DC_and_CE_loss", "DC_and_topk_loss"))
def test_compounds_of_labels(shape, kwargs, ignore_label, weights, name):
    ours, theirs = both(name, kwargs, {}, *weights, ignore_label)
    assert ours.fused
    agree(ours, theirs, logits(shape), labels(shape, ignored=ignore_label == IGNORED))
    agree(ours, theirs, logits(shape), labels(shape, torch.float32, ignore_label == IGNORED))


@pytest.mark.parametrize("dice_class", DICES)
def test_the_classes_of_nnunet_as_dice_class(dice_class):
    arguments = {"batch_dice": False, "do_bg": False, "smooth": 1e-5, "ddp": False}, {}
    ours = nnunet.DC_and_CE_loss(*arguments, dice_class=THEIRS[dice_class])
    theirs = compounds.DC_and_CE_loss(*arguments, dice_class=THEIRS[dice_class])
    assert ours.fused and type(ours.dc) is getattr(nnunet, dice_class)
    agree(ours, theirs, logits(), labels())


@pytest.mark.parametrize(
    "ce", ({"weight": torch.tensor([0.5, 2.0, 1.0])}, {"label_smoothing": 0.1}, {"reduction": "sum"}), ids=str
)
@pytest.mark.parametrize("ignore_label", (None, IGNORED))
def test_settings_of_cross_entropy_in_a_compound(ce, ignore_label):
    ours, theirs = both("DC_and_CE_loss", {}, ce, 1, 1, ignore_label)
    agree(ours, theirs, logits(), labels(ignored=ignore_label is not None))


def test_two_passes_where_the_terms_disagree():
    for ce in ({"ignore_index": 0}, {"reduction": "none"}):
        agree(*both("DC_and_CE_loss", {}, ce), logits(), labels())
    agree(*both("DC_and_topk_loss", {}, {"ignore_index": 1}), logits(), labels())
    agree(*both("DC_and_topk_loss", {}, {"label_smoothing": 0.1}), logits(), labels())
    agree(*both("DC_and_BCE_loss", {"reduction": "none"}, {}), logits(), regions())


@pytest.mark.parametrize("name", ("DC_and_CE_loss", "DC_and_topk_loss"))
def test_a_one_hot_target_meets_channel_0_as_class_ids(name):
    y = torch.nn.functional.one_hot(labels()[:, 0].long(), 3).movedim(-1, 1)
    agree(*both(name, {}, {}), logits(), y)


@pytest.mark.parametrize("name", ("DC_and_CE_loss", "DC_and_topk_loss"))
@pytest.mark.parametrize("smooth", (0.0, 1.0))
def test_nothing_but_ignored_pixels(name, smooth):
    y = torch.full((2, 1, 12, 10), IGNORED)
    value, _ = agree(*both(name, {"smooth": smooth}, {}, 1, 1, IGNORED), logits(), y)
    assert value == (-1.0 if smooth else 0.0)


@pytest.mark.parametrize("kwargs", DICE[:2], ids=("default", "trainer"))
@pytest.mark.parametrize("dice_class", DICES)
@pytest.mark.parametrize("ignored", (False, True))
@pytest.mark.parametrize("dtype", (torch.bool, torch.uint8, torch.float32))
def test_compound_of_regions(kwargs, dice_class, ignored, dtype):
    ours, theirs = both("DC_and_BCE_loss", {}, kwargs, 0.5, 2.0, ignored, dice_class=THEIRS[dice_class])
    assert ours.fused
    for shape in SHAPES:
        agree(ours, theirs, logits(shape), regions(shape, dtype, ignored))


@pytest.mark.parametrize("ignored", (False, True))
@pytest.mark.parametrize(
    "bce",
    (
        {"pos_weight": torch.tensor(2.5)},
        {"pos_weight": torch.tensor([0.5, 2.0, 1.0])[:, None, None]},
        {"weight": torch.rand(1, 3, 12, 10)},
        {"weight": torch.tensor([0.5, 2.0, 1.0])[:, None, None]},
    ),
    ids=("pos_weight", "pos_weights", "weight", "weights"),
)
def test_settings_of_bce_in_a_compound(bce, ignored):
    agree(*both("DC_and_BCE_loss", bce, {}, 1, 1, ignored), logits(), regions(ignored=ignored))


def test_regions_of_which_nothing_counts():
    y = regions(ignored=True)
    y[:, -1] = 1
    agree(*both("DC_and_BCE_loss", {}, {}, 1, 1, True), logits(), y)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("name", ("DC_and_CE_loss", "DC_and_topk_loss"))
def test_half_logits_are_as_good_as_float32(dtype, name):
    ours, theirs = both(name, {}, {}, 1, 1, IGNORED)
    x, y = logits().to(dtype).requires_grad_(), labels(ignored=True)
    leaf = x.detach().float().requires_grad_()
    assert ours(x, y).dtype == torch.float32
    assert_value(ours(x, y), theirs(leaf, y), torch.float32, scale=1.0, factor=2.0)
    assert_vector(torch.autograd.grad(ours(x, y), x)[0], torch.autograd.grad(theirs(leaf, y), leaf)[0], dtype)


@pytest.mark.parametrize("name", ("DC_and_CE_loss", "DC_and_topk_loss"))
def test_deep_supervision(name):
    weights = [4 / 7, 2 / 7, 1 / 7, 0.0]
    ours, theirs = both(name, {"do_bg": False, "smooth": 1e-5}, {}, 1, 1, IGNORED)
    ours, theirs = nnunet.DeepSupervisionWrapper(ours, weights), DeepSupervisionWrapper(theirs, weights)
    sizes = [(2, 3, 16 // 2**i, 24 // 2**i) for i in range(4)]
    x = [logits(size).requires_grad_() for size in sizes]
    y = [labels(size, ignored=True) for size in sizes]
    assert ours.fused
    values = [loss(x, y) for loss in (ours, theirs)]
    assert_value(*values, torch.float32, scale=1.0, factor=2.0)
    grads = [torch.autograd.grad(value, x[:3]) for value in values]
    for mine, other in zip(*grads):
        assert_vector(mine, other, torch.float32, factor=2.0)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(ours(x, y), x[3])

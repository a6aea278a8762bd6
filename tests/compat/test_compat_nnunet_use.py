"""fastloss.compat.nnunet in use: random settings, errors, strict=False, copies, torch.compile, replaced parts."""

import inspect
import io
import pickle
import warnings
from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_compat_nnunet import IGNORED, SHAPES, THEIRS, agree, both, labels, logits, regions
from tolerances import assert_value, assert_vector

import fastloss as fl
from fastloss.compat import nnunet
from fastloss.compat import torch as own

TRAINER = {"batch_dice": True, "do_bg": False, "smooth": 1e-5, "ddp": False}

dice_settings = st.fixed_dictionaries(
    {
        "batch_dice": st.booleans(),
        "do_bg": st.booleans(),
        "smooth": st.sampled_from((0.0, 1e-5, 0.3, 1.0, 5.0)),
        "ddp": st.just(False),
    }
)
ce_settings = st.fixed_dictionaries(
    {},
    optional={
        "weight": st.lists(st.floats(0.1, 3.0), min_size=3, max_size=3).map(torch.tensor),
        "label_smoothing": st.floats(0.0, 0.5),
    },
)
weights = st.sampled_from((0, 0.3, 1, 2.5, -0.5))
ignore_labels = st.sampled_from((None, IGNORED, 0, -1))
seeds = st.integers(0, 2**16)
classes = st.sampled_from(("SoftDiceLoss", "MemoryEfficientSoftDiceLoss"))
shapes = st.sampled_from(SHAPES)


def some_labels(seed, ignore_label, shape):
    torch.manual_seed(seed)
    y = labels(shape)
    if ignore_label is not None:
        y[torch.rand(y.shape) < 0.3] = ignore_label
    return y


@given(dice_settings, ce_settings, weights, weights, ignore_labels, classes, seeds, shapes)
def test_dice_and_ce_with_random_settings(dice, ce, weight_ce, weight_dice, ignore_label, dice_class, seed, shape):
    y = some_labels(seed, ignore_label, shape)
    ours, theirs = both("DC_and_CE_loss", dice, ce, weight_ce, weight_dice, ignore_label, THEIRS[dice_class])
    if weight_ce == 0 and weight_dice == 0:
        assert ours(logits(shape).requires_grad_(), y) == theirs(logits(shape), y) == 0
    else:
        agree(ours, theirs, logits(shape), y, factor=4.0)


@given(dice_settings, ce_settings, weights, st.floats(0.5, 100.0), ignore_labels, seeds)
def test_dice_and_topk_with_random_settings(dice, ce, weight_ce, k, ignore_label, seed):
    y = some_labels(seed, ignore_label, SHAPES[0])
    ours, theirs = both("DC_and_topk_loss", dice, {**ce, "k": k}, weight_ce, 1, ignore_label)
    agree(ours, theirs, logits(), y, factor=4.0)


@given(dice_settings, st.sampled_from((None, 0.5, 2.0)), weights, weights, st.booleans(), seeds)
def test_dice_and_bce_with_random_settings(dice, pos_weight, weight_ce, weight_dice, ignored, seed):
    torch.manual_seed(seed)
    bce = {} if pos_weight is None else {"pos_weight": torch.tensor(pos_weight)}
    ours, theirs = both("DC_and_BCE_loss", bce, dice, weight_ce, weight_dice, ignored)
    if weight_ce == 0 and weight_dice == 0:
        assert ours(logits().requires_grad_(), regions(ignored=ignored)) == 0
    else:
        agree(ours, theirs, logits(), regions(ignored=ignored), factor=4.0)


@pytest.mark.parametrize("name", nnunet.__all__)
def test_signatures_are_those_of_nnunet(name):
    if name == "softmax_helper_dim1":
        return
    theirs = THEIRS.get(name)
    if theirs is None:
        from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper as theirs
    ours = [p for p in inspect.signature(getattr(nnunet, name)).parameters.values() if p.name != "strict"]
    expected = list(inspect.signature(theirs).parameters.values())
    assert [p.name for p in ours] == [p.name for p in expected]
    for mine, other in zip(ours, expected):
        if mine.name != "dice_class":
            assert mine.default == other.default
        elif mine.default is not inspect.Parameter.empty:
            assert mine.default.__name__ == other.default.__name__


ERRORS = {
    "labels without a channel in a compound": ("DC_and_CE_loss", ({}, {}), lambda: labels()[:, 0]),
    "one-hot with an ignore label": ("DC_and_CE_loss", ({}, {}, 1, 1, 2), lambda: regions()),
    "one-hot with an ignore label, top-k": ("DC_and_topk_loss", ({}, {}, 1, 1, 2), lambda: regions()),
    "one-hot for cross-entropy": ("RobustCrossEntropyLoss", (), lambda: regions()),
    "labels without a channel for top-k": ("TopKLoss", (), lambda: labels()[:, 0]),
    "a class too many": ("DC_and_CE_loss", ({}, {}), lambda: labels() + 1),
    "a negative class": ("DC_and_CE_loss", ({}, {}), lambda: labels() - 100),
    "a class too many, cross-entropy": ("RobustCrossEntropyLoss", (), lambda: labels() + 1),
    "a class too many, top-k": ("TopKLoss", (), lambda: labels() + 1),
    "labels for regions": ("DC_and_BCE_loss", ({}, {}), lambda: labels()),
    "no ignore channel": ("DC_and_BCE_loss", ({}, {}, 1, 1, True), lambda: regions()),
    "another size": ("DC_and_CE_loss", ({}, {}), lambda: labels((2, 3, 13, 10))),
    "ddp without a group": ("SoftDiceLoss", (nnunet.softmax_helper_dim1, True), lambda: labels()),
    "k above 100": ("TopKLoss", (None, -100, 150), lambda: labels()),
    "another reduction": ("RobustCrossEntropyLoss", (None, None, -100, None, "max"), lambda: labels()),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_of_nnunet_stay_errors(name):
    owner, arguments, make = ERRORS[name]
    y = make()
    with warnings.catch_warnings(), pytest.raises(Exception):  # noqa: B017
        warnings.simplefilter("ignore")
        THEIRS[owner](*[dict(a) if isinstance(a, dict) else a for a in arguments])(logits(), y)
    with pytest.raises(ValueError) as caught:
        getattr(nnunet, owner)(*arguments)(logits(), y)
    assert "got" in str(caught.value) or "ddp=True" in str(caught.value)


def test_errors_of_the_wrapper():
    inner = nnunet.DC_and_CE_loss({}, {})
    with pytest.raises(TypeError, match="weight_factors must be"):
        nnunet.DeepSupervisionWrapper(inner)
    with pytest.raises(AssertionError, match="must not all be 0"):
        nnunet.DeepSupervisionWrapper(inner, [0.0])
    wrapper = nnunet.DeepSupervisionWrapper(inner, [1.0])
    with pytest.raises(AssertionError, match="every argument must be a list"):
        wrapper(logits(), labels())
    with pytest.raises(IndexError, match="weight_factors has 1 values"):
        wrapper([logits(), logits()], [labels(), labels()])
    every = nnunet.DeepSupervisionWrapper(inner, strict=False)
    x, y = logits(), labels()
    assert_value(every([x, x], [y, y]), 2 * inner(x, y), torch.float32)


def test_not_strict_mends_what_is_wrong():
    x, y = logits(), labels(ignored=True)
    # Top-k of the valid pixels, at least one.
    mended = nnunet.TopKLoss(ignore_index=IGNORED, k=10, strict=False)
    assert_value(mended(x, y), fl.TopKLoss("multiclass", k=0.1, ignore_index=IGNORED)(x, y[:, 0]), torch.float32)
    smooth = nnunet.TopKLoss(ignore_index=IGNORED, k=10, label_smoothing=1e-9, strict=False)
    assert_value(smooth(x, y), mended(x, y), torch.float32, factor=2.0)
    assert nnunet.TopKLoss(k=0.01)(x, labels()).isnan()
    worst = torch.nn.functional.cross_entropy(x, (one := labels())[:, 0].long(), reduction="none").max()
    assert_value(nnunet.TopKLoss(k=0.01, strict=False)(x, one), worst, torch.float32)
    # Nothing valid.
    nothing = torch.full_like(y, IGNORED)
    for strict in (True, False):
        leaf = x.clone().requires_grad_()
        value = nnunet.RobustCrossEntropyLoss(ignore_index=IGNORED, strict=strict)(leaf, nothing)
        assert value.isnan() if strict else value == 0
        assert torch.autograd.grad(value, leaf)[0].eq(0).all() or strict
    # The mean over channels, with and without an ignore channel.
    y = regions(ignored=True)
    y[:, -1] = 0
    loss = nnunet.DC_and_BCE_loss({}, TRAINER, use_ignore_label=True, strict=False)
    assert_value(loss(x, y), nnunet.DC_and_BCE_loss({}, TRAINER)(x, y[:, :-1]), torch.float32, scale=1.0)
    # The whole one-hot target.
    ids = labels()
    one_hot = torch.nn.functional.one_hot(ids[:, 0].long(), 3).movedim(-1, 1)
    loss = nnunet.DC_and_CE_loss(TRAINER, {}, strict=False)
    assert_value(loss(x, one_hot), loss(x, ids), torch.float32, scale=1.0)


def test_dictionaries_are_not_written_to():
    ce, bce = {}, {}
    nnunet.DC_and_CE_loss({}, ce, ignore_label=2)
    nnunet.DC_and_BCE_loss(bce, {}, use_ignore_label=True)
    assert ce == {} and bce == {}


MODULES = {
    "dice": (lambda: nnunet.SoftDiceLoss(torch.sigmoid, True, False, 0.1, False, 2.0), labels),
    "topk": (lambda: nnunet.TopKLoss(torch.rand(3), 2, 20, 0.1), labels),
    "dc+ce": (lambda: nnunet.DC_and_CE_loss(TRAINER, {"weight": torch.rand(3)}, ignore_label=2), labels),
    "dc+topk": (lambda: nnunet.DC_and_topk_loss(TRAINER, {"k": 20}), labels),
    "dc+bce": (lambda: nnunet.DC_and_BCE_loss({"pos_weight": torch.tensor(2.0)}, TRAINER), regions),
}


@pytest.mark.parametrize("name", MODULES)
def test_copies_state_and_repr(name):
    make, target = MODULES[name]
    loss, x, y = make(), logits(), target()
    file = io.BytesIO()
    torch.save(loss, file)
    file.seek(0)
    for other in (pickle.loads(pickle.dumps(loss)), deepcopy(loss), torch.load(file, weights_only=False)):
        assert torch.equal(other(x, y), loss(x, y)) and repr(other) == repr(loss)
    state = loss.state_dict()
    theirs = both(type(loss).__name__, *loss.settings().values())[1].state_dict()
    assert state.keys() == theirs.keys()
    other = make()
    other.load_state_dict(state)
    assert torch.equal(other(x, y), loss(x, y))
    with pytest.raises(TypeError, match="cannot be scripted; use torch.compile"):
        torch.jit.script(loss)


@pytest.mark.compile
@pytest.mark.parametrize("name", [name for name in MODULES if name != "topk"])
def test_compiles_whole(name):
    make, target = MODULES[name]
    loss, x, y = make(), logits().requires_grad_(), target().to(torch.uint8)
    value = torch.compile(loss, fullgraph=True)(x, y)
    assert_value(value, loss(x, y), torch.float32, scale=1.0)
    assert_vector(torch.autograd.grad(value, x)[0], torch.autograd.grad(loss(x, y), x)[0], torch.float32)


@pytest.mark.compile
def test_compiled_topk_with_ignored_pixels_is_whole_too():
    """The number of valid pixels would stop the graph, so the elements are sorted by torch.topk."""
    loss = nnunet.DC_and_topk_loss(TRAINER, {}, ignore_label=IGNORED)
    x, y = logits().requires_grad_(), labels(ignored=True)
    value = torch.compile(loss, fullgraph=True)(x, y)
    assert_value(value, loss(x, y), torch.float32, scale=1.0)


def test_parts_may_be_changed_after_construction():
    """As nnU-Net's trainer does: a compiled Dice, other weights; and a Dice of one's own."""
    loss, x, y = nnunet.DC_and_CE_loss(TRAINER, {}), logits(), labels()
    before = loss(x, y)
    loss.dc = torch.compile(loss.dc, backend="eager")
    assert loss.fused and torch.equal(loss(x, y), before)
    loss.weight_ce = 0
    assert_value(loss(x, y), loss.dc._orig_mod(x, y), torch.float32)
    loss.dc._orig_mod.smooth = 1e6
    assert loss(x, y) < -0.9

    class Half(torch.nn.Module):
        def forward(self, x, y, loss_mask=None):
            assert loss_mask is None or loss_mask.dtype == torch.bool
            return 0.5 * x.mean()

    loss.dc, loss.weight_ce = Half(), 2.0
    assert not loss.fused and "dc=Half is none of" in repr(loss)
    assert_value(loss(x, y), 0.5 * x.mean() + 2.0 * own.CrossEntropyLoss()(x, y[:, 0]), torch.float32, scale=1.0)
    loss.ignore_label = loss.ce.ignore_index = 0
    expected = 0.5 * x.mean() + 2.0 * own.CrossEntropyLoss(ignore_index=0)(x, y[:, 0])
    assert_value(loss(x, y), expected, torch.float32, scale=1.0)


def test_a_trained_class_weight_is_read_again():
    loss, x, y = nnunet.RobustCrossEntropyLoss(torch.ones(3)), logits(), labels()
    before = loss(x, y)
    loss.weight.copy_(torch.tensor([0.0, 1.0, 5.0]))
    assert loss(x, y) != before
    assert_value(loss(x, y), both("RobustCrossEntropyLoss", loss.weight)[1](x, y), torch.float32, scale=1.0)


def test_masked_pixels_may_hold_nan():
    """nnU-Net multiplies by the mask, which keeps NaN."""
    loss, x, y = nnunet.DC_and_CE_loss(TRAINER, {}, ignore_label=IGNORED), logits(), labels(ignored=True)
    clean = loss(x, y)
    assert torch.equal(loss(torch.where(y == IGNORED, torch.nan, x), y), clean)

"""Targets and settings that require a gradient: what the originals differentiate runs as plain PyTorch, never without
the gradient; fastloss's own losses say so in one sentence."""

import warnings

import pytest
import torch
from cases import MODES, SHAPES, build, logits, target
from dropins import DROPINS, PLAIN, hot
from dropins import logits as dropin_logits
from torch import nn

import fastloss as fl
from fastloss.compat import WeightedSum, monai, nnunet, smp
from fastloss.compat import torch as own

SOFT = [name for name, (_, labels) in DROPINS.items() if labels is hot and name not in PLAIN]
WEIGHT = torch.tensor([1.0, 2.0, 0.5])


def gradients(loss, *leaves):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*runs as plain PyTorch")
        value = loss(*leaves).sum()
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def close(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, check_dtype=False)


def leaves(soft=True):
    y = torch.rand(hot().shape, generator=torch.Generator().manual_seed(3)) if soft else hot()
    return dropin_logits().requires_grad_(), y.requires_grad_()


def probabilities():
    x, y = leaves()
    return x, torch.softmax(3 * y.detach(), 1).requires_grad_()


ORIGINALS = {
    "ce": (own.CrossEntropyLoss, nn.CrossEntropyLoss, probabilities, {}),
    "ce-weight": (own.CrossEntropyLoss, nn.CrossEntropyLoss, probabilities, {"weight": WEIGHT, "label_smoothing": 0.1}),
    "ce-none": (own.CrossEntropyLoss, nn.CrossEntropyLoss, probabilities, {"reduction": "none"}),
    "bce": (own.BCEWithLogitsLoss, nn.BCEWithLogitsLoss, leaves, {}),
    "bce-weights": (
        own.BCEWithLogitsLoss, nn.BCEWithLogitsLoss, leaves,
        {"weight": WEIGHT[:, None, None], "pos_weight": WEIGHT[:, None, None], "reduction": "sum"}),
    "bce-none": (own.BCEWithLogitsLoss, nn.BCEWithLogitsLoss, leaves, {"reduction": "none"}),
}  # fmt: skip


@pytest.mark.parametrize("way", ("class", "fuse", "sum", "deep supervision", "nnU-Net's wrapper"))
@pytest.mark.parametrize("name", ORIGINALS)
def test_torchs_losses(name, way):
    ours, theirs, inputs, settings = ORIGINALS[name]
    loss = theirs(**settings)
    found = {
        "class": lambda: ours(**settings),
        "fuse": lambda: fl.fuse(loss),
        "sum": lambda: WeightedSum([(0.5, ours(**settings)), (0.5, fl.fuse(loss))]),
        "deep supervision": lambda: lambda x, y: fl.DeepSupervisionLoss(ours(**settings), [1.0])([x], [y]),
        "nnU-Net's wrapper": lambda: lambda x, y: nnunet.DeepSupervisionWrapper(ours(**settings), [1.0])([x], [y]),
    }[way]()
    close(gradients(found, *inputs()), gradients(loss, *inputs()))


@pytest.mark.parametrize("reduction", ("none", "mean", "sum"))
@pytest.mark.parametrize("alpha", (0.25, -1))
def test_torchvisions_focal_loss(alpha, reduction):
    def theirs(x, y):
        p = x.sigmoid()
        loss = nn.functional.binary_cross_entropy_with_logits(x, y, reduction="none")
        loss = loss * (1 - (p * y + (1 - p) * (1 - y))) ** 2
        loss = loss if alpha < 0 else loss * (alpha * y + (1 - alpha) * (1 - y))
        return {"none": lambda t: t, "mean": torch.mean, "sum": torch.sum}[reduction](loss)

    expected = gradients(theirs, *leaves())
    close(gradients(own.SigmoidFocalLoss(alpha, reduction=reduction), *leaves()), expected)
    close(gradients(lambda x, y: own.sigmoid_focal_loss(x, y, alpha, reduction=reduction), *leaves()), expected)


@pytest.mark.parametrize("name", SOFT)
def test_every_dropin_of_soft_targets(name):
    """The gradient by the logits is the one without; that of the target is not lost."""
    make, _ = DROPINS[name]
    x, y = leaves(soft=False)
    _, by_x, by_y = gradients(make(), x, y)
    (expected,) = gradients(lambda x: make()(x, y.detach()), x)[1:]
    close([by_x], [expected])
    assert by_y.count_nonzero() > 0


def test_nnunets_dice_of_probabilities():
    dice = nnunet.SoftDiceLoss(nnunet.softmax_helper_dim1, ddp=False)
    x, y = probabilities()
    _, by_x, by_y = gradients(dice, x, y)
    close([by_x], gradients(lambda x: dice(x, y.detach()), x)[1:])
    assert by_y.count_nonzero() > 0


@pytest.mark.parametrize("mode", MODES)
def test_native_losses_say_so(mode, compiled):
    x, loss = logits(SHAPES[mode]), build(f"{mode}:dice+focal")
    y = torch.rand(SHAPES[mode]).requires_grad_()
    weight = torch.rand(SHAPES[mode][:1] + SHAPES[mode][2:]).requires_grad_()
    with fl.backends.use(compiled):
        with pytest.raises(ValueError, match=r"y must not require a gradient.*backends.use\('reference'\)"):
            loss(x, y)
        with pytest.raises(ValueError, match="pixel_weight must not require a gradient"):
            loss(x, target(mode, SHAPES[mode]), pixel_weight=weight)
        with torch.no_grad():
            assert loss(x, y).isfinite()
        with pytest.raises(ValueError, match="y must not require a gradient"):
            loss(x, y)
        with fl.backends.use("reference"):
            assert torch.autograd.grad(loss(x, y), y)[0].count_nonzero() > 0


SETTINGS = {
    "smp focal": lambda w: smp.FocalLoss("multilabel", class_weights=w),
    "monai focal alpha": lambda w: monai.FocalLoss(alpha=w),
}


@pytest.mark.parametrize("make", SETTINGS.values(), ids=SETTINGS)
def test_settings_that_learn_get_their_gradient(make):
    weight, x, y = WEIGHT.clone().requires_grad_(), dropin_logits(), hot()
    _, by_weight = gradients(lambda w: make(w)(x, y), weight)
    step, change = 1e-2, torch.zeros(3)
    for i in range(3):
        change[i] = (make(WEIGHT + step * torch.eye(3)[i])(x, y) - make(WEIGHT - step * torch.eye(3)[i])(x, y)).sum()
    torch.testing.assert_close(by_weight, change / (2 * step), rtol=1e-2, atol=1e-4)


FIXED = {
    "smp dice": lambda w: smp.DiceLoss("multilabel", class_weights=w),
    "monai dice": lambda w: monai.DiceLoss(sigmoid=True, weight=w),
    "monai focal": lambda w: monai.FocalLoss(weight=w),
    # torch's own sentence
    "bce pos_weight": lambda w: own.BCEWithLogitsLoss(pos_weight=w[:, None, None]),
    "bce weight": lambda w: own.BCEWithLogitsLoss(weight=w[:, None, None]),
    "smp bce": lambda w: smp.SoftBCEWithLogitsLoss(pos_weight=w[:, None, None]),
    "nnunet": lambda w: nnunet.DC_and_BCE_loss({"pos_weight": w[:, None, None]}, {"ddp": False}),
}


@pytest.mark.filterwarnings("ignore:.*runs as plain PyTorch")
@pytest.mark.parametrize("make", FIXED.values(), ids=FIXED)
def test_settings_that_cannot_learn_say_so(make):
    loss = make(WEIGHT.clone().requires_grad_())
    with pytest.raises(
        (ValueError, RuntimeError), match="weights? of .* must not require a grad|not differentiable .*weight"
    ):
        loss(dropin_logits(), hot())
    with torch.no_grad():
        assert loss(dropin_logits(), hot()).isfinite()


def test_settings_without_numbers():
    """Made on meta, to be loaded later; a call before says so."""
    loss = smp.DiceLoss("multilabel", class_weights=WEIGHT.to("meta"))
    with pytest.raises(TypeError, match="class_weights of DiceLoss must hold numbers in a call, got .*'meta'"):
        loss(dropin_logits(), hot())
    late = own.CrossEntropyLoss(WEIGHT.to("meta"))
    late.load_state_dict({"weight": WEIGHT}, assign=True)
    x, y = dropin_logits(), hot().argmax(1)
    assert torch.equal(late(x, y), own.CrossEntropyLoss(WEIGHT)(x, y))


def test_double_backward_names_what_works_for_dropins_too():
    x, y = dropin_logits().requires_grad_(), hot()
    for loss in (own.BCEWithLogitsLoss(), monai.DiceLoss(sigmoid=True), smp.DiceLoss("multilabel")):
        (grad,) = torch.autograd.grad(loss(x, y) + x.square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match=r"fastloss.backends.use\('reference'\)"):
            grad.sum().backward()
        with fl.backends.use("reference"):
            (grad,) = torch.autograd.grad(loss(x, y), x, create_graph=True)
            grad.sum().backward()

"""fastloss.compat.smp against segmentation-models-pytorch: values, gradients, shapes and errors."""

import inspect
from functools import partial
from itertools import product

import pytest
import torch
from originals import assert_same

from fastloss.compat import smp

T = pytest.importorskip("segmentation_models_pytorch").losses
NAMES = [name for name in smp.__all__ if name.endswith("Loss")]
REGION = ("DiceLoss", "JaccardLoss", "TverskyLoss")
SPACES = {2: (5, 6), 3: (3, 4, 5)}
VOID = 255


def inputs(mode, axes=2):
    """Logits and targets by name; class 2 is nowhere."""
    space = SPACES[axes]
    x = torch.randn(2, 1 if mode == "binary" else 4, *space)
    if mode == "multiclass":
        y = torch.randint(0, 4, (2, *space))
        y[y == 2] = 1
        void = y.masked_fill(torch.rand(y.shape) < 0.3, VOID)
        kinds = {"ids": y, "axis": y[:, None], "void": void, "float": y.float(), "byte": y.byte(), "range": y + 3}
        return x, kinds | {"negative": y - 1, "short": y[:1]}
    y = torch.randint(0, 2, x.shape)
    if mode == "multilabel":
        y[:, 2] = 0
    void = y.float().masked_fill(torch.rand(y.shape) < 0.3, VOID)
    kinds = {"int": y, "float": y.float(), "soft": torch.rand(y.shape), "bool": y.bool(), "void": void}
    kinds |= {"voidint": void.long(), "none": y * 0, "short": y[:1], "flat": y.reshape(2, -1)}
    return x, kinds | ({"plain": y[:, 0].float()} if mode == "binary" else {})


def check(name, x, y, **kwargs):
    x = x.sigmoid() if kwargs.get("from_logits") is False or name == "MCCLoss" else x
    make = [lambda space=space: getattr(space, name)(**kwargs) for space in (smp, T)]
    return assert_same(*make, x, y, note=f"{name} {kwargs}")


@pytest.mark.parametrize("name", NAMES)
def test_constructor_is_the_same(name):
    ours, theirs = (inspect.signature(getattr(space, name).__init__).parameters for space in (smp, T))
    kept = [(p.name, p.default, p.kind) for p in theirs.values()]
    assert [(p.name, p.default, p.kind) for p in ours.values()][:-1] == kept
    assert ours["strict"].default is True and ours["strict"].kind is inspect.Parameter.KEYWORD_ONLY


ONE = ({}, {"smooth": 1.0}, {"log_loss": True}, {"eps": 1e-2, "smooth": 0.1}, {"from_logits": False})
SEVERAL = (
    {"classes": [0, 2]},
    {"classes": [-1, 1, 1], "class_weights": [0.5, 2.0, 1.0, 3.0]},
    {"classes": [7]},
    {"class_weights": [0.5, 2.0, 1.0, 0.0]},
    {"class_weights": [2.0]},
    {"class_weights": [1.0, 2.0]},
    {"class_weights": [0.0] * 4},
    {"class_weights": torch.tensor([0.0, -1.0, 2.0, 0.0]), "from_logits": False},
    {"class_weights": (0.5, -1.0, 2.0, 0.0)},
)
POWERS = ({"alpha": 0.3, "beta": 0.7}, {"gamma": 2.0, "alpha": 0.8}, {"gamma": 0.5}, {"gamma": 1.5, "log_loss": True})


@pytest.mark.parametrize("axes", SPACES)
@pytest.mark.parametrize("mode", ("binary", "multilabel", "multiclass"))
@pytest.mark.parametrize("name", REGION)
def test_region_losses(name, mode, axes):
    x, targets = inputs(mode, axes)
    settings = ONE + (SEVERAL if mode != "binary" else SEVERAL[:1] + SEVERAL[3:4])
    for kwargs in settings + (POWERS if name == "TverskyLoss" else ()):
        for (kind, y), ignore in product(targets.items(), (None, VOID)):
            if not (ignore is None and "void" in kind) and not ("classes" in kwargs and kind in ("range", "negative")):
                check(name, x, y, mode=mode, ignore_index=ignore, **kwargs)


FOCAL = ({}, {"gamma": 0.0}, {"gamma": 1.5, "alpha": 0.3}, {"alpha": 0.25}, {"gamma": 0.5, "alpha": 1.5})
FOCAL_PLAIN = ({"from_logits": False}, {"normalized": True}, {"reduced_threshold": 0.5, "alpha": 0.4})


@pytest.mark.parametrize("reduction", ("mean", "sum", "none", "batchwise_mean", None))
@pytest.mark.parametrize("mode", ("binary", "multilabel", "multiclass"))
def test_focal_loss(mode, reduction):
    weighted = ({"class_weights": [0.5, 2.0, 1.0, 0.0]}, {"class_weights": [2.0], "gamma": 1.0})
    for axes in SPACES:
        x, targets = inputs(mode, axes)
        for kwargs in FOCAL + FOCAL_PLAIN + weighted[: 1 if mode == "binary" else 2]:
            for (kind, y), ignore in product(targets.items(), (None, VOID)):
                if not (ignore is None and "void" in kind):
                    check("FocalLoss", x, y, mode=mode, ignore_index=ignore, reduction=reduction, **kwargs)


@pytest.mark.parametrize("axes", SPACES)
@pytest.mark.parametrize("reduction", ("mean", "sum", "none"))
def test_bce_loss(reduction, axes):
    space = SPACES[axes]
    settings = [{}, {"smooth_factor": 0.1}, {"smooth_factor": 0.8}, {"pos_weight": torch.tensor(3.0)}]
    settings += [{"pos_weight": torch.rand(4, *[1] * axes)}, {"pos_weight": torch.rand(space[-1])}]
    settings += [{"weight": torch.rand(space)}, {"weight": torch.rand(2, 4, *space), "smooth_factor": 0.2}]
    x, targets = inputs("multilabel", axes)
    for kwargs, (kind, y), ignore in product(settings, targets.items(), (None, -100, VOID)):
        if ignore == VOID or "void" not in kind:
            check("SoftBCEWithLogitsLoss", x, y, reduction=reduction, ignore_index=ignore, **kwargs)
    for shape in ((7,), (2, 3), (2, 1, 3, 4, 2, 2)):
        check("SoftBCEWithLogitsLoss", torch.randn(shape), torch.rand(shape), reduction=reduction)


@pytest.mark.parametrize("reduction", ("mean", "sum", "none"))
def test_cross_entropy_loss(reduction):
    for axes in SPACES:
        x, targets = inputs("multiclass", axes)
        for (kind, y), ignore, smooth in product(targets.items(), (None, -100, VOID), (0.0, 0.1)):
            if ignore == VOID or kind != "void":
                check("SoftCrossEntropyLoss", x, y, reduction=reduction, smooth_factor=smooth, ignore_index=ignore)
    x, y = x[:, :, 0], targets["ids"][:, 0]
    for dim in (0, 1, 2, -1):
        for truth in (y, y.unsqueeze(dim)):
            moved = x.movedim(1, dim).contiguous()
            for ignore in (None, 1):
                kwargs = {"reduction": reduction, "smooth_factor": 0.2, "ignore_index": ignore, "dim": dim}
                check("SoftCrossEntropyLoss", moved, truth, **kwargs)
    check("SoftCrossEntropyLoss", x[:, :, 0, 0], y[:, 0, 0], reduction=reduction, smooth_factor=0.1)
    check("SoftCrossEntropyLoss", x, y, reduction=reduction)  # the default smooth_factor raises


@pytest.mark.parametrize("mode", ("binary", "multilabel", "multiclass"))
@pytest.mark.parametrize("per_image", (False, True))
def test_lovasz_loss(mode, per_image):
    x, targets = inputs(mode)
    targets["all"] = torch.full_like(targets["void"], VOID)
    for (kind, y), ignore in product(targets.items(), (None, VOID)):
        if (ignore is not None or kind not in ("void", "voidint", "all")) and kind not in ("axis", "flat", "short"):
            check("LovaszLoss", x, y, mode=mode, per_image=per_image, ignore_index=ignore)


@pytest.mark.parametrize("eps", (1e-5, 0.1))
def test_mcc_loss(eps):
    x, targets = inputs("binary")
    for y in targets.values():
        check("MCCLoss", x, y, eps=eps)


@pytest.mark.parametrize("settings", ({}, {"log_loss": True, "smooth": 0.3}, {"mode": "multilabel"}), ids=str)
@pytest.mark.parametrize("name", ("MCCLoss", *REGION))
def test_losses_of_probabilities_have_the_same_second_derivative(name, settings):
    settings = {"mode": "binary", "from_logits": False} | settings if name != "MCCLoss" else {"eps": 1e-2}
    x, targets = inputs(settings.get("mode", "binary"))
    x, y = x.sigmoid(), targets["soft"]
    found = []
    for space in (smp, T):
        leaf = x.clone().requires_grad_()
        loss = getattr(space, name)(**settings)(leaf * 0.9, y)
        (first,) = torch.autograd.grad(loss**2, leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf, retain_graph=True)
        (again,) = torch.autograd.grad(loss, leaf)  # a second time over the same graph
        found.append((first.detach(), second, again))
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6 * theirs.abs().max().item())


def test_plain_focal_takes_any_label_and_has_the_same_second_derivative():
    x, targets = inputs("binary")
    for y in (targets["soft"], targets["soft"] * 3 - 1):
        check("FocalLoss", x, y, mode="binary", normalized=True)
        second = []
        for space in (smp, T):
            leaf = x.clone().requires_grad_()
            loss = space.FocalLoss("binary", normalized=True)(leaf, y)
            (first,) = torch.autograd.grad(loss, leaf, create_graph=True)
            second.append(torch.autograd.grad(first.square().sum(), leaf)[0])
        torch.testing.assert_close(*second, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("value", (0.0, 1.0))
def test_divisions_by_nothing_are_the_same(value):
    p = torch.full((2, 1, 4, 5), value)
    for y in (torch.zeros_like(p), (torch.rand(p.shape) > 0.5).float()):
        for name in ("MCCLoss", *REGION):
            settings = {"mode": "binary", "from_logits": False} if name != "MCCLoss" else {}
            ours, theirs = [partial(getattr(space, name), eps=0.0, **settings) for space in (smp, T)]
            assert_same(ours, theirs, p, y, note=f"{name} {value}")


@pytest.mark.parametrize("name", ("DiceLoss", "FocalLoss", "LovaszLoss", "TverskyLoss", "JaccardLoss"))
def test_a_wrong_mode_is_the_same_error(name):
    assert isinstance(check(name, torch.randn(2, 1, 3, 3), torch.zeros(2, 1, 3, 3), mode="pixel"), AssertionError)

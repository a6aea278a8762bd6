"""The oracle against segmentation-models-pytorch and MONAI, where their conventions and ours are the same."""

import importlib

import pytest
import torch
from cases import MANY, MODES, SHAPES, logits, target

import fastloss as fl

WEIGHTS = [0.5, 2.0, 1.25]


@pytest.fixture(autouse=True)
def _reference():
    with fl.backends.use("reference"):
        yield


@pytest.fixture
def smp():
    return pytest.importorskip("segmentation_models_pytorch").losses


@pytest.fixture
def monai():
    """One at a time: importing all of MONAI costs seconds."""
    pytest.importorskip("monai")
    return lambda file, name: getattr(importlib.import_module(f"monai.losses.{file}"), name)


def agree(ours, theirs, x, y, their_y=None, rtol=1e-6):
    x = x.double().requires_grad_()
    values = [ours(x, y), theirs(x, y if their_y is None else their_y)]
    grads = [torch.autograd.grad(value, x)[0] for value in values]
    torch.testing.assert_close(*values, rtol=rtol, atol=1e-9, check_dtype=False)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6 * grads[1].abs().max().item())


def inputs(mode):
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode])
    if mode != "binary":  # a class that is nowhere: loss 0, but counted in the mean
        if mode == "multiclass":
            y[y == 2] = 1
        else:
            y[:, 2] = 0
    return x, y


REGION = ({}, {"smooth": 1.0}, {"log_loss": True}, {"eps": 1e-3, "smooth": 0.2})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kwargs", REGION, ids=str)
@pytest.mark.parametrize("name", ("DiceLoss", "JaccardLoss", "TverskyLoss"))
def test_smp_region(name, kwargs, mode, smp):
    both = dict(kwargs, alpha=0.3, beta=0.7) if name == "TverskyLoss" else kwargs
    agree(getattr(fl, name)(mode, **both), getattr(smp, name)(mode, **both), *inputs(mode))


@pytest.mark.parametrize("mode", MANY)
@pytest.mark.parametrize("kwargs", ({"classes": [0, 2]}, {"class_weights": WEIGHTS}), ids=str)
@pytest.mark.parametrize("name", ("DiceLoss", "JaccardLoss"))
def test_smp_classes(name, kwargs, mode, smp):
    agree(getattr(fl, name)(mode, **kwargs), getattr(smp, name)(mode, **kwargs), *inputs(mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ("DiceLoss", "JaccardLoss"))
def test_smp_ignore_index(name, mode, smp):
    x, y = inputs(mode)
    y[torch.rand(y.shape) < 0.3] = 255
    agree(getattr(fl, name)(mode, ignore_index=255), getattr(smp, name)(mode, ignore_index=255), x, y)


@pytest.mark.parametrize("mode", MODES[:2])
def test_smp_soft_labels_are_the_l1_form(mode, smp):
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode], "soft").double()
    agree(fl.DiceLoss(mode, soft="l1"), smp.DiceLoss(mode), x, y)


@pytest.mark.parametrize("gamma", (0.0, 1.0, 2.0, 3.5))
@pytest.mark.parametrize("alpha", (None, 0.25))
def test_smp_focal(gamma, alpha, smp):
    theirs = smp.FocalLoss("binary", gamma=gamma, alpha=alpha)
    x, y = inputs("binary")
    agree(fl.FocalLoss("binary", gamma=gamma, alpha=alpha), theirs, x, y)
    agree(fl.FocalLoss("binary", gamma=gamma, alpha=alpha), theirs, x, target("binary", x.shape, "soft").double())
    y[torch.rand(y.shape) < 0.3] = 255
    both = {"gamma": gamma, "alpha": alpha, "ignore_index": 255}
    agree(fl.FocalLoss("binary", **both), smp.FocalLoss("binary", **both), x, y)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kwargs", ({}, {"squared_pred": True}, {"jaccard": True}, {"batch": True}), ids=str)
def test_monai_dice(mode, kwargs, monai):
    """Their constants smooth_nr = 2s and smooth_dr = 2s are our smooth = s, and they score absent classes."""
    x, y = inputs(mode)
    activation = {"softmax": True, "to_onehot_y": True} if mode == "multiclass" else {"sigmoid": True}
    theirs = monai("dice", "DiceLoss")(smooth_nr=1e-3, smooth_dr=1e-3, **activation, **kwargs)
    settings = {"batch": kwargs.get("batch", False), "empty": "score", "smooth": 5e-4}
    if kwargs.get("jaccard"):  # 1 - (2I + nr) / (2 (P + T - I) + dr)
        ours = fl.JaccardLoss(mode, **settings)
    else:
        ours = fl.DiceLoss(mode, squared=kwargs.get("squared_pred", False), **settings)
    agree(ours, theirs, x, y, y[:, None] if mode == "multiclass" else y.double())


@pytest.mark.parametrize("mode", MODES)
def test_monai_tversky(mode, monai):
    x, y = inputs(mode)
    activation = {"softmax": True, "to_onehot_y": True} if mode == "multiclass" else {"sigmoid": True}
    theirs = monai("tversky", "TverskyLoss")(alpha=0.3, beta=0.7, smooth_nr=1e-3, smooth_dr=1e-3, **activation)
    ours = fl.TverskyLoss(mode, alpha=0.3, beta=0.7, batch=False, empty="score", smooth=1e-3)
    agree(ours, theirs, x, y, y[:, None] if mode == "multiclass" else y.double())


@pytest.mark.parametrize("mode", MODES)
def test_monai_focal(mode, monai):
    """They compute in float32, and their softmax form averages over the zeros of the other classes too."""
    x, y = inputs(mode)
    softmax = mode == "multiclass"
    theirs = monai("focal_loss", "FocalLoss")(gamma=2.0, use_softmax=softmax, to_onehot_y=softmax)
    ours = fl.FocalLoss(mode) / (3 if softmax else 1)
    agree(ours, theirs, x, y, y[:, None] if softmax else y.double(), rtol=1e-5)


@pytest.mark.parametrize("mode", ("binary", "multiclass"))
def test_monai_dice_ce(mode, monai):
    x, y = inputs(mode)
    activation = {"softmax": True, "to_onehot_y": True} if mode == "multiclass" else {"sigmoid": True}
    theirs = monai("dice", "DiceCELoss")(smooth_nr=1e-3, smooth_dr=1e-3, lambda_ce=0.5, **activation)
    entropy = fl.CrossEntropyLoss() if mode == "multiclass" else fl.BCEWithLogitsLoss()
    ours = fl.DiceLoss(mode, batch=False, empty="score", smooth=5e-4) + 0.5 * entropy
    agree(ours, theirs, x, y, y[:, None] if mode == "multiclass" else y.double())

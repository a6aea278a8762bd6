"""gradcheck of the oracle in float64, and gradgradcheck where it is smooth: the truth is differentiated rightly."""

import pytest
import torch
from cases import LOSSES, build, logits, target
from torch.autograd import gradcheck, gradgradcheck

import fastloss as fl

SHAPES = {"binary": (3, 1, 2, 3), "multilabel": (2, 3, 2, 2), "multiclass": (2, 3, 2, 2)}
# Their second derivative jumps or does not exist: top-k selects, |p - y| has a kink.
KINKED = ("topk", "l1", "everything")


@pytest.fixture(autouse=True)
def _reference():
    with fl.backends.use("reference"):
        yield


@pytest.mark.parametrize("name", LOSSES)
def test_gradient(name):
    mode = LOSSES[name][0]
    x = logits(SHAPES[mode], torch.float64).requires_grad_()
    kinds = (torch.int64, "probabilities" if mode == "multiclass" else "soft")
    mask, weight = torch.rand(x[:, 0].shape) < 0.8, torch.rand(x[:, 0].shape, dtype=torch.float64)
    for y in [target(mode, x.shape, kind) for kind in kinds]:
        assert gradcheck(lambda x, y=y: build(name)(x, y), x)
        assert gradcheck(lambda x, y=y: build(name)(x, y, mask, weight), x)


@pytest.mark.parametrize("name", [n for n in LOSSES if not any(word in n for word in KINKED)])
def test_second_derivative(name):
    mode = LOSSES[name][0]
    x = logits(SHAPES[mode], torch.float64, scale=1.0).requires_grad_()
    y = target(mode, x.shape)
    assert gradgradcheck(lambda x: build(name)(x, y), x, atol=1e-4)


@pytest.mark.parametrize("mode", SHAPES)
@pytest.mark.parametrize("reduction", ("mean", "none"))
def test_gradients_of_soft_target_and_pixel_weight(mode, reduction):
    """Only the reference gives them."""
    x = logits(SHAPES[mode], torch.float64).requires_grad_()
    y = target(mode, x.shape, "probabilities" if mode == "multiclass" else "soft").double().clamp(0.05, 0.95)
    weight = torch.rand(x[:, 0].shape, dtype=torch.float64)
    for t in (y, weight):
        t.requires_grad_()
    entropy = fl.CrossEntropyLoss if mode == "multiclass" else fl.BCEWithLogitsLoss
    for loss in (entropy(mode, reduction=reduction), fl.FocalLoss(mode, gamma=1.5, reduction=reduction)):
        assert gradcheck(lambda x, y, w, loss=loss: loss(x, y, None, w), (x, y, weight))
    if reduction == "mean":
        assert gradcheck(lambda x, y: fl.TverskyLoss(mode, squared=True)(x, y), (x, y))

"""Losses made, moved, copied, loaded and called within torch.inference_mode, and trained with afterwards."""

import copy
import pickle

import pytest
import torch
from cases import LOSSES, MODES, SHAPES, build, crossentropy, logits, target
from dropins import DROPINS
from dropins import logits as dropin_logits
from originals import VALUE

import fastloss as fl

pytestmark = pytest.mark.filterwarnings("ignore:single channel")
NATIVE = [f"{m}:{name}" for m in MODES for name in ("dice", "everything", "tensors", "topk")]
SAVED = ("torch.BCEWithLogitsLoss-weight",)  # torch's own cannot be trained with a weight made there either


def parts(name):
    """(makes the loss, x, y)"""
    if name in DROPINS:
        make, labels = DROPINS[name]
        return make, dropin_logits(), labels()
    mode = LOSSES[name][0]
    return lambda: build(name), logits(SHAPES[mode]), target(mode, SHAPES[mode])


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=VALUE, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("name", [*NATIVE, *DROPINS])
def test_a_loss_in_inference_mode(name):
    make, x, y = parts(name)
    outer = make()
    expected = outer(x, y)
    with torch.inference_mode():
        xi, yi = x * 1, y.clone()
        inner = make()
        for loss in (inner, outer, copy.deepcopy(outer), copy.deepcopy(inner), pickle.loads(pickle.dumps(inner))):
            close(loss(xi, yi), expected)
        close(copy.deepcopy(outer).to(torch.float64).to(torch.float32)(xi, yi), expected)
        close(inner.to(torch.float64).to(torch.float32)(xi, yi), expected)
        inner.load_state_dict(outer.state_dict())
        assert repr(inner) == repr(outer) or "Around" in repr(inner)
    close(outer(xi, yi), expected)
    close(copy.deepcopy(inner).to(torch.float64).to(torch.float32)(x, y), expected)
    if name in SAVED:
        return
    grads = []
    for loss in (inner, outer):
        leaf = x.clone().requires_grad_()
        grads += torch.autograd.grad(loss(leaf, y).sum(), leaf)
    close(*grads)


@pytest.mark.parametrize("mode", MODES)
def test_a_schedule_in_inference_mode(mode):
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode])
    schedules = []
    for inside in (True, False):
        with torch.inference_mode(inside):
            schedules.append(fl.LossSchedule.linear(fl.DiceLoss(mode), crossentropy(mode), 0, 4))
            schedules[-1].step(1)
            schedules[-1](x, y)
    for epoch in range(2, 5):
        for schedule in schedules:
            schedule.step(epoch)
        assert torch.equal(schedules[0](x, y), schedules[1](x, y))


@pytest.mark.parametrize("name", ("torch.CrossEntropyLoss", "monai.DiceCELoss", "nnunet.RobustCrossEntropyLoss"))
def test_a_weight_given_in_inference_mode_counts(name):
    make, x, y = parts(name)
    loss = make()
    before = loss(x, y)
    owner = loss.cross_entropy if name.startswith("monai") else loss
    with torch.inference_mode():
        owner.weight = torch.tensor([5.0, 1.0, 0.1])
        changed = loss(x, y)
        owner.weight.mul_(torch.tensor([0.1, 1.0, 20.0]))
        again = loss(x, y)
    assert changed != before and again != changed
    assert torch.equal(loss(x, y), again)

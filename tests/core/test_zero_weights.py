"""An infinite element that weighs 0 counts 0: weights of classes and positives, alpha. And a NaN logit always shows."""

import pytest
import torch
from cases import LOSSES, MODES, SHAPES, build, logits, run, target
from tolerances import assert_value, assert_vector

import fastloss as fl

INF = torch.inf


def binary(bad, label, soft=False):
    """Logits of which one is `bad`, and labels that are all `label` there."""
    x, y = logits(SHAPES["binary"]), target("binary", SHAPES["binary"], torch.float32)
    x[0, 0, 0, 0], y[0, 0, 0, 0] = bad, label
    return x, y


CASES = {
    "pos_weight": (lambda: fl.BCEWithLogitsLoss(pos_weight=0.0), -INF, 1.0),
    "pos_weight, smoothed": (lambda: fl.BCEWithLogitsLoss(pos_weight=0.0, label_smoothing=0.1), -INF, 1.0),
    "pos_weight, sum": (lambda: fl.BCEWithLogitsLoss(pos_weight=0.0, reduction="sum"), -INF, 1.0),
    "alpha": (lambda: fl.FocalLoss("binary", alpha=0.0), -INF, 1.0),
    "1 - alpha": (lambda: fl.FocalLoss("binary", alpha=1.0, gamma=0.5), INF, 0.0),
    "alpha, gamma 0": (lambda: fl.FocalLoss("binary", alpha=0.0, gamma=0.0), -INF, 1.0),
    "compound": (lambda: fl.FocalLoss("binary", alpha=0.0) + fl.DiceLoss("binary"), -INF, 1.0),
}


@pytest.mark.parametrize("name", CASES)
def test_of_a_label(name, backend):
    make, bad, label = CASES[name]
    x, y = binary(bad, label)
    value, grad = run(make(), x, y, backend)
    expected, expected_grad = run(make(), x.clamp(-60, 60), y, backend)
    assert value.isfinite() and grad.isfinite().all()
    assert_value(value, expected, x.dtype)
    assert_vector(grad, expected_grad, x.dtype)


@pytest.mark.parametrize("kind", (torch.int64, torch.uint8, torch.float32), ids=str)
@pytest.mark.parametrize("name", ("ce", "ce, smoothed", "focal", "focal-0.5"))
def test_of_a_class(name, kind, backend):
    weights = [0.0, 1.0, 2.0]
    loss = {
        "ce": fl.CrossEntropyLoss(class_weights=weights),
        "ce, smoothed": fl.CrossEntropyLoss(class_weights=weights, label_smoothing=0.1),
        "focal": fl.FocalLoss("multiclass", alpha=weights),
        "focal-0.5": fl.FocalLoss("multiclass", alpha=weights, gamma=0.5),
    }[name]
    x, y = logits(SHAPES["multiclass"]), target("multiclass", SHAPES["multiclass"])
    x[0, 0, 0, 0], y[0, 0, 0] = -INF, 0
    if kind.is_floating_point:
        y = torch.nn.functional.one_hot(y, 3).movedim(-1, 1)
    value, grad = run(loss, x, y.to(kind), backend)
    expected, expected_grad = run(loss, x.clamp_min(-60), y.to(kind), backend)
    assert value.isfinite() and grad.isfinite().all()
    assert_value(value, expected, x.dtype)
    assert_vector(grad, expected_grad, x.dtype)


REGIONS = [f"{m}:{n}" for m in MODES for n in ("dice", "dice-log", "tversky-gamma", "tversky-sample", "jaccard-log")]


@pytest.mark.parametrize("name", REGIONS)
def test_a_nan_logit_shows(name, backend):
    """Also behind the power of a focal Tversky loss, whose base is NaN then, not 0."""
    mode = LOSSES[name][0]
    x = logits(SHAPES[mode])
    y = torch.ones_like(x) if mode != "multiclass" else torch.randint(0, 3, (x.shape[0], *x.shape[2:]))
    x[0, 0, 3, 3] = torch.nan
    assert run(build(name), x, y, backend)[0].isnan()

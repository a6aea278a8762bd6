"""Classes without target pixels: each rule of `empty`, pooled and per sample, against a formula written out here."""

import pytest
import torch
from cases import DTYPES, MODES, SHAPES, logits, run, target
from tolerances import assert_value, assert_vector

import fastloss as fl

SMOOTH = {"zero": 0.0, "skip": 0.0, "score": 0.5}
ABSENT = ("nowhere", "in some samples", "in one whole sample", "everywhere")


def inputs(mode, absent, dtype=torch.float64):
    """The last class is absent where `absent` says; "everywhere": no class but the background is there."""
    shape = (4, SHAPES[mode][1], 7, 5)
    x, y = logits(shape, dtype), target(mode, shape)
    y[:] = torch.randint(0, 3 if mode == "multiclass" else 2, y.shape)
    rows = {"nowhere": [], "in some samples": [0, 2], "in one whole sample": [1], "everywhere": [0, 1, 2, 3]}[absent]
    for n in rows:
        if mode == "multiclass":
            y[n][y[n] == 2] = 0
        elif absent == "in some samples":
            y[n, -1] = 0
        else:
            y[n] = 0
    return x, y


def formula(mode, x, y, empty, batch, weights=None):
    """Loops over groups and classes."""
    p = torch.softmax(x, 1) if mode == "multiclass" else torch.sigmoid(x)
    t = torch.nn.functional.one_hot(y, 3).movedim(-1, 1) if mode == "multiclass" else y
    t = t.to(p.dtype)
    groups = [(p, t)] if batch else [(p[n : n + 1], t[n : n + 1]) for n in range(len(p))]
    means = []
    for pg, tg in groups:
        losses, shares = [], []
        for c in range(p.shape[1]):
            s, present = SMOOTH[empty], tg[:, c].sum() > 0
            overlap, size = (pg[:, c] * tg[:, c]).sum(), pg[:, c].sum() + tg[:, c].sum()
            loss = 1 - (2 * overlap + 2 * s) / (size + 2 * s)
            if empty == "skip" and not present:
                continue
            losses.append(loss if present or empty == "score" else 0 * loss)
            shares.append(1.0 if weights is None else weights[c])
        if sum(shares) > 0:
            means.append(sum(w * loss for w, loss in zip(shares, losses)) / sum(shares))
    return sum(means) / len(means) if means else 0 * x.sum()


@pytest.mark.parametrize("absent", ABSENT)
@pytest.mark.parametrize("batch", (True, False), ids=("pooled", "per sample"))
@pytest.mark.parametrize("empty", SMOOTH)
@pytest.mark.parametrize("mode", MODES)
def test_rule(mode, empty, batch, absent, backend):
    for weights in (None,) if mode == "binary" else (None, [1.0, 0.0, 2.5]):
        x, y = inputs(mode, absent)
        x.requires_grad_()
        expected = formula(mode, x, y, empty, batch, weights)
        (expected_grad,) = torch.autograd.grad(expected, x)
        settings = {} if weights is None else {"class_weights": weights}
        loss = fl.DiceLoss(mode, empty=empty, batch=batch, smooth=SMOOTH[empty], **settings)
        value, grad = run(loss, x, y, backend)
        assert_value(value, expected, torch.float64)
        assert_vector(grad, expected_grad, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_no_rule_gives_nan(mode, dtype, backend):
    """Nor with log_loss, gamma < 1 or an empty mask in one sample."""
    x, y = inputs(mode, "everywhere", dtype)
    mask = torch.rand(x[:, 0].shape) < 0.5
    mask[2] = False
    for settings in ({"log_loss": True}, {"gamma": 0.5}, {"squared": True, "soft": "l1"}):
        for empty in SMOOTH:
            for batch in (True, False):
                loss = fl.TverskyLoss(mode, **settings, empty=empty, batch=batch, smooth=SMOOTH[empty])
                value, grad = run(loss, x, y, backend, mask)
                assert value.isfinite() and grad.isfinite().all(), loss


def test_the_default_is_zero_for_pooled_losses(backend):
    x, y = inputs("multiclass", "everywhere")
    default, zero = [run(fl.DiceLoss("multiclass", **s), x, y, backend)[0] for s in ({}, {"empty": "zero"})]
    assert torch.equal(default, zero)

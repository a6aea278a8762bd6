"""The generalised Wasserstein Dice loss: MONAI's numbers on every backend."""

import monai.losses
import numpy as np
import pytest
import torch
from cases import DTYPES, logits, run, target
from tolerances import assert_value, assert_vector

import fastloss as fl

SHAPE = (3, 4, 7, 9)
MATRIX = [[0.0, 1.0, 1.0, 2.0], [1.0, 0.0, 0.5, 0.7], [1.0, 0.5, 0.0, 0.2], [1.5, 0.7, 0.3, 0.0]]


def theirs(x, y, weighting, reduction="mean", matrix=MATRIX):
    mode = {"gdl": "GDL"}.get(weighting, weighting)
    loss = monai.losses.GeneralizedWassersteinDiceLoss(torch.tensor(matrix, dtype=torch.float64), mode, reduction)
    return loss(x.double(), y)


@pytest.mark.parametrize("weighting", ("default", "gdl"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_monais(dtype, weighting, backend):
    for reduction in ("mean", "sum"):
        x, y = logits(SHAPE, dtype), target("multiclass", SHAPE)
        loss = fl.GeneralizedWassersteinDiceLoss(MATRIX, weighting=weighting, reduction=reduction)
        value, grad = run(loss, x, y, backend)
        given = x.double().requires_grad_()
        expected = theirs(given, y, weighting, reduction)
        held = torch.float32 if dtype == torch.float64 and weighting == "gdl" else dtype  # MONAI's weights are float32
        assert_value(value, expected, held, factor=10)
        assert_vector(grad, torch.autograd.grad(expected, given)[0], held, factor=10)


def test_one_pixel_and_none(backend):
    loss = fl.GeneralizedWassersteinDiceLoss([[0.0, 2.0], [2.0, 0.0]], backend=backend)
    x = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)
    for y in (torch.zeros(1, 1, 1), torch.ones(1, 1, 1)):
        torch.testing.assert_close(
            loss(x, y.long()), theirs(x, y.long(), "default", matrix=[[0.0, 1.0], [1.0, 0.0]]).float()
        )
    assert loss(x[:0], torch.zeros(0, 1, 1).long()) == 0
    value, grad = run(loss, torch.tensor([0.0, torch.inf]).reshape(1, 2, 1, 1), torch.ones(1, 1, 1).long(), backend)
    assert value == 0 and grad.isfinite().all()


@pytest.mark.parametrize("weighting", ("default", "gdl"))
def test_what_is_left_out_does_not_count(weighting, backend):
    x, y = logits(SHAPE)[:1], target("multiclass", SHAPE)[:1]
    mask = torch.rand(y.shape) < 0.6
    kept = x.movedim(1, -1)[mask].T[None]
    expected = theirs(kept, y[mask][None], weighting).float()
    loss = fl.GeneralizedWassersteinDiceLoss(np.array(MATRIX), weighting=weighting, ignore_index=255, backend=backend)
    torch.testing.assert_close(loss(x, y, mask), expected)
    torch.testing.assert_close(
        loss(x, torch.where(mask, y, 255 * torch.ones_like(y)).to(torch.uint8)[:, None]), expected
    )


def test_a_pixel_that_counts_twice(backend):
    x, y = logits(SHAPE), target("multiclass", SHAPE)
    loss = fl.GeneralizedWassersteinDiceLoss(MATRIX, backend=backend)
    twice = torch.ones(y.shape)
    twice[..., :3] = 2.0
    expected = theirs(torch.cat([x, x[..., :3]], -1), torch.cat([y, y[..., :3]], -1), "default").float()
    torch.testing.assert_close(loss(x, y, pixel_weight=twice), expected)


def test_compiled(backend):
    x, y = logits(SHAPE), target("multiclass", SHAPE)
    loss = fl.GeneralizedWassersteinDiceLoss(MATRIX, backend=backend)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(x, y), loss(x, y))


def test_what_does_not_fit_is_named():
    x, y = logits(SHAPE), target("multiclass", SHAPE)
    loss = fl.GeneralizedWassersteinDiceLoss
    with pytest.raises(ValueError, match="distances is a matrix of 2 classes, but x has 4 channels"):
        loss([[0.0, 1.0], [1.0, 0.0]])(x, y)
    with pytest.raises(TypeError, match="y must hold integer class ids for this loss, got float32"):
        loss(MATRIX)(x, torch.softmax(x, 1))
    with pytest.raises(ValueError, match=r"distances must be \[C, C\]"):
        loss([[0.0, 1.0], [1.0]])
    with pytest.raises(TypeError, match="distances must be a matrix of numbers, got str"):
        loss("MATRIX")
    with pytest.raises(ValueError, match="distances must be finite and at least 0, got -1.0"):
        loss([[0.0, -1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="distances must hold a number above 0"):
        loss([[0.0, 0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match="weighting must be one of 'default' or 'gdl'"):
        loss(MATRIX, weighting="GDL")

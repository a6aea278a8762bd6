"""The boundary loss: the published formula on every backend, and distance maps as in the published code."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, MODES, SHAPES, logits, oracle, run
from scipy.ndimage import distance_transform_edt
from test_formulas import agree
from tolerances import assert_value, assert_vector

import fastloss as fl
from fastloss import functional


def distances(shape, dtype=torch.float32):
    """As far as images are wide, with numbers close to the ends of [0, 1], where labels would be clamped."""
    phi = torch.randn(shape) * 20
    phi[..., :2] = torch.tensor([-4e-6, 1 + 4e-6])
    return phi.to(dtype)


def activated(x, mode):
    return torch.softmax(x, 1) if mode == "multiclass" else torch.sigmoid(x)


@pytest.mark.parametrize("mode", MODES)
def test_it_is_the_published_formula(mode):
    """`(probs[:, idc] * dist_maps[:, idc]).mean()`."""
    x, phi = logits(SHAPES[mode]), distances(SHAPES[mode])
    with fl.backends.use("reference"):
        agree(fl.BoundaryLoss(mode), lambda x, y: (activated(x, mode) * y).mean(), x, phi)
        if mode == "binary":
            return
        chosen = fl.BoundaryLoss(mode, classes=[1, 2])
        agree(chosen, lambda x, y: (activated(x, mode) * y)[:, 1:].mean(), x, phi)
        total = fl.BoundaryLoss(mode, classes=[0], reduction="sum")
        agree(total, lambda x, y: (activated(x, mode) * y)[:, 0].sum(), x, phi)


@pytest.mark.parametrize("weighted", (False, True))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_on_the_backends(mode, dtype, weighted, backend):
    shape = SHAPES[mode]
    mask, weight = (
        (torch.rand(shape[0], *shape[2:]) < 0.6, torch.rand(shape[0], *shape[2:])) if weighted else (None,) * 2
    )
    losses = [fl.BoundaryLoss(mode), fl.BoundaryLoss(mode, reduction="sum")]
    losses += [fl.BoundaryLoss(mode, classes=[0, 2])] if mode != "binary" else []
    for layout in ("contiguous", "sliced"):
        for loss in losses:
            x, phi = logits(shape, dtype, layout), distances(shape)
            value, grad = run(loss, x, phi, backend, mask, weight)
            expected, expected_grad = oracle(loss, x, phi, mask, weight)
            size = phi.abs().mean().item() * (1 if "sum" not in repr(loss) else phi.numel())  # where terms cancel
            assert_value(value, expected, dtype, scale=size)
            assert_vector(grad, expected_grad, dtype)


@pytest.mark.parametrize("mode", MODES)
def test_elements(mode, backend):
    x, phi = logits(SHAPES[mode]), distances(SHAPES[mode])
    value = functional.boundary_loss(x, phi, mode, reduction="none", backend=backend)
    expected = activated(x, mode) * phi
    assert_vector(value, expected.sum(1) if mode == "multiclass" else expected, x.dtype, "elements")


@pytest.mark.parametrize("kind", (torch.float16, torch.bfloat16, torch.float64), ids=str)
def test_maps_of_other_types(kind, backend):
    for mode in MODES:
        x, phi = logits(SHAPES[mode]), distances(SHAPES[mode], kind)
        value, grad = run(fl.BoundaryLoss(mode), x, phi, backend)
        expected, expected_grad = oracle(fl.BoundaryLoss(mode), x, phi)
        assert_value(value, expected, x.dtype, scale=20.0)
        assert_vector(grad, expected_grad, x.dtype)


def test_compiled(backend):
    x, phi = logits(SHAPES["multiclass"]).requires_grad_(), distances(SHAPES["multiclass"])
    loss = fl.BoundaryLoss(classes=[1], backend=backend)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(x, phi), loss(x, phi))


@pytest.mark.parametrize("bad", (torch.nan, torch.inf))
@pytest.mark.parametrize("mode", MODES)
def test_a_map_that_is_not_finite(mode, bad, backend):
    x, phi = logits(SHAPES[mode]), distances(SHAPES[mode])
    phi[0, 0, 3, 4] = bad
    mask = torch.ones(x.shape[0], *x.shape[2:], dtype=torch.bool)
    mask[0, 3, 4] = False
    with fl.backends.use(backend), fl.debug():
        with pytest.raises(ValueError, match=f"y must hold finite distances, got {bad}"):
            fl.BoundaryLoss(mode)(x, phi)
        assert fl.BoundaryLoss(mode)(x, phi, mask).isfinite()


def test_what_does_not_fit_is_named():
    x, phi = logits(SHAPES["multiclass"]), distances(SHAPES["multiclass"])
    with pytest.raises(TypeError, match="y must hold floating-point distances"):
        fl.BoundaryLoss()(x, phi.long())
    with pytest.raises(ValueError, match="y must be a map of distances of the shape"):
        fl.BoundaryLoss()(x, phi[:, 0])
    with pytest.raises(ValueError, match="classes needs mode 'multilabel' or 'multiclass'"):
        fl.BoundaryLoss("binary", classes=[0])
    with pytest.raises(ValueError, match="classes names channel 3"):
        fl.BoundaryLoss(classes=[3])(x, phi)
    with pytest.raises(ValueError, match="takes a distance map as its target, other losses labels"):
        fl.BoundaryLoss() + fl.DiceLoss("multiclass")
    with pytest.raises(ValueError, match="with_stats needs labels"):
        fl.BoundaryLoss().with_stats(x, phi)


def published(one_hot, resolution):
    """utils.one_hot2dist of https://github.com/LIVIAETS/boundary-loss"""
    out = np.zeros(one_hot.shape, dtype=np.float32)
    for k, inside in enumerate(one_hot.astype(bool)):
        if inside.any():
            away = distance_transform_edt(~inside, sampling=resolution) * ~inside
            out[k] = away - (distance_transform_edt(inside, sampling=resolution) - 1) * inside
    return out


@pytest.mark.parametrize("shape,spacing", [((9,), [0.5]), ((12, 15), [1.0, 1.0]), ((6, 8, 7), [2.5, 0.7, 0.7])])
def test_signed_distance_is_that_of_the_published_code(shape, spacing):
    labels = torch.randint(0, 3, shape)
    maps = fl.signed_distance(labels, 4, spacing=spacing)
    one_hot = F.one_hot(labels, 4).movedim(-1, 0).numpy()
    assert maps.dtype == torch.float32 and maps.shape == (4, *shape)
    np.testing.assert_array_equal(maps.numpy(), published(one_hot, spacing))
    assert not maps[3].any()  # absent
    again = fl.signed_distance(labels.to(torch.uint8).numpy(), 4, spacing=spacing)
    assert isinstance(again, np.ndarray) and (again == maps.numpy()).all()


def test_signed_distance_of_a_mask():
    mask = torch.zeros(7, 7, dtype=torch.bool)
    mask[2:5, 2:5] = True
    phi = fl.signed_distance(mask)
    assert phi.shape == (1, 7, 7)
    assert phi[0, 3].tolist() == [2.0, 1.0, 0.0, -1.0, 0.0, 1.0, 2.0]
    for full in (torch.ones(4, 4), torch.zeros(4, 4)):
        assert not fl.signed_distance(full.bool()).any()
    assert fl.signed_distance(torch.zeros(0, 4, dtype=torch.long), 2).shape == (2, 0, 4)


def test_signed_distance_of_bad_input(monkeypatch):
    labels = torch.tensor([[0, 2], [1, 0]])
    with pytest.raises(TypeError, match="labels must hold integers or bools, got float32"):
        fl.signed_distance(labels.float())
    with pytest.raises(ValueError, match="labels must hold class ids from 0 to 1, got 2"):
        fl.signed_distance(labels, 2)
    with pytest.raises(ValueError, match="labels must hold class ids from 0 to 2, got -1"):
        fl.signed_distance(labels - 1, 3)
    with pytest.raises(ValueError, match="labels must have one to three axes"):
        fl.signed_distance(torch.zeros(1, 1, 1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="spacing must have one number for each of the 2 axes, got 3"):
        fl.signed_distance(labels, 3, spacing=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="spacing must be finite and greater than 0"):
        fl.signed_distance(labels, 3, spacing=0.0)
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(ImportError, match="signed_distance needs scipy"):
        fl.signed_distance(labels, 3)

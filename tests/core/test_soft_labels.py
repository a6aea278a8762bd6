"""Float targets that rounding left outside [0, 1]: read as 0 and 1 by every backend, in value and gradient."""

import re

import pytest
import torch
from cases import DEVICES, DTYPES, LOSSES, MODES, SHAPES, WAITS, build, logits, run, target
from tolerances import assert_value, assert_vector

import fastloss as fl
from fastloss.reference.label import clamp_label, label_tolerance

NAMES = ("bce", "ce", "ce-smoothing", "focal-1.5", "topk", "dice-squared", "dice-l1", "everything")
CASES = [f"{m}:{n}" for m in MODES for n in NAMES if f"{m}:{n}" in LOSSES]
SOFT = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def slightly_outside(mode, kind):
    """(the target, what it stands for): labels below 0 and above 1 by half the tolerance and by nearly all of it."""
    y = target(mode, SHAPES[mode], "probabilities" if mode == "multiclass" else "soft").to(kind)
    flat = y.flatten()
    step = torch.finfo(kind).eps
    over = [SOFT[kind], max(SOFT[kind] / 2 // step * step, step)]
    for i, excess in enumerate(over):
        flat[i::7] = 1.0 + excess * (1 - 1e-3) if excess > step else 1.0 + step
        flat[i + 3 :: 7] = -excess
    assert (flat > 1).any() and (flat < 0).any()
    return flat.reshape(y.shape), flat.clamp(0, 1).reshape(y.shape)


@pytest.mark.parametrize("kind", DTYPES, ids=str)
@pytest.mark.parametrize(
    "name", [f"{m}:{n}" for m in MODES for n in (*NAMES, "ce", "ce-smoothing") if f"{m}:{n}" in LOSSES]
)
def test_a_rounding_error_outside_is_clamped(name, kind, backend):
    mode = LOSSES[name][0]
    x = logits(SHAPES[mode])
    y, clean = slightly_outside(mode, kind)
    value, grad = run(build(name), x, y, backend)
    expected, expected_grad = run(build(name), x, clean, backend)
    assert torch.equal(value, expected)
    assert torch.equal(grad, expected_grad)
    masked = torch.rand(SHAPES[mode][0], *SHAPES[mode][2:]) < 0.7
    assert torch.equal(run(build(name), x, y, backend, masked)[1], run(build(name), x, clean, backend, masked)[1])


@pytest.mark.parametrize("kind", DTYPES, ids=str)
@pytest.mark.parametrize("low", (True, False))
@pytest.mark.parametrize("name", ("binary:bce", "multilabel:dice", "binary:topk"))
def test_beyond_it_the_error_stays(name, low, kind, backend):
    mode = LOSSES[name][0]
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode], "soft").to(kind)
    excess = 2.5 * SOFT[kind]
    y.flatten()[5] = -excess if low else 1 + excess
    with fl.backends.use(backend):
        if backend in WAITS:
            with pytest.raises(ValueError, match=re.escape(f"got {y.flatten()[5].item():.9g}.")):
                build(name)(x, y)
        else:
            assert build(name)(x, y).isnan()


def test_an_error_near_1_shows_its_digits(backend):
    x, y = logits(SHAPES["binary"]), target("binary", SHAPES["binary"], "soft")
    y.flatten()[5] = 1.00002
    if backend not in WAITS:
        pytest.skip("no values in messages of devices")
    with fl.backends.use(backend), pytest.raises(ValueError, match=r"got 1\.00002003\."):
        fl.DiceLoss("binary")(x, y)


def test_the_ignored_value_is_compared_as_it_is(backend):
    """1.0000001 is not the ignored label 1."""
    x = logits(SHAPES["binary"]).to(DEVICES[backend])
    y = torch.full(x.shape, 1.0 + 2**-20)
    y[0] = 1.0
    mask = torch.ones_like(y, dtype=torch.bool)
    mask[0] = False
    value, grad = run(fl.BCEWithLogitsLoss(ignore_index=1), x, y, backend)
    expected, expected_grad = run(fl.BCEWithLogitsLoss(), x, torch.ones_like(y), backend, mask)
    assert_value(value, expected, x.dtype)
    assert_vector(grad, expected_grad, x.dtype)


@pytest.mark.parametrize("kind", DTYPES, ids=str)
def test_what_is_clamped(kind):
    tolerance = label_tolerance(torch.finfo(kind).eps)
    assert tolerance == SOFT[kind]
    far = torch.tensor([-0.5, 1.5, torch.nan, torch.inf, -torch.inf, 0.25], dtype=kind)
    assert torch.equal(clamp_label(far, tolerance).nan_to_num(9.0), far.nan_to_num(9.0))
    near = torch.tensor([-tolerance, 1 + tolerance * 0.999, -0.0], dtype=kind)
    assert clamp_label(near, tolerance).tolist() == [0.0, 1.0, 0.0]


def test_drop_ins_take_them():
    """Of losses that compute soft labels as well as of torch's own."""
    import fastloss.compat.monai as monai
    import fastloss.compat.nnunet as nnunet
    import fastloss.compat.smp as smp
    from fastloss.compat import torch as compat_torch

    x = logits((2, 1, 8, 8))
    y = torch.rand(2, 1, 8, 8)
    y[:, :, 0] = 1.0000001
    y[:, :, 1] = -1e-7
    losses = [
        compat_torch.BCEWithLogitsLoss(), compat_torch.SigmoidFocalLoss(reduction="mean"), monai.DiceLoss(sigmoid=True),
        monai.FocalLoss(), monai.DiceFocalLoss(sigmoid=True), smp.DiceLoss("binary"), smp.FocalLoss("binary"),
        smp.SoftBCEWithLogitsLoss(), nnunet.DC_and_BCE_loss({}, {"ddp": False}),
    ]  # fmt: skip
    for loss in losses:
        a, b = loss(x, y), loss(x, y.clamp(0, 1))
        assert torch.allclose(a, b, rtol=1e-6, atol=0), loss

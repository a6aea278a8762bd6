"""fastloss.compat.smp in use: as a module, compiled, in half, with strict=False, and without smp."""

import subprocess
import sys

import pytest
import torch
from originals import assert_compiles, assert_module, outcome

import fastloss as fl
from fastloss.compat import smp

VOID = 255
EXAMPLES = {
    "DiceLoss": {"mode": "multiclass", "classes": [0, 2], "class_weights": [1.0, 2.0, 0.5, 1.0], "smooth": 1.0},
    "JaccardLoss": {"mode": "multiclass", "log_loss": True},
    "TverskyLoss": {"mode": "multiclass", "alpha": 0.3, "gamma": 1.5},
    "FocalLoss": {"mode": "multiclass", "alpha": 0.3, "class_weights": [1.0, 2.0, 0.5, 1.0]},
    "SoftBCEWithLogitsLoss": {"smooth_factor": 0.1, "pos_weight": torch.tensor([1.0, 2.0, 0.5, 1.0])[:, None, None]},
    "SoftCrossEntropyLoss": {"smooth_factor": 0.1},
    "LovaszLoss": {"mode": "multiclass"},
    "MCCLoss": {"eps": 1e-3},
}
X, Y = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))


def inputs(name):
    if name == "MCCLoss":
        return X[:, :1].sigmoid(), (Y[:, None] > 1).float()
    return (X, (torch.rand(X.shape) > 0.5).float()) if name == "SoftBCEWithLogitsLoss" else (X, Y)


@pytest.mark.parametrize("name", EXAMPLES)
def test_module(name):
    assert_module(getattr(smp, name)(**EXAMPLES[name]), *inputs(name))


@pytest.mark.compile
@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "LovaszLoss"])
def test_compiles_in_one_graph(name):
    assert_compiles(getattr(smp, name)(**EXAMPLES[name]), *inputs(name))


@pytest.mark.compile
def test_lovasz_compiles():
    assert_compiles(smp.LovaszLoss("binary"), X, (X > 0.3).float(), fullgraph=False)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_not_fused_says_so(name):
    loss = getattr(smp, name)(**EXAMPLES[name])
    assert loss.fused == (name not in ("LovaszLoss", "MCCLoss")) == ("not fused" not in repr(loss))


def test_settings_that_stand_in_the_way_are_named():
    assert "[not fused: from_logits=False" in repr(smp.DiceLoss("binary", from_logits=False))
    assert "[not fused: normalized=True" in repr(smp.FocalLoss("binary", normalized=True))
    loss = smp.DiceLoss("multiclass")
    loss.from_logits = False
    assert not loss.fused


def test_an_input_that_stands_in_the_way_is_named_once():
    y = torch.rand(2, 1, 4, 4, requires_grad=True)
    loss = smp.DiceLoss("binary")
    with pytest.warns(UserWarning, match="runs as plain PyTorch: y_true requires a gradient"):
        loss(torch.randn(2, 1, 4, 4), y).backward()
    assert y.grad is not None
    loss(torch.randn(2, 1, 4, 4), y)  # a second warning would be an error


def test_a_changed_setting_counts():
    loss, x, y = smp.DiceLoss("multiclass", smooth=0.0), X, Y
    before = loss(x, y)
    loss.smooth = 10.0
    assert torch.equal(loss(x, y), smp.DiceLoss("multiclass", smooth=10.0)(x, y)) and loss(x, y) != before
    weighted = smp.SoftBCEWithLogitsLoss(pos_weight=torch.tensor(1.0))
    z = (X > 0).float()
    weighted(X, z)
    weighted.load_state_dict({"pos_weight": torch.tensor(5.0)})
    assert torch.equal(weighted(X, z), smp.SoftBCEWithLogitsLoss(pos_weight=torch.tensor(5.0))(X, z))


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in ("LovaszLoss", "MCCLoss")])
def test_half_logits_are_computed_in_float32(name, dtype):
    x, y = inputs(name)
    x = x.to(dtype)

    def make():
        return getattr(smp, name)(**EXAMPLES[name])

    (value, grad), (truth, slope) = outcome(make, x, (y,)), outcome(make, x.float(), (y,))
    assert value.dtype == torch.float32 and grad.dtype == dtype
    torch.testing.assert_close(value, truth, rtol=3e-6, atol=0)
    torch.testing.assert_close(grad, slope.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_mended_gradient_of_a_power_below_one():
    x, y = torch.randn(1, 1, 4, 4, requires_grad=True), torch.zeros(1, 1, 4, 4)
    (kept,) = torch.autograd.grad(smp.TverskyLoss("binary", gamma=0.5)(x, y), x)
    (mended,) = torch.autograd.grad(smp.TverskyLoss("binary", gamma=0.5, strict=False)(x, y), x)
    assert kept.isnan().any() and torch.equal(mended, torch.zeros_like(x))


def test_mended_focal_with_ignored_elements():
    y = (X > 0).float().masked_fill(torch.rand(X.shape) < 0.3, VOID)
    with pytest.raises(IndexError):
        smp.FocalLoss("multilabel", ignore_index=VOID)(X, y)
    mended = smp.FocalLoss("multilabel", ignore_index=VOID, strict=False)(X, y)
    torch.testing.assert_close(mended, fl.FocalLoss("multilabel", ignore_index=VOID)(X, y))


def test_mended_means_divide_by_what_counts():
    y = Y.masked_fill(torch.rand(Y.shape) < 0.3, VOID)
    mended = smp.SoftCrossEntropyLoss(ignore_index=VOID, strict=False)(X, y.to(torch.int16))
    torch.testing.assert_close(mended, torch.nn.functional.cross_entropy(X, y, ignore_index=VOID))
    z = (X > 0).float().masked_fill(torch.rand(X.shape) < 0.3, VOID)
    mended = smp.SoftBCEWithLogitsLoss(ignore_index=VOID, strict=False)(X, z)
    torch.testing.assert_close(mended, fl.BCEWithLogitsLoss("multilabel", ignore_index=VOID)(X, z))


def test_mended_lovasz_without_a_valid_pixel():
    y = torch.full_like(Y, VOID)
    assert smp.LovaszLoss("multiclass", ignore_index=VOID)(X, y).shape == (0, 4)
    assert smp.LovaszLoss("multiclass", ignore_index=VOID, strict=False)(X, y).item() == 0.0


def test_import_needs_no_smp():
    code = "import sys, fastloss.compat.smp, fastloss.compat.monai\n"
    code += (
        "print([m for m in ('segmentation_models_pytorch', 'monai', 'nnunetv2', 'timm', 'triton') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

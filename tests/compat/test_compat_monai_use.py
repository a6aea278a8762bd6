"""fastloss.compat.monai in use: as a module, compiled, in half, with strict=False, with MONAI's own tensors."""

import pytest
import torch
from originals import assert_compiles, assert_module, outcome

import fastloss as fl
from fastloss.compat import monai

X, Y = torch.randn(2, 3, 5, 6), torch.randint(0, 3, (2, 1, 5, 6)).float()
WEIGHT = torch.tensor([1.0, 2.0, 0.5])
SOFTMAX = {"to_onehot_y": True, "softmax": True}
EXAMPLES = {
    "DiceLoss": SOFTMAX | {"weight": [2.0, 1.0], "include_background": False, "ignore_index": 1},
    "MaskedDiceLoss": SOFTMAX | {"squared_pred": True},
    "GeneralizedDiceLoss": SOFTMAX | {"w_type": "simple"},
    "TverskyLoss": SOFTMAX | {"alpha": 0.3, "smooth_nr": 0.0, "batch": True},
    "FocalLoss": {"to_onehot_y": True, "alpha": [0.5, 1.0, 2.0], "weight": 2.0},
    "DiceCELoss": SOFTMAX | {"weight": WEIGHT, "label_smoothing": 0.1, "lambda_ce": 0.5},
    "DiceFocalLoss": {"to_onehot_y": True, "sigmoid": True, "gamma": 1.5},
    "GeneralizedDiceFocalLoss": {"to_onehot_y": True, "sigmoid": True},
    "AsymmetricUnifiedFocalLoss": {"to_onehot_y": True, "gamma": 0.3},
}


def inputs(name):
    if name == "AsymmetricUnifiedFocalLoss":
        return X[:, :1].sigmoid(), (Y > 1).float()
    return (X, Y, Y[:, :1] < 2) if name == "MaskedDiceLoss" else (X, Y)


def make(name, **kwargs):
    settings = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in EXAMPLES[name].items()}
    return getattr(monai, name)(**settings, **kwargs)


@pytest.mark.filterwarnings("ignore:single channel")
@pytest.mark.parametrize("name", EXAMPLES)
def test_module(name):
    assert_module(make(name), *inputs(name))


def test_deep_supervision_module():
    assert_module(monai.DeepSupervisionLoss(make("DiceCELoss"), "two"), X, Y)


@pytest.mark.parametrize("name", EXAMPLES)
def test_state_dict_is_that_of_the_original(name):
    theirs = getattr(pytest.importorskip("monai.losses"), name)(**EXAMPLES[name])
    ours = make(name)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(type(ours).from_original(theirs)) == repr(ours)


def test_loaded_weights_count():
    loss, changed = make("DiceCELoss"), make("DiceCELoss")
    changed.load_state_dict({name: value * 3 for name, value in loss.state_dict().items()})
    expected = monai.DiceCELoss(**EXAMPLES["DiceCELoss"] | {"weight": WEIGHT * 3})
    assert torch.equal(changed(X, Y), expected(X, Y)) and changed(X, Y) != loss(X, Y)


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:single channel")
@pytest.mark.parametrize("name", EXAMPLES)
def test_compiles_in_one_graph(name):
    assert_compiles(make(name), *inputs(name))


@pytest.mark.compile
def test_deep_supervision_compiles():
    loss = monai.DeepSupervisionLoss(make("DiceCELoss"))
    assert_compiles(lambda x, y: loss([x, x[:, :, ::2, ::2]], y), X[:, :, :4], Y[:, :, :4])


def test_what_is_not_fused_says_so():
    assert [name for name in EXAMPLES if not make(name).fused] == ["AsymmetricUnifiedFocalLoss"]
    assert "[not fused: neither sigmoid nor softmax" in repr(monai.DiceLoss())
    assert "[not fused: other_act" in repr(monai.TverskyLoss(other_act=torch.tanh))
    assert "[not fused: Dice's other_act" in repr(monai.DiceCELoss(other_act=torch.tanh))
    assert not monai.DeepSupervisionLoss(monai.DiceLoss()).fused


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "AsymmetricUnifiedFocalLoss"])
def test_half_logits_are_computed_in_float32(name, dtype):
    x, *rest = inputs(name)
    x = x.to(dtype)
    (value, grad), (truth, slope) = (outcome(lambda: make(name), t, rest) for t in (x, x.float()))
    assert value.dtype == torch.float32 and grad.dtype == dtype
    torch.testing.assert_close(value, truth, rtol=3e-6, atol=0)
    torch.testing.assert_close(grad, slope.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_monai_tensors_are_read_as_tensors():
    meta = pytest.importorskip("monai.data").MetaTensor
    for name in EXAMPLES:
        if name != "AsymmetricUnifiedFocalLoss":
            plain = inputs(name)
            x, *rest = (meta(t.detach().clone()) for t in plain)
            value = make(name)(x.requires_grad_(), *rest)
            assert type(value) is torch.Tensor and torch.equal(value, make(name)(*plain))
            value.backward()
            assert x.grad is not None


def test_soft_labels_of_the_focal_loss_are_those_of_monai():
    """u^gamma of the margin, not of 1 - exp(-BCE) as in smp."""
    y = torch.rand(X.shape)
    assert monai.FocalLoss()(X, y) != fl.FocalLoss("multilabel")(X, y)
    torch.testing.assert_close(monai.FocalLoss()(X, y.round()), fl.FocalLoss("multilabel")(X, y.round()))


def test_mended_mean_of_the_focal_loss():
    ids = {"to_onehot_y": True, "ignore_index": 255}
    for softmax in (False, True):
        free = monai.FocalLoss(to_onehot_y=True, use_softmax=softmax)(X, Y)
        torch.testing.assert_close(monai.FocalLoss(**ids, use_softmax=softmax)(X, Y), 3 * free)
        torch.testing.assert_close(monai.FocalLoss(**ids, use_softmax=softmax, strict=False)(X, Y), free)


def test_mended_mask_of_labels():
    mask = torch.rand(Y.shape) < 0.5
    hot = torch.nn.functional.one_hot(Y[:, 0].long(), 3).movedim(-1, 1).float()
    truth = monai.MaskedDiceLoss(softmax=True)(X, hot, mask)
    torch.testing.assert_close(monai.MaskedDiceLoss(**SOFTMAX, strict=False)(X, Y, mask), truth)
    assert (monai.MaskedDiceLoss(**SOFTMAX)(X, Y, mask) - truth).abs() > 1e-3


def test_mended_unified_focal_is_that_of_the_valid_voxels():
    p, y = torch.rand(1, 1, 4, 4), torch.randint(0, 2, (1, 1, 4, 4)).float()
    truth = monai.AsymmetricUnifiedFocalLoss()(p[:, :, :2], y[:, :, :2])
    void = torch.cat([y[:, :, :2], torch.full((1, 1, 2, 4), 255.0)], 2)
    with pytest.warns(UserWarning, match="ignore_index"):
        mended = monai.AsymmetricUnifiedFocalLoss(ignore_index=255, strict=False)(p, void)
    torch.testing.assert_close(mended, truth)


def test_mended_deep_supervision_takes_integer_labels():
    x = [X[:, :, :4, :4], X[:, :, :2, :2]]
    y = Y[:, :, :4, :4]
    expected = monai.DeepSupervisionLoss(monai.DiceLoss(**SOFTMAX))(x, y)
    assert torch.equal(monai.DeepSupervisionLoss(monai.DiceLoss(**SOFTMAX), strict=False)(x, y.long()), expected)


FROM_SUMS = {
    "GeneralizedDiceLoss": {"sigmoid": True},
    "DiceLoss": {"sigmoid": True, "reduction": "none", "include_background": False},
    "TverskyLoss": {"softmax": True, "smooth_nr": 1e-3, "batch": True},
    "FocalLoss": {"weight": [1.0, 2.0, 0.5]},
    "GeneralizedDiceFocalLoss": {"sigmoid": True},
}


@pytest.mark.parametrize("name", FROM_SUMS)
def test_losses_made_from_sums_behave_in_autograd(name):
    """A second backward over a retained graph is right, and a double backward refuses, also inside a sum."""
    x, y = X.clone().requires_grad_(), torch.nn.functional.one_hot(Y[:, 0].long(), 3).movedim(-1, 1).float()
    loss = getattr(monai, name)(**FROM_SUMS[name])(x, y)
    upstream = torch.linspace(0.5, 1.5, loss.numel()).reshape(loss.shape)
    first, second = [torch.autograd.grad(loss, x, upstream, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(first, second)
    assert torch.equal(torch.autograd.grad(loss, x, 2 * upstream, retain_graph=True)[0], 2 * first)
    total = (loss * upstream).sum() + (x**2).sum()
    (grad,) = torch.autograd.grad(total, x, create_graph=True)
    torch.testing.assert_close(grad, first + 2 * X)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        grad.sum().backward()


def test_inputs_that_stand_in_the_way_are_named():
    soft, mask = torch.rand(X.shape), torch.rand(2, 1, 5, 6)
    calls = {
        "target requires a gradient": lambda: monai.DiceLoss(sigmoid=True)(X, soft.requires_grad_()),
        "the channel of ignore_index may be soft": lambda: monai.DiceLoss(sigmoid=True, ignore_index=0)(
            X, soft.detach()
        ),
        "mask holds weights": lambda: monai.MaskedDiceLoss(sigmoid=True)(X, soft.detach(), mask),
        "input has 2 axes": lambda: monai.FocalLoss()(X[:, :, 0, 0], soft[:, :, 0, 0].detach()),
    }
    for why, call in calls.items():
        with pytest.warns(UserWarning, match=f"runs as plain PyTorch: {why}"):
            call()

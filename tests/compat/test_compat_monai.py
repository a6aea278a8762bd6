"""fastloss.compat.monai against MONAI: values, gradients, shapes and errors of random settings and inputs."""

import inspect

import pytest
import torch
from configurations import SETTINGS, draw
from originals import assert_same

from fastloss.compat import monai

hypothesis = pytest.importorskip("hypothesis")
T = pytest.importorskip("monai.losses")
SEEDS = hypothesis.strategies.integers(0, 2**32)


@pytest.mark.parametrize("name", monai.__all__)
def test_constructor_is_the_same(name):
    ours, theirs = (inspect.signature(getattr(space, name).__init__).parameters for space in (monai, T))
    assert [(p.name, p.default, p.kind) for p in ours.values()][:-1] == [
        (p.name, getattr(p.default, "value", p.default), p.kind) for p in theirs.values()
    ]
    assert ours["strict"].default is True and ours["strict"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("name", SETTINGS)
@hypothesis.settings(max_examples=120)
@hypothesis.given(seed=SEEDS)
def test_random_settings(name, seed):
    settings, args, note = draw(name, seed)
    ours, theirs = (lambda space=space: getattr(space, name)(**settings) for space in (monai, T))
    assert_same(ours, theirs, *args, note=note)


def both(name, **kwargs):
    return [lambda space=space: getattr(space, name)(**kwargs) for space in (monai, T)]


ENCODED = ({"to_onehot_y": True, "softmax": True}, {"to_onehot_y": True, "sigmoid": True})
USUAL = {
    "DiceLoss": ENCODED,
    "GeneralizedDiceLoss": ENCODED,
    "TverskyLoss": ENCODED,
    "FocalLoss": ({"to_onehot_y": True}, {"to_onehot_y": True, "use_softmax": True}),
    "DiceCELoss": ENCODED,
    "DiceFocalLoss": ENCODED,
    "GeneralizedDiceFocalLoss": ENCODED,
}


@pytest.mark.parametrize("space", ((5, 6), (3, 4, 5)), ids=("2d", "3d"))
@pytest.mark.parametrize("background", (True, False))
@pytest.mark.parametrize("name", USUAL)
def test_float32_labels_with_an_absent_class(name, background, space):
    x, y = torch.randn(2, 4, *space), torch.randint(0, 3, (2, 1, *space)).float()
    for kwargs in USUAL[name]:
        ours = getattr(monai, name)(include_background=background, **kwargs)
        assert ours.fused
        assert_same(lambda: ours, both(name, include_background=background, **kwargs)[1], x, y, note=name)


@pytest.mark.parametrize("reduction", ("mean", "sum", "none"))
@pytest.mark.parametrize("channels", (1, 2))
def test_asymmetric_unified_focal(channels, reduction):
    for space in ((5, 6), (3, 4, 5)):
        p, hot = torch.rand(2, channels, *space), torch.randint(0, 2, (2, channels, *space)).float()
        p[0, 0, 0, 0] = 0.0
        ids = torch.randint(0, 2, (2, 1, *space))
        void = ids.masked_fill(torch.rand(ids.shape) < 0.3, 255)
        for y in (hot, hot.long(), ids, ids.float(), void, ids + 2, hot[:1], hot[:, 0]):
            for kwargs in ({}, {"gamma": 0.3, "delta": 0.6, "weight": 0.2}, {"num_classes": 3}):
                for encoded in (False, True):
                    for ignored in (None, 0, 1, 255):
                        given = {"to_onehot_y": encoded, "ignore_index": ignored, "reduction": reduction} | kwargs
                        assert_same(*both("AsymmetricUnifiedFocalLoss", **given), p, y, note=str(given))
    assert_same(*both("AsymmetricUnifiedFocalLoss"), torch.rand(2, 1, 7), torch.rand(2, 1, 7))


@pytest.mark.parametrize("levels", ((16, 8, 4), (16, 9, 5), (16,)), ids=str)
@pytest.mark.parametrize("mode", ("same", "exp", "two", "none"))
def test_deep_supervision(mode, levels):
    x = torch.randn(2, 3, 16, 16)
    outputs = [torch.nn.functional.interpolate(x, size=(size, size)) for size in levels]
    for y in (torch.randint(0, 3, (2, 1, 16, 16)).float(), torch.randint(0, 3, (2, 1, 16, 16))):
        for weights in (None, [2.0, 0.5, 0.25, 1.0], [2.0]):
            inner = {"to_onehot_y": True, "softmax": True}

            def make(space, weights=weights, inner=inner):
                loss = space.DeepSupervisionLoss(space.DiceCELoss(**inner), mode, weights)
                return lambda x, y: loss([x, *outputs[1:]], y)

            assert_same(lambda: make(monai), lambda: make(T), outputs[0], y, note=f"{mode} {levels} {weights}")
    supervised = [lambda s=s: s.DeepSupervisionLoss(s.DiceLoss(sigmoid=True)) for s in (monai, T)]
    assert_same(*supervised, x, (x > 0).float())
    assert isinstance(assert_same(*[lambda m=m: lambda x, y: m()(None, y) for m in supervised], x, x), ValueError)


BAD = (
    ("DiceLoss", {"reduction": "median"}),
    ("DiceLoss", {"other_act": "tanh"}),
    ("GeneralizedDiceLoss", {"w_type": "cube"}),
    ("TverskyLoss", {"other_act": torch.tanh, "softmax": True}),
    ("FocalLoss", {"reduction": "median"}),
    ("DiceCELoss", {"reduction": "none"}),
    ("DiceCELoss", {"lambda_dice": -1.0}),
    ("DiceCELoss", {"lambda_ce": -1.0}),
    ("DiceFocalLoss", {"lambda_dice": -1.0}),
    ("DiceFocalLoss", {"lambda_focal": -1.0}),
    ("GeneralizedDiceFocalLoss", {"lambda_gdl": -1.0}),
    ("GeneralizedDiceFocalLoss", {"lambda_focal": -1.0}),
    ("AsymmetricUnifiedFocalLoss", {"reduction": "median"}),
    ("MaskedDiceLoss", {"sigmoid": True, "softmax": True}),
    ("MaskedDiceLoss", {"other_act": 3}),
)


@pytest.mark.parametrize(("name", "kwargs"), BAD)
def test_constructor_errors_are_the_same(name, kwargs):
    error = assert_same(*both(name, **kwargs), torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4))
    assert isinstance(error, TypeError if "other_act" in kwargs and len(kwargs) == 1 else ValueError)


@pytest.mark.parametrize("channels", (2, 3))
def test_call_errors_are_the_same(channels):
    x = torch.randn(2, channels, 4, 4)
    wrong = (torch.rand(2, 4, 4), torch.rand(2, 5, 4, 4), torch.rand(1, 1, 4, 4), torch.rand(2, 1, 4, 5))
    for name in USUAL:
        for y in wrong:
            assert isinstance(assert_same(*both(name), x, y, note=name), Exception)
    for mask in (torch.ones(3, 1, 4, 4), torch.ones(2, 2, 4, 4), torch.ones(2, 1, 4, 5)):
        assert isinstance(assert_same(*both("MaskedDiceLoss", sigmoid=True), x, x.sigmoid(), mask), Exception)


def test_warnings_are_the_same():
    x, y = torch.randn(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    settings = {"include_background": False, "to_onehot_y": True}
    for name in ("DiceLoss", "TverskyLoss", "GeneralizedDiceLoss", "FocalLoss"):
        kwargs = settings | ({} if name == "FocalLoss" else {"softmax": True})
        for make in both(name, **kwargs):
            with pytest.warns(UserWarning) as found:
                make()(x, y)
            said = sorted(str(w.message) for w in found)
            assert said == sorted(f"single channel prediction, `{k}={v}` ignored." for k, v in kwargs.items())

"""HeadLoss: value and gradients are those of the criterion on the head's logits, which never exist as a whole."""

from copy import deepcopy

import pytest
import torch
from cases import CORE, LOSSES, MODES, build
from heads import BAND, FEATURES, check, head, inputs, unfused
from tolerances import assert_vector
from torch import nn

import fastloss as fl

NAMES = [*CORE, *[f"{m}:{n}" for m in MODES for n in ("focal-1.5", "topk", "dice-sample-skip", "tensors")]]
NAMES += [
    "multiclass:ce",
    "multiclass:ce-weights",
    "binary:bce-pos_weight",
    "multilabel:bce-smoothing",
    "multiclass:ce-sum",
]


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradients(name, compiled):
    mode = LOSSES[name][0]
    check(build(name), head(mode), *inputs(mode), backend=compiled)


@pytest.mark.parametrize("name", [*CORE, "multiclass:ce-weights", "multilabel:focal-1.5"])
def test_masks_pixel_weights_and_ignored_labels(name, compiled):
    mode = LOSSES[name][0]
    x, y = inputs(mode)
    mask, weight = torch.rand(4, 13, 11) < 0.7, torch.rand(4, 13, 11)
    check(build(name), head(mode), x, y, mask, weight, backend=compiled)
    if LOSSES[name][2] is not None:
        y[torch.rand(y.shape) < 0.3] = 9
        check(build(name, ignore_index=9), head(mode), x, y, backend=compiled)
        check(build(name, ignore_index=9), head(mode), x, torch.full_like(y, 9), mask, backend=compiled)


@pytest.mark.parametrize("axes", (1, 2, 3))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "sliced"))
@pytest.mark.parametrize("bias", (True, False))
def test_axes_layouts_and_linear(axes, layout, bias, compiled):
    space = (143,) if axes == 1 else (13, 11) if axes == 2 else (5, 6, 7)
    x, y = inputs("multiclass", space)
    if layout == "channels_last":
        x = x.detach().movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()
    elif layout == "sliced":
        x = torch.randn(8, FEATURES, *[2 * n for n in space])[
            (slice(None, None, 2), slice(None), *[slice(None, None, 2)] * axes)
        ]
        x = x.detach().requires_grad_()
    layer = head("multiclass", axes, bias)
    check(build("multiclass:dice+focal"), layer, x, y, backend=compiled)
    linear = nn.Linear(FEATURES, 3, bias=bias)
    with torch.no_grad():
        for ours, theirs in zip(linear.parameters(), layer.parameters()):
            ours.copy_(theirs.view(ours.shape))
    with fl.backends.use(compiled):
        loss = fl.HeadLoss(linear, build("multiclass:dice+focal"), band_bytes=BAND)
        other = fl.HeadLoss(layer, build("multiclass:dice+focal"), band_bytes=BAND)
        assert torch.equal(loss(x, y), other(x, y))
        assert_vector(loss(x), other(x), torch.float32)


@pytest.mark.parametrize("band", (1, 64, 4096, 2**25))
@pytest.mark.parametrize("name", ("multiclass:everything", "binary:iou+topk", "multilabel:focal-2.0"))
def test_bands_of_any_size(name, band, compiled):
    mode = LOSSES[name][0]
    check(build(name), head(mode), *inputs(mode), backend=compiled, band=band)


@pytest.mark.parametrize("name", ("multiclass:everything", "binary:bce", "multilabel:dice+focal"))
def test_double_precision(name, compiled):
    mode = LOSSES[name][0]
    check(build(name), head(mode, dtype=torch.float64), *inputs(mode, dtype=torch.float64), backend=compiled)


@pytest.mark.parametrize("name", ("multiclass:ce", "multiclass:dice+focal", "binary:bce"))
def test_half_types_and_autocast(name, compiled):
    """The head computes in the half type as it would, so its gradients have the rounding of that."""
    mode = LOSSES[name][0]
    layer, (x, y) = head(mode), inputs(mode, (40, 40))
    expected, grads = unfused(build(name), layer, x, y)
    for dtype in (torch.bfloat16, torch.float16):
        for given, autocast in ((x, True), (x.detach().to(dtype).requires_grad_(), True), (x, False)):
            here, source = layer, given
            if not autocast:
                here, source = deepcopy(layer).to(dtype), x.detach().to(dtype).requires_grad_()
            with fl.backends.use(compiled), torch.autocast("cpu", dtype, enabled=autocast):
                value = fl.HeadLoss(here, build(name), band_bytes=BAND)(source, y)
            ours = torch.autograd.grad(value * 1024, [source, *here.parameters()])
            assert value.dtype == torch.float32
            assert abs(value - expected) < 0.02 * abs(expected)
            for a, b, t in zip(ours, grads, [source, *here.parameters()]):
                assert a.dtype == t.dtype
                assert (a.double() / 1024 - b).norm() < 0.03 * b.norm()

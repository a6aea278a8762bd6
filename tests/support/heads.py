"""HeadLoss beside the unfused composition: inputs, the oracle, the comparison."""

from copy import deepcopy

import torch
from cases import SHAPES, target
from tolerances import assert_value, assert_vector
from torch import nn

import fastloss as fl

FEATURES = 5
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BAND = 256  # bytes: a few pixels, so that every call has many bands


def head(mode, axes=2, bias=True, dtype=torch.float32):
    torch.manual_seed(7)
    return CONVOLUTIONS[axes](FEATURES, SHAPES[mode][1], 1, bias=bias).to(dtype)


def inputs(mode, space=(13, 11), dtype=torch.float32, samples=4):
    torch.manual_seed(8)
    x = torch.randn(samples, FEATURES, *space).to(dtype).requires_grad_()
    return x, target(mode, (samples, SHAPES[mode][1], *space))


def unfused(criterion, layer, x, y, *extra):
    """(value, gradients of features, weight, bias) by whole logits, in float64 and by the reference."""
    layer, x = deepcopy(layer).double(), x.detach().double().requires_grad_()
    extra = [t.double() if t is not None and t.is_floating_point() else t for t in extra]
    with fl.backends.use("reference"):
        value = criterion(layer(x), y, *extra)
    return value, torch.autograd.grad(value, [x, *layer.parameters()])


def check(criterion, layer, x, y, *extra, backend, factor=4.0, band=BAND, scale=1.0):
    expected, expected_grads = unfused(criterion, layer, x, y, *extra)
    with fl.backends.use(backend):
        value = fl.HeadLoss(layer, criterion, band_bytes=band)(x, y, *extra)
        grads = torch.autograd.grad(value * scale, [x, *layer.parameters()])
    dtype = layer.weight.dtype
    assert_value(value, expected, dtype, scale=0.1, factor=factor)
    for ours, theirs, what in zip(grads, expected_grads, ("features", "weight", "bias")):
        assert ours.dtype == dtype
        assert_vector(ours, theirs * scale, dtype, what, factor)

"""UpsampledLoss beside the unfused composition: inputs, the oracle, the comparison."""

import torch
from cases import SHAPES, run, target
from tolerances import assert_value, assert_vector
from torch.nn.functional import interpolate

import fastloss as fl
from fastloss._interpolation import MODES

AXES = {"linear": 1, "bilinear": 2, "trilinear": 3}
# (mode, align_corners): what interpolate takes
INTERPOLATIONS = [(mode, corners) for mode in MODES for corners in ((False, True) if mode in AXES else (False,))]
BAND = 512  # bytes: a few pixels, so that every call has many bands


def inputs(mode, low=(6, 5), size=(13, 11), dtype=torch.float32, kind=torch.int64, samples=3):
    torch.manual_seed(8)
    channels = SHAPES[mode][1]
    x = (torch.randn(samples, channels, *low) * 3).to(dtype).requires_grad_()
    return x, target(mode, (samples, channels, *size), kind)


def corners(mode, align_corners):
    return None if "nearest" in mode else align_corners


def unfused(criterion, x, y, *extra, mode="bilinear", align_corners=False, scale=1.0):
    """(value, gradient) of whole logits, in float64 and by the reference."""
    x = x.detach().double().requires_grad_()
    extra = [t.double() if t is not None and t.is_floating_point() else t for t in extra]
    size = y.shape[-(x.ndim - 2) :]
    with fl.backends.use("reference"):
        value = criterion(interpolate(x, size, mode=mode, align_corners=corners(mode, align_corners)), y, *extra)
    return value.detach(), torch.autograd.grad(value * scale, x)[0]


def check(criterion, x, y, *extra, backend, band=BAND, scale=1.0, factor=2.0, **how):
    expected, expected_grad = unfused(criterion, x, y, *extra, scale=scale, **how)
    value, grad = run(fl.UpsampledLoss(criterion, band_bytes=band, **how), x, y, backend, *extra, upstream=scale)
    assert grad.dtype == x.dtype and value.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    assert_value(value, expected, x.dtype, scale=0.1, factor=factor)
    assert_vector(grad, expected_grad, x.dtype, factor=factor)

"""UpsampledLoss: value and gradient are those of the criterion on interpolated logits, which never exist."""

import pytest
import torch
from cases import CORE, LOSSES, MODES, build, run
from tolerances import assert_value, assert_vector
from torch.nn.functional import interpolate
from upsampling import AXES, BAND, INTERPOLATIONS, check, corners, inputs, unfused

import fastloss as fl
from fastloss import _interpolation
from fastloss._interpolation import Axis
from fastloss._sources import UPSAMPLED, Upsampled, cut

RATIOS = (2, 3, 4, 7.3, 1, 0.5)
NAMES = [*CORE, *[f"{m}:{n}" for m in MODES for n in ("focal-1.5", "topk", "dice-sample-skip", "tensors")]]
NAMES += ["multiclass:ce", "multiclass:ce-weights-smoothing", "binary:bce-pos_weight", "multilabel:bce-smoothing"]
NAMES += ["multiclass:poly-smoothing", "multiclass:poly-weights", "binary:poly-pos_weight", "multilabel:explog"]


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient(name, compiled):
    check(build(name), *inputs(LOSSES[name][0]), backend=compiled)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("mode", "align_corners"), INTERPOLATIONS)
def test_modes_and_ratios(mode, ratio, align_corners, compiled):
    for axes in [AXES[mode]] if mode in AXES else (1, 2, 3):
        low = ((9,), (6, 5), (4, 5, 3))[axes - 1]
        size = [max(int(n * ratio), 1) for n in low]
        for name in ("multiclass:dice+focal", "multilabel:focal-1.5"):
            x, y = inputs(LOSSES[name][0], low, size, samples=2)
            for band in (BAND, 2**21):
                check(build(name), x, y, backend=compiled, band=band, mode=mode, align_corners=align_corners)


@pytest.mark.parametrize(
    "sizes", (((5, 4), (5, 9)), ((5, 4), (7, 4)), ((1, 1), (6, 7)), ((6, 7), (1, 1)), ((2, 9), (8, 3)))
)
@pytest.mark.parametrize("align_corners", (False, True))
def test_axes_that_stay_shrink_or_have_one_pixel(sizes, align_corners, compiled):
    x, y = inputs("multiclass", *sizes)
    check(build("multiclass:dice+focal"), x, y, backend=compiled, align_corners=align_corners)


@pytest.mark.parametrize("name", [*CORE, "multiclass:ce-weights", "multilabel:focal-1.5"])
def test_masks_pixel_weights_and_ignored_labels(name, compiled):
    mode = LOSSES[name][0]
    x, y = inputs(mode)
    mask, weight = torch.rand(3, 13, 11) < 0.7, torch.rand(3, 13, 11)
    check(build(name), x, y, mask, weight, backend=compiled)
    check(build(name), x, y, mask[:, None], None, backend=compiled)
    if LOSSES[name][2] is not None:
        y[torch.rand(y.shape) < 0.3] = 9
        check(build(name, ignore_index=9), x, y, backend=compiled)
        nothing = torch.full_like(y, 9)
        value, grad = run(fl.UpsampledLoss(build(name, ignore_index=9)), x, nothing, compiled, mask)
        assert value == 0 and not grad.any()


@pytest.mark.parametrize("kind", ("soft", "probabilities", torch.bool, torch.uint8, torch.uint16))
def test_targets(kind, compiled):
    modes = MODES[:2] if kind in ("soft", torch.bool) else MODES[2:] if kind == "probabilities" else MODES
    for mode in modes:
        x, y = inputs(mode, kind=kind)
        check(build(f"{mode}:dice+focal"), x, y, backend=compiled)
        check(build(f"{mode}:topk"), x, y, backend=compiled)
    if kind == "soft":
        x, y = inputs("binary", kind=kind)
        low = x.detach()[:, 0].requires_grad_()  # [N, h, w]
        criterion = build("binary:dice+focal")
        value, grad = run(fl.UpsampledLoss(criterion), low, y[:, 0], compiled)
        expected, expected_grad = unfused(criterion, x, y)
        assert_value(value, expected, torch.float32)
        assert_vector(grad, expected_grad[:, 0], torch.float32)


@pytest.mark.parametrize("layout", ("channels_last", "sliced"))
@pytest.mark.parametrize("name", ("multiclass:dice+focal", "binary:bce"))
def test_layouts(name, layout, compiled):
    mode = LOSSES[name][0]
    x, y = inputs(mode)
    if layout == "channels_last":
        x, y = x.detach().to(memory_format=torch.channels_last), y.transpose(-1, -2).contiguous().transpose(-1, -2)
    else:
        x, y = x.detach()[..., ::2, 1:], y[..., ::2, :]
    check(build(name), x.requires_grad_(), y, backend=compiled)


@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("name", (*CORE, "multiclass:ce"))
def test_dtypes(name, dtype, compiled):
    """Half logits are interpolated in float32, and only the gradient is rounded, with the scale of AMP inside."""
    scale = 1.0 if dtype == torch.float64 else 1024.0
    check(build(name), *inputs(LOSSES[name][0], dtype=dtype), backend=compiled, scale=scale)


@pytest.mark.parametrize("band", (1, 100, 5000, 2**24))
@pytest.mark.parametrize("name", ("multiclass:everything", "binary:iou+topk", "multilabel:focal-2.0"))
def test_bands_of_any_size(name, band, compiled):
    check(build(name), *inputs(LOSSES[name][0]), backend=compiled, band=band)


@pytest.mark.parametrize("low", ((6, 5), (3, 40), (20, 3)))
@pytest.mark.parametrize("name", ("multiclass:dice+focal", "multiclass:everything", "multilabel:bce"))
def test_any_number_of_threads_gives_the_same_bits(name, low, compiled):
    x, y = inputs(LOSSES[name][0], low, (97, 83))
    found = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        for _ in range(2):
            found.append(run(fl.UpsampledLoss(build(name), band_bytes=4 * BAND), x, y, compiled))
    for value, grad in found:
        assert torch.equal(value, found[0][0]) and torch.equal(grad, found[0][1])


@pytest.mark.parametrize(("mode", "align_corners"), INTERPOLATIONS)
def test_boxes_are_interpolated_as_torch_does_and_transposed(mode, align_corners):
    """The plain PyTorch form, whose nearest inputs are torch's to the index."""
    axes = AXES.get(mode, 2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        low, size = torch.randint(1, 12, (2, axes), generator=generator).tolist()
        x = torch.randn(2, 3, *low, dtype=torch.float64, generator=generator).requires_grad_()
        whole = interpolate(x, size, mode=mode, align_corners=corners(mode, align_corners))
        upstream = torch.randn(whole.shape, dtype=torch.float64, generator=generator)
        how = (UPSAMPLED, _interpolation.MODES.index(mode), int(align_corners), *size)
        source = Upsampled([x.detach()], how, [True])
        for band in cut(whole.shape, 5):
            assert torch.allclose(source.logits(band), band.of(whole), rtol=0, atol=1e-12)
            source.take(band, band.of(upstream))
        (expected,) = torch.autograd.grad(whole, x, upstream)
        assert torch.allclose(source.grads()[0], expected, rtol=0, atol=1e-12)


def test_nearest_inputs_are_torchs():
    """Those of one of its forms: at exact ties (2 to 97) torch's own one- and two-dimensional forms differ."""
    for mode in ("nearest", "nearest-exact"):
        for a in (*range(1, 40), 97, 128, 1000):
            inputs = torch.arange(float(a)).expand(1, 1, 1, a)
            for b in (*range(1, 40), 97, 128, 1000):
                found = Axis(a, b, _interpolation.MODES.index(mode), False).table(torch.float32, torch.device("cpu"))[0]
                row = interpolate(inputs[0], b, mode=mode).long().flatten()
                plane = interpolate(inputs, (1, b), mode=mode).long().flatten()
                assert torch.equal(found, row) or torch.equal(found, plane), (mode, a, b)

"""Every backend against the float64 oracle: value and gradient of every loss, mode, dtype, layout and target type."""

import pytest
import torch
from cases import CHANNELS, CORE, DTYPES, INTEGERS, LOSSES, MODES, SHAPES, build, logits, oracle, run, target
from tolerances import assert_value, assert_vector

import fastloss as fl

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SHAPES_1D_3D = {"binary": [(3, 1, 50), (2, 1, 5, 6, 7)], "multilabel": [(3, 3, 50), (2, 3, 5, 6, 7)]}
SHAPES_1D_3D["multiclass"] = [*SHAPES_1D_3D["multilabel"], (2, 9, 6, 5, 7), (2, 2, 40), (1, 150, 9, 8)]

FAST = ("bce", "ce", "focal-2.0", "topk", "dice", "tversky", "dice+focal", "tversky+crossentropy", "iou+topk")

SCALES = {f"{mode}:difference": 0.5 for mode in MODES}  # two terms of that size, almost equal


def check(loss, x, y, backend, mask=None, pixel_weight=None, scale=0.0):
    """Scaled by the number of elements, so that float16 gradients stay clear of the subnormal range."""
    upstream = float(max(x.numel(), 1))
    value, grad = run(loss, x, y, backend, mask, pixel_weight, upstream)
    expected, expected_grad = oracle(loss, x, y, mask, pixel_weight, upstream)
    assert value.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    assert grad.dtype == x.dtype
    assert_value(value, expected, x.dtype, scale)
    assert_vector(grad, expected_grad, x.dtype)
    if x.dtype == torch.float32:  # that was made in backward, for the scale was new; now forward knows it
        _, early = run(loss, x, y, backend, mask, pixel_weight, upstream)
        assert_vector(early, expected_grad, x.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_loss(name, dtype, backend):
    mode = LOSSES[name][0]
    check(build(name), logits(SHAPES[mode], dtype), target(mode, SHAPES[mode]), backend, scale=SCALES.get(name, 0.0))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", [n for n in LOSSES if n.split(":")[1] in FAST])
def test_whole_vectors(name, dtype, compiled):
    """Planes that begin at multiples of 16 bytes: what kernels that read vectors need. Several tiles, and a tail."""
    mode = LOSSES[name][0]
    for shape in ((2, CHANNELS[mode], 72, 80), (1, CHANNELS[mode], 59, 61)):
        if shape[0] == 1 and CHANNELS[mode] > 1:
            continue  # its second plane begins anywhere
        for kind in (torch.uint8, torch.int64):
            check(build(name), logits(shape, dtype), target(mode, shape, kind), compiled)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", [n for n in LOSSES if n.split(":")[1] in FAST and LOSSES[n][0] == "binary"])
def test_long_plane(name, dtype, compiled):
    """More pixels than registers and shared memory of the emulator's three multiprocessors hold."""
    shape = (1, 1, 512, 641)
    check(build(name), logits(shape, dtype), target("binary", shape, torch.uint8), compiled)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_soft_targets(name, dtype, backend):
    mode = LOSSES[name][0]
    kind = "probabilities" if mode == "multiclass" else "soft"
    x, y = logits(SHAPES[mode], dtype), target(mode, SHAPES[mode], kind)
    check(build(name), x, y, backend, scale=SCALES.get(name, 0.0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ("channels_last", "sliced", "transposed"))
@pytest.mark.parametrize("name", CORE)
def test_layout(name, layout, dtype, compiled):
    mode = LOSSES[name][0]
    x = logits(SHAPES[mode], dtype, layout)
    y = target(mode, SHAPES[mode])
    mask, weight = torch.rand(x[:, 0].shape) < 0.7, torch.rand(x[:, 0].shape)
    if layout == "sliced":  # the other inputs are views too
        y, mask, weight = [torch.stack([t, t], -1)[..., 1] for t in (y, mask, weight)]
    check(build(name), x, y, compiled)
    check(build(name), x, y, compiled, mask, weight)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "transposed", "sliced"))
@pytest.mark.parametrize("mode", MODES)
def test_gradient_follows_the_layout_of_the_logits(mode, layout, compiled):
    x = logits(SHAPES[mode], torch.float32, layout)
    _, grad = run(build(f"{mode}:dice+focal"), x, target(mode, SHAPES[mode]), compiled)
    assert grad.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("shape,name", [(s, n) for n in CORE for s in SHAPES_1D_3D[LOSSES[n][0]]], ids=str)
def test_other_dimensions_and_channels(shape, name, compiled):
    mode = LOSSES[name][0]
    for layout in ("contiguous", "sliced") + ("channels_last",) * (len(shape) == 5):
        check(build(name), logits(shape, torch.float32, layout), target(mode, shape), compiled)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
@pytest.mark.parametrize("classes", (2, 4, 5, 8, 9, 16, 17))
@pytest.mark.parametrize("name", [f"multiclass:{name}" for name in ("ce", "topk", "iou+topk", "dice+focal")])
def test_numbers_of_classes(name, classes, dtype, compiled):
    """Kernels that unroll over the classes, at the ends of their loops, with and without pixels that do not count."""
    for space in ((33, 31), (64, 40)):
        shape = (2, classes, *space)
        x, y, mask = logits(shape, dtype), target("multiclass", shape), torch.rand(2, *space) < 0.7
        check(build(name), x, y, compiled)
        check(build(name), x, y, compiled, mask)


@pytest.mark.parametrize("kind", (torch.bool, *INTEGERS, *FLOATS), ids=str)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.float64), ids=str)
@pytest.mark.parametrize("name", [n for n in CORE if LOSSES[n][0] != "multiclass"])
def test_target_dtype(name, dtype, kind, compiled):
    mode = LOSSES[name][0]
    x, y = logits(SHAPES[mode], dtype), target(mode, SHAPES[mode], kind)
    check(build(name), x, y, compiled)
    if kind.is_floating_point:
        check(build(name), x, target(mode, SHAPES[mode], "soft").to(kind), compiled)
    if mode == "binary":  # the channel axis may be missing
        check(build(name), x, y[:, 0], compiled)
        check(build(name), x[:, 0], y[:, 0], compiled)


@pytest.mark.parametrize("kind", (*INTEGERS, *FLOATS), ids=str)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.float64), ids=str)
@pytest.mark.parametrize("name", [n for n in CORE if LOSSES[n][0] == "multiclass"])
def test_class_id_dtype(name, dtype, kind, compiled):
    x = logits(SHAPES["multiclass"], dtype)
    if kind.is_floating_point:
        return check(build(name), x, target("multiclass", x.shape, "probabilities").to(kind), compiled)
    y = target("multiclass", x.shape, kind)
    check(build(name), x, y, compiled)
    check(build(name), x, y[:, None], compiled)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [n for n in LOSSES if LOSSES[n][2] is not None])
def test_ignore_index_mask_and_pixel_weight(name, dtype, backend):
    mode = LOSSES[name][0]
    x, y = logits(SHAPES[mode], dtype), target(mode, SHAPES[mode])
    y[torch.rand(y.shape) < 0.2] = 7
    loss = build(name, ignore_index=7)
    plain, single = x[:, 0].shape, x[:, :1].shape
    check(loss, x, y, backend)
    check(loss, x, y, backend, mask=torch.rand(plain) < 0.5)
    check(loss, x, y, backend, pixel_weight=torch.rand(single) * 2)
    check(loss, x, y, backend, torch.rand(single) < 0.5, torch.rand(plain, dtype=torch.float64))
    if mode == "multilabel":
        check(loss, x, y, backend, torch.rand(x.shape) < 0.5, torch.rand(x.shape, dtype=torch.float16))


MARKS = [(torch.uint8, 255), (torch.int8, -1), (torch.int16, -100), (torch.float32, -1), (torch.uint16, 65535)]
MARKS += [(torch.uint32, 2**32 - 1), (torch.uint64, 255)]


@pytest.mark.parametrize("kind,value", MARKS, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_ignore_index_by_target_dtype(mode, kind, value, compiled):
    """Each integer type is compared in its own range; one that cannot hold the value ignores nothing."""
    if mode == "multiclass" and kind.is_floating_point:
        kind = torch.int64
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode], kind)
    unmarked = y.clone()
    y = torch.where(torch.rand(y.shape) < 0.3, torch.tensor(value, dtype=kind), y)
    for name in ("dice", "focal-2.0", "topk"):
        check(build(f"{mode}:{name}", ignore_index=value), x, y, compiled)
        check(build(f"{mode}:{name}", ignore_index=value - 1000), x, unmarked, compiled)
        check(build(f"{mode}:{name}", ignore_index=-1 - 2**40), x, unmarked, compiled)


@pytest.mark.parametrize("name", CORE)
def test_no_mask_is_a_full_mask(name, compiled):
    mode = LOSSES[name][0]
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode])
    full = torch.ones(x[:, 0].shape)
    plain = run(build(name), x, y, compiled)
    for arguments in ({"mask": full.bool()}, {"pixel_weight": full}):
        value, grad = run(build(name), x, y, compiled, **arguments)
        assert_value(value, plain[0], torch.float32)
        assert_vector(grad, plain[1], torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "name", [n for n in LOSSES if n.split(":")[1].split("-")[0] in ("bce", "ce", "focal") and "sum" not in n]
)
def test_elementwise(name, dtype, backend):
    """reduction="none", with a gradient of its own for each element."""
    mode = LOSSES[name][0]
    x, loss = logits(SHAPES[mode], dtype).requires_grad_(), build(name, reduction="none", backend=backend)
    x64 = x.detach().double().requires_grad_()
    for kind in (torch.uint8, "probabilities" if mode == "multiclass" else "soft"):
        y = target(mode, SHAPES[mode], kind)
        mask, weight = torch.rand(x[:, 0].shape) < 0.7, torch.rand(x[:, 0].shape)
        for extra in ((None, None), (mask, weight)):
            value = loss(x, y, *extra)
            y64 = y.double() if y.is_floating_point() else y
            expected = build(name, reduction="none", backend="reference")(x64, y64, *extra)
            assert value.shape == (x[:, 0] if mode == "multiclass" else x).shape
            assert_vector(value, expected, torch.float64 if dtype == torch.float64 else torch.float32, "values")
            upstream = torch.randn(value.shape, dtype=value.dtype)
            (grad,) = torch.autograd.grad(value, x, upstream)
            (expected_grad,) = torch.autograd.grad(expected, x64, upstream.double())
            assert_vector(grad, expected_grad, dtype)


def test_binary_without_channel_axis_returns_its_own_shape(compiled):
    x, y = logits((3, 9, 8)), target("binary", (3, 9, 8))
    loss = fl.BCEWithLogitsLoss(reduction="none", backend=compiled)
    assert loss(x, y).shape == x.shape
    assert torch.equal(loss(x, y), loss(x[:, None], y[:, None])[:, 0])

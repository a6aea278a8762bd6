"""Hard numbers and hard sizes: saturated and infinite logits, NaN where nothing counts, chunk and block boundaries,
nothing at all; outputs that nobody wrote, inputs that somebody wrote."""

import pytest
import torch
from cases import BACKENDS, CORE, DTYPES, LOSSES, MODES, SHAPES, build, logits, oracle, run, target
from tolerances import assert_value, assert_vector

import fastloss as fl

HARD = [s * v for v in (0.0, 1e-3, 1.0, 5.0, 20.0, 88.0, 104.0, 710.0, 1e4, 6e4) for s in (1, -1)]
LARGEST = {dtype: torch.finfo(dtype).max for dtype in DTYPES}
POINTWISE = ("bce", "ce", "focal-0.0", "focal-0.5", "focal-1.5", "focal-2.0", "focal-alpha", "topk")
REGION = ("dice", "dice-squared", "dice-l1", "jaccard", "tversky-gamma")
NAMES = [f"{m}:{n}" for m in MODES for n in POINTWISE + REGION if f"{m}:{n}" in LOSSES]


def hard_inputs(mode, dtype, values):
    """Every value (multiclass: every triple of values) with every label."""
    v = torch.tensor(values, dtype=torch.float64).to(dtype)
    if mode == "multiclass":
        x = torch.cartesian_prod(v, v, v).T[None]
        x = torch.cat([x, x, x])
        return x, torch.arange(3)[:, None].expand(3, x.shape[-1])
    channels = SHAPES[mode][1]
    x = torch.cat([v, v])[None, None].repeat(2, channels, 1)
    return x, torch.tensor([0.0, 1.0]).repeat_interleave(len(v)).expand(x.shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_saturated_logits(name, dtype, backend):
    mode = LOSSES[name][0]
    x, y = hard_inputs(mode, dtype, HARD[::2] + HARD[1::4] if mode == "multiclass" else HARD)
    y = y.long()
    value, grad = run(build(name), x, y, backend, upstream=float(x.numel()))
    expected, expected_grad = oracle(build(name), x, y, upstream=float(x.numel()))
    assert value.isfinite() and grad.isfinite().all()
    assert_value(value, expected, dtype)
    if "topk" not in name:  # thousands of ties in float32 that float64 tells apart
        assert_vector(grad, expected_grad, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_the_largest_finite_logits(mode, dtype, backend):
    x, y = hard_inputs(mode, dtype, [LARGEST[dtype], -LARGEST[dtype], 0.0])
    for name in POINTWISE[1 if mode == "multiclass" else 0 :] + REGION:
        if f"{mode}:{name}" in LOSSES:
            _, grad = run(build(f"{mode}:{name}"), x, y.long(), backend)
            assert grad.isfinite().all(), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_infinite_logits(name, dtype, backend):
    """The limit: every gradient, and every value whose terms stay finite."""
    mode, short = name.split(":")
    inf = float("inf")
    x, y = hard_inputs(mode, dtype, [inf, -inf, 3.0, -4.0])
    if mode == "multiclass":  # two equal infinities have no limit
        x = x[..., (x == inf).sum(1)[0] < 2]
        x = x[..., (x == -inf).sum(1)[0] < 2]
        y = y[..., : x.shape[-1]]
    y = y.long()
    _, grad = run(build(name), x, y, backend, upstream=float(x.numel()))
    finite = x.double().clamp(-1e5, 1e5)
    expected, expected_grad = oracle(build(name), finite, y, upstream=float(x.numel()))
    if backend == "reference" and mode == "multiclass":  # autograd cannot see through the selected infinity
        assert grad.isfinite().all()
    elif short != "topk":
        assert_vector(grad, expected_grad, dtype)
    if short in REGION:
        value, _ = run(build(name), x, y, backend)
        assert_value(value, expected, dtype)
    right = y.bool() if mode != "multiclass" else torch.nn.functional.one_hot(y, 3).movedim(-1, 1).bool()
    value, grad = run(build(name), torch.where(right, inf, -inf).to(dtype), y, backend)
    assert value.abs() < 1e-12 and grad.double().abs().max() < 1e-12


@pytest.mark.parametrize("mode", MODES)
def test_nan_logits_show(mode, compiled):
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode])
    x[1, 0, 2, 3] = float("nan")
    for name in POINTWISE + REGION:
        if f"{mode}:{name}" in LOSSES:
            assert run(build(f"{mode}:{name}"), x, y, compiled)[0].isnan(), name


@pytest.mark.parametrize("garbage", (float("nan"), float("inf"), -float("inf")), ids=str)
@pytest.mark.parametrize("name", [*NAMES, *CORE])
def test_what_is_ignored_changes_no_bit(name, garbage, backend):
    """NaN and infinity in logits, soft targets and pixel weights, under the mask and under ignore_index."""
    mode = LOSSES[name][0]
    x, y, weight = logits(SHAPES[mode]), target(mode, SHAPES[mode]), torch.rand(SHAPES[mode][0], *SHAPES[mode][2:])
    mask = torch.rand(weight.shape) < 0.6
    out = ~mask[:, None].expand_as(x)
    dirty_x, dirty_weight = x.masked_fill(out, garbage), weight.masked_fill(~mask, garbage)
    dirty_y = y.masked_fill(~mask if mode == "multiclass" else out, 99)
    for clean, dirty in (((x, y), (dirty_x, dirty_y)), ((x, y, weight), (dirty_x, dirty_y, dirty_weight))):
        a = run(build(name), *clean[:2], backend, mask, *clean[2:])
        b = run(build(name), *dirty[:2], backend, mask, *dirty[2:])
        assert a[0].isfinite() and torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
        assert not b[1][out].any()
    if mode != "multiclass":
        a, b = [run(build(name), x, t, backend, mask) for t in (y.float(), y.float().masked_fill(out, garbage))]
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    if LOSSES[name][2] is not None:
        a = run(build(name, ignore_index=99), x, dirty_y, backend)
        b = run(build(name, ignore_index=99), dirty_x, dirty_y, backend)
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


@pytest.mark.parametrize("name", [*CORE, "binary:topk", "multilabel:bce-pos_weights", "multiclass:ce-weights"])
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
def test_nothing_valid(name, dtype, backend):
    """No sample, no pixel, all masked: loss 0 and gradient 0."""
    mode = LOSSES[name][0]
    _, channels, *space = SHAPES[mode]
    for shape in ((0, channels, *space), (2, channels, 0, 5), (2, channels, *space)):
        x, y = logits(shape, dtype), target(mode, shape) if 0 not in shape else torch.zeros(shape).long()
        y = y[:, 0] if mode == "multiclass" and y.ndim == 4 else y
        mask = torch.zeros(x[:, 0].shape, dtype=torch.bool)
        value, grad = run(build(name), x, y, backend, mask)
        assert value == 0 and grad.shape == x.shape and not grad.any()
        loss, stats = build(name).with_stats(x, y, mask=mask)
        assert loss == 0 and not stats.counts.any()
        assert all(v == 0 for v in stats.terms.values())
    if LOSSES[name][2] is not None:
        x, ignored = logits(SHAPES[mode]), torch.full_like(target(mode, SHAPES[mode]), 5)
        value, grad = run(build(name, ignore_index=5), x, ignored, backend)
        assert value == 0 and not grad.any()


# Beside the compounds, those that kernels have a loop of their own for.
SINGLE_PASS = [f"{m}:{n}" for m in MODES for n in ("dice", "focal-1.5", "topk", "tversky+crossentropy")]
SIZES = (1, 2, 15, 31, 63, 64, 65, 511, 512, 513, 1023, 1025, 2047, 2049, 16383, 16384, 16385, 32769)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [*CORE, *SINGLE_PASS])
def test_sizes_around_chunks_and_blocks(name, size, compiled):
    mode = LOSSES[name][0]
    for samples in (1, 3):
        x = logits((samples, SHAPES[mode][1], size))
        y = target(mode, x.shape)
        mask = torch.rand(x[:, 0].shape) < 0.9
        for m in (None, mask):
            value, grad = run(build(name), x, y, compiled, m, upstream=float(x.numel()))
            expected, expected_grad = oracle(build(name), x, y, m, upstream=float(x.numel()))
            assert_value(value, expected, x.dtype, scale=0.1)
            assert_vector(grad, expected_grad, x.dtype)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("classes", (24, 25, 33, 150))  # the kernels treat few, more and many in blocks of their own
def test_many_classes(classes, dtype, compiled):
    loss = build("multiclass:tversky+crossentropy")
    for size in (64, 65, 129, 300, 2112):
        x = logits((2, classes, size), dtype)
        y = torch.randint(0, classes, (2, size))
        mask = torch.rand(2, size) < 0.9
        for m in (None, mask):
            value, grad = run(loss, x, y, compiled, m, upstream=float(x.numel()))
            expected, expected_grad = oracle(loss, x, y, m, upstream=float(x.numel()))
            assert_value(value, expected, dtype)
            assert_vector(grad, expected_grad, dtype)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_a_million_and_one(mode, dtype, compiled):
    x = logits((1, SHAPES[mode][1], 1_000_001 if mode == "binary" else 333_337), dtype)
    y, loss = target(mode, x.shape, torch.uint8), build(f"{mode}:dice+focal")
    value, grad = run(loss, x, y, compiled, upstream=float(x.numel()))
    expected, expected_grad = oracle(loss, x, y, upstream=float(x.numel()))
    assert_value(value, expected, dtype)
    assert_vector(grad, expected_grad, dtype)


@pytest.mark.parametrize("name", ("dice", "dice-squared", "jaccard", "bce-sum"))
def test_half_sums_do_not_overflow(name, compiled):
    """512 x 512 ones sum to 262144, four times the largest float16."""
    x, y = torch.full((1, 1, 512, 512), 3.0, dtype=torch.float16), torch.ones(1, 1, 512, 512, dtype=torch.uint8)
    value, grad = run(build(f"binary:{name}"), x, y, compiled, upstream=1e4)
    expected, expected_grad = oracle(build(f"binary:{name}"), x, y, upstream=1e4)
    assert_value(value, expected, x.dtype, scale=1.0)
    assert grad.isfinite().all()
    assert (grad - expected_grad).abs().max() <= 2**-25 + 2**-11 * expected_grad.abs().max()  # subnormal at 1e4 / 512^2


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "sliced"))
@pytest.mark.parametrize("name", CORE)
def test_no_input_is_written(name, layout, backend):
    mode = LOSSES[name][0]
    inputs = [logits(SHAPES[mode], torch.float32, layout), target(mode, SHAPES[mode])]
    inputs += [torch.rand(inputs[0][:, 0].shape) < 0.5, torch.rand(inputs[0][:, 0].shape)]
    before = [t.clone() for t in inputs]
    x, y, mask, weight = inputs
    run(build(name, backend=backend) if LOSSES[name][2] else build(name), x, y, backend, mask, weight)
    build(name).with_stats(x, y, mask=mask, pixel_weight=weight)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before))


def test_fresh_memory_is_poisoned():
    """What conftest promises: NaN in what torch and the extension allocate, seen as the fill that writes it."""
    assert torch.empty(3).isnan().all()
    if not fl.backends.available()["cpu"]:
        x, y = logits((1, 1, 8, 8)).requires_grad_(), target("binary", (1, 1, 8, 8))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            fl.DiceLoss("binary", backend="cpu")(x, y)
        assert sum(event.count for event in profile.key_averages() if event.key == "aten::fill_") >= 3


@pytest.mark.skipif("cpu" not in BACKENDS, reason="of the CPU kernels")
@pytest.mark.parametrize("name", [n for n in LOSSES if LOSSES[n][0] == "multiclass" and LOSSES[n][2] is not None])
def test_an_ignored_label_that_does_not_occur_changes_no_bit(name):
    shape = (2, 3, 57, 61)  # more than one chunk a sample
    x, y = logits(shape), target("multiclass", shape)
    value, grad = run(build(name), x, y, "cpu")
    for settings, mask in (({"ignore_index": -100}, None), ({}, torch.ones_like(y, dtype=torch.bool))):
        found = run(build(name, **settings), x, y, "cpu", mask)
        assert torch.equal(found[0], value)
        assert torch.equal(found[1], grad)

"""Bits, limits and memory on a GPU: determinism, bad targets, more than 2^31 elements, what is allocated."""

import os

import pytest
import torch
from cases import CORE, LOSSES, MODES, build, crossentropy, logits, target
from tolerances import assert_value, assert_vector

import fastloss as fl

pytestmark = pytest.mark.gpu
CHANNELS = {"binary": 1, "multilabel": 3, "multiclass": 9}
# Below one block, within the chip, more than it holds.
SIZES = {"small": (1, 101, 103), "resident": (8, 511, 513), "large": (16, 2047, 1025)}
MEBI = 1 << 20


def inputs(mode, size, dtype=torch.float32):
    samples, *space = SIZES[size]
    shape = (samples if mode == "binary" else max(1, samples // CHANNELS[mode]), CHANNELS[mode], *space)
    return logits(shape, dtype).requires_grad_(), target(mode, shape, torch.uint8)


def both(loss, x, y):
    value = loss(x, y)
    return value, torch.autograd.grad(value, x)[0]


def allocated():
    """What is still held once autograd's thread has let go: it keeps a backward's results until after it has woken the
    caller, and a second backward comes behind that."""
    tiny = torch.zeros((), requires_grad=True)
    torch.autograd.grad(tiny * 2, tiny)
    torch.cuda.synchronize()
    del tiny
    return torch.cuda.memory_allocated()


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CORE)
def test_twenty_times_the_same_bits(name, size, dtype, card):
    """Also while other work fills the device, so that blocks run in another order."""
    loss, (x, y) = build(name), inputs(LOSSES[name][0], size, dtype)
    expected = both(loss, x, y)
    side, noise = torch.cuda.Stream(), torch.randn(1024, 1024)
    side.wait_stream(torch.cuda.current_stream())
    for i in range(20):
        if i % 2:
            with torch.cuda.stream(side):
                noise @ noise
        value, grad = both(loss, x, y)
        assert torch.equal(value, expected[0]) and torch.equal(grad, expected[1]), i
    torch.cuda.synchronize()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CORE)
def test_the_gradient_of_forward_and_that_of_backward_have_the_same_bits(name, size, card):
    loss, (x, y) = build(name), inputs(LOSSES[name][0], size)
    both(loss, x, y)
    ahead = both(loss, x, y)[1]
    value = loss(x, y)
    (again,) = torch.autograd.grad(value, x, torch.tensor(2.0))
    assert torch.equal(again, 2 * ahead)
    torch.autograd.grad(loss(x, y), x)
    plain = loss(x.detach(), y)
    assert torch.equal(plain, value.detach())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_one_bad_target_in_millions(mode, size, card):
    """NaN, an error under debug(), and no trace of it in the next call."""
    loss, (x, y) = build(f"{mode}:dice+focal"), inputs(mode, size)
    right = loss(x, y)
    where = y.numel() // 3
    kept = y.view(-1)[where].clone()
    for bad in (255, CHANNELS[mode] if mode == "multiclass" else 2):
        y.view(-1)[where] = bad
        assert loss(x, y).isnan() and build(f"{mode}:topk")(x, y).isnan()
        with fl.debug(), pytest.raises(ValueError, match="^y must"):
            loss(x, y)
        y.view(-1)[where] = kept
        assert torch.equal(loss(x, y), right)


def test_ids_far_out_of_range_are_not_read_through(card):
    """An id that would point gigabytes away; a fault would end the process."""
    x, y = inputs("multiclass", "small")
    for bad in (-1, 2**31, 2**40, -(2**62), 2**63 - 1):
        wide = y.long()
        wide.view(-1)[77] = bad
        for loss in (crossentropy("multiclass"), build("multiclass:dice+focal"), build("multiclass:topk")):
            value, _ = both(loss, x, wide)
            assert value.isnan()
    torch.cuda.synchronize()


@pytest.mark.parametrize("name", ("binary:dice+focal", "binary:topk-0.6", "multiclass:dice+focal"))
def test_more_elements_than_fit_31_bits(name, card):
    """Copies of one row: the mean is the row's, and every row has the same gradient."""
    mode = LOSSES[name][0]
    channels, width = 1 if mode == "binary" else 2, 32_800
    rows = 2**31 // (width * channels) + 3
    size = rows * width * channels
    if torch.cuda.mem_get_info()[0] < 12 * size:
        pytest.skip("needs more memory")
    row = (torch.randn(1, channels, 1, width) * 3).to(torch.bfloat16)
    label = torch.randint(0, 2, (1, 1, width) if mode == "multiclass" else (1, 1, 1, width), dtype=torch.uint8)
    x = row.expand(1, channels, rows, width).contiguous().requires_grad_()
    y = label.expand(*label.shape[:-2], rows, width).contiguous()
    assert x.numel() > 2**31
    loss = build(name)
    value, grad = both(lambda *given: loss(*given) * rows, x, y)
    few, few_grad = both(loss, row.requires_grad_(), label)
    assert_value(value / rows, few, torch.bfloat16, factor=50)  # top-k ends within an element of the row
    first = grad[:, :, :1]
    for line in (1, rows // 2, rows - 2, rows - 1):
        assert torch.equal(grad[:, :, line : line + 1], first)
    if "topk" not in name:
        assert_vector(first, few_grad, torch.bfloat16, factor=2)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("name", [*CORE, "binary:dice", "binary:topk", "multilabel:focal-1.5", "multiclass:ce"])
def test_the_peak_is_one_gradient(name, dtype, card):
    """Partial sums and the like beside it; a forward without gradient holds nothing of the logits' size."""
    mode = LOSSES[name][0]
    loss, (x, y) = build(name), inputs(mode, "large", dtype)
    both(loss, x, y)
    base = allocated()
    torch.cuda.reset_peak_memory_stats()
    both(loss, x, y)
    peak = torch.cuda.max_memory_allocated() - base
    pixel = x.numel() // x.shape[1] * 4  # README, Promises: multiclass sums may hold a number for each pixel
    assert peak <= x.nbytes + (pixel if mode == "multiclass" else 0) + 4 * MEBI
    assert allocated() - base <= MEBI
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        loss(x, y)
    assert torch.cuda.max_memory_allocated() - base <= (pixel if mode == "multiclass" else 0) + 4 * MEBI


@pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="other processes share the GPU")
def test_nothing_is_allocated_past_torch(card):
    x, y = inputs("binary", "large")
    losses = [build(f"binary:{name}") for name in ("dice+focal", "topk", "everything")]
    for loss in losses:
        both(loss, x, y)
    torch.cuda.synchronize()
    free, reserved = torch.cuda.mem_get_info()[0], torch.cuda.memory_reserved()
    for _ in range(20):
        for loss in losses:
            both(loss, x, y)
    torch.cuda.synchronize()
    assert free - torch.cuda.mem_get_info()[0] <= torch.cuda.memory_reserved() - reserved + MEBI


@pytest.mark.compile
@pytest.mark.parametrize("mode", ("default", "reduce-overhead"))
@pytest.mark.parametrize("name", [*(f"{m}:dice+focal" for m in MODES), "binary:iou+topk"])
def test_compiled_with_a_network(name, mode, card):
    """Inductor, and its CUDA graphs, around the op."""
    torch._dynamo.reset()
    kind = LOSSES[name][0]
    net, loss = torch.nn.Conv2d(2, CHANNELS[kind], 3, padding=1), build(name)
    image, y = torch.randn(2, 2, 48, 40), target(kind, (2, CHANNELS[kind], 48, 40), torch.uint8)
    eager = torch.autograd.grad(loss(net(image), y), list(net.parameters()))
    step = torch.compile(lambda image, y: loss(net(image), y), fullgraph=True, mode=mode)
    for _ in range(3):
        if mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        found = torch.autograd.grad(step(image, y), list(net.parameters()))
        for ours, wanted in zip(found, eager):
            assert_vector(ours, wanted, torch.float32, factor=100)  # the convolution's own rounding
    torch._dynamo.reset()

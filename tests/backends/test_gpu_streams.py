"""Streams and devices: work goes to the current stream of the tensors' device, and the host never waits."""

import time

import pytest
import torch
from cases import CORE, LOSSES, MODES, SHAPES, build, logits, target

import fastloss as fl

pytestmark = pytest.mark.gpu
LONG = 400_000_000  # cycles: about 0.2 s


def inputs(mode, size=(130, 67), dtype=torch.float32):
    shape = (*SHAPES[mode][:2], *size)
    return logits(shape, dtype).requires_grad_(), target(mode, shape, torch.uint8)


def both(loss, x, y):
    value = loss(x, y)
    return value, torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
@pytest.mark.parametrize("name", CORE)
def test_the_current_stream_is_waited_for(name, dtype, card):
    """The logits arrive late, on a side stream: whoever works on another one reads the old ones."""
    mode = LOSSES[name][0]
    x, y = inputs(mode, dtype=dtype)
    loss, late = build(name), logits(x.shape, dtype)
    expected = both(loss, late.clone().requires_grad_(), y)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(LONG // 4)
        with torch.no_grad():
            x.copy_(late)
        value, grad = both(loss, x, y)
    side.synchronize()
    assert torch.equal(value, expected[0]) and torch.equal(grad, expected[1])


@pytest.mark.parametrize("mode", MODES)
def test_streams_do_not_share_their_guess(mode, card):
    """Two streams with scales of their own, at the same time."""
    loss, (x, y) = build(f"{mode}:dice+focal"), inputs(mode)
    (plain,) = torch.autograd.grad(loss(x, y), x)
    torch.cuda.synchronize()
    streams, grads = [torch.cuda.Stream() for _ in range(2)], []
    for _ in range(10):
        for stream, scale in zip(streams, (1024.0, 4.0)):
            with torch.cuda.stream(stream):
                (grad,) = torch.autograd.grad(loss(x, y), x, torch.tensor(scale))
                grads.append((scale, grad))
    torch.cuda.synchronize()
    assert all(torch.equal(grad, plain * scale) for scale, grad in grads)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", [*CORE, "binary:topk", "multiclass:topk", "multiclass:dice-sample-skip"])
def test_the_host_never_waits(name, dtype, card):
    """Neither through torch nor past it: the device is busy, and the calls return all the same."""
    mode = LOSSES[name][0]
    loss, (x, y) = build(name), inputs(mode, dtype=dtype)
    for _ in range(3):
        both(loss, x, y)
        loss.with_stats(x, y)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(LONG)
        start = time.perf_counter()
        for scale in (1.0, 8.0):
            value = loss(x, y)
            torch.autograd.grad(value * scale, x)
        loss.with_stats(x, y)
        seconds = time.perf_counter() - start
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not torch.cuda.current_stream().query(), "the device was done before the host: nothing was shown"
    torch.cuda.synchronize()
    assert seconds < 0.1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", CORE)
def test_another_device_than_the_current_one(name, card):
    mode = LOSSES[name][0]
    loss, (x, y) = build(name), inputs(mode)
    value, grad = both(loss, x, y)
    far = both(build(name).to("cuda:1"), x.detach().to("cuda:1").requires_grad_(), y.to("cuda:1"))
    assert torch.cuda.current_device() == 0 and far[1].device == torch.device("cuda:1")
    torch.testing.assert_close(far[0].to("cuda:0"), value, rtol=1e-6, atol=0)
    torch.testing.assert_close(far[1].to("cuda:0"), grad, rtol=1e-5, atol=1e-9)
    with pytest.raises(ValueError, match="device"):
        loss(x, y.to("cuda:1"))


def test_memory_that_is_freed_early(card):
    """Inputs dropped while the device is still busy: what is written there next comes after the loss."""
    loss, (x, y) = fl.DiceLoss("binary"), inputs("binary", (512, 512))
    expected = both(loss, x, y)
    x = x.detach()
    for _ in range(5):
        torch.cuda._sleep(LONG // 20)
        found = both(loss, x.clone().requires_grad_(), y.clone())
        garbage = [torch.full_like(x, float("nan")) for _ in range(3)]
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
        del garbage

"""Mixed precision as trainers use it: autocast, GradScaler, gradients small enough to underflow, scales that change."""

import pytest
import torch
from cases import CORE, LOSSES, MODES, build, logits, oracle, run, target
from tolerances import assert_vector

import fastloss as fl

pytestmark = pytest.mark.gpu
CHANNELS = {"binary": 1, "multilabel": 3, "multiclass": 5}


def network(mode):
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, CHANNELS[mode], 1)
    )


def batch(mode, size=64):
    return torch.randn(2, 2, size, size), target(mode, (2, CHANNELS[mode], size, size), torch.uint8)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32), ids=str)
@pytest.mark.parametrize("name", CORE)
def test_training_steps(name, dtype, card):
    """The weights' gradients after unscaling are those of the same step in float32."""
    mode = LOSSES[name][0]
    net, loss, (image, y) = network(mode), build(name), batch(mode)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    for _ in range(3):
        optimizer.zero_grad()
        expected = torch.autograd.grad(loss(net(image), y), list(net.parameters()))
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            value = loss(net(image), y)
        assert value.dtype == torch.float32
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        limit = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float32: 1e-3}[dtype]
        for parameter, wanted in zip(net.parameters(), expected):
            assert (parameter.grad - wanted).norm() <= limit * wanted.norm() + 1e-7
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == (65536.0 if scaler.is_enabled() else 1.0)


@pytest.mark.parametrize("mode", MODES)
def test_no_gradient_underflows(mode, card):
    """Unscaled, half of these would be below float16; scaled before they are rounded, none more than must be."""
    shape = (2, CHANNELS[mode], 512, 512)
    x, y = logits(shape, torch.float16), target(mode, shape, torch.uint8)
    loss = build(f"{mode}:dice+focal")
    _, grad = run(loss, x, y, card, upstream=65536.0)
    _, expected = oracle(loss, x, y, upstream=65536.0)
    lost = ((grad == 0) & (expected.abs() > 2**-24)).sum()
    assert lost == 0
    size = expected.abs() > 2**-14  # the normal numbers
    assert_vector(grad[size], expected[size], torch.float16, factor=1.5)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("name", CORE)
def test_scales_that_change(name, dtype, card):
    """GradScaler's life: grow, overflow, back off. The gradient written ahead for another scale is never handed out."""
    mode = LOSSES[name][0]
    shape = (2, CHANNELS[mode], 61, 67)
    x, y = logits(shape, dtype).requires_grad_(), target(mode, shape, torch.uint8)
    loss = build(name)
    _, expected = oracle(loss, x, y)
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    for scale in (1024.0, 1024.0, 2048.0, 65536.0, 65536.0, 32768.0, 1024.0):
        scaler.scale(torch.ones(()))  # makes the scaler's tensor
        scaler.update(scale)
        (grad,) = torch.autograd.grad(scaler.scale(loss(x, y)), x)
        assert_vector(grad, expected * scale, dtype)


def test_an_overflow_is_seen_and_the_next_step_is_right(card):
    x, y = logits((1, 1, 64, 64)).requires_grad_(), target("binary", (1, 1, 64, 64))
    loss, scaler = fl.DiceLoss("binary"), torch.amp.GradScaler("cuda", init_scale=1024.0)
    optimizer = torch.optim.SGD([x], lr=1.0)
    before = x.detach().clone()
    (scaler.scale(loss(x, y)) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(x.detach(), before) and scaler.get_scale() == 512.0
    optimizer.zero_grad()
    scaler.scale(loss(x, y)).backward()
    assert_vector(x.grad, oracle(loss, x, y, upstream=512.0)[1], torch.float32)

"""Bits: the same from run to run, for any number of threads, and with or without gradient."""

import concurrent.futures
import os
import subprocess
import sys

import pytest
import torch
from cases import COMPILED, CORE, LOSSES, SHAPES, build, logits, run, target

import fastloss as fl

PIXELS = {"binary": 150_001, "multilabel": 50_003, "multiclass": 50_003}


def inputs(name, dtype):
    mode = LOSSES[name][0]
    shape = (3, SHAPES[mode][1], PIXELS[mode])
    return logits(shape, dtype), target(mode, shape, torch.uint8), torch.rand(shape[0], shape[2]) < 0.8


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", CORE)
def test_threads_change_no_bit(name, dtype, compiled):
    x, y, mask = inputs(name, dtype)
    loss = build(name)
    torch.set_num_threads(1)
    expected = run(loss, x, y, compiled, mask)
    for threads in (1, 2, 2, 3, 5):
        torch.set_num_threads(threads)
        value, grad = run(loss, x, y, compiled, mask)
        assert torch.equal(value, expected[0]) and torch.equal(grad, expected[1]), threads


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.float64), ids=str)
@pytest.mark.parametrize("name", CORE)
def test_the_loss_has_the_same_bits_with_and_without_gradient(name, dtype, compiled):
    mode = LOSSES[name][0]
    x, y = logits((2, SHAPES[mode][1], 777), dtype), target(mode, (2, SHAPES[mode][1], 777))
    with fl.backends.use(compiled):
        plain, graded = build(name)(x, y), build(name)(x.clone().requires_grad_(), y)
        counted, both = [build(name).with_stats(t, y)[0] for t in (x, x.clone().requires_grad_())]
    assert torch.equal(plain, graded.detach()) and torch.equal(counted, both.detach())


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", CORE)
def test_statistics_change_no_bit_of_the_gradient(name, dtype, compiled):
    mode = LOSSES[name][0]
    x, y = logits((1, SHAPES[mode][1], 2500), dtype).requires_grad_(), target(mode, (1, SHAPES[mode][1], 2500))
    with fl.backends.use(compiled):
        loss, grads = build(name), []
        for scale in (1.0, 1.0, 1024.0):  # written early, and late
            grads.append(torch.autograd.grad(loss(x, y), x, torch.tensor(scale))[0])
            grads.append(torch.autograd.grad(loss.with_stats(x, y)[0], x, torch.tensor(scale))[0])
    assert all(torch.equal(a, b) for a, b in zip(grads[::2], grads[1::2], strict=True))


@pytest.mark.skipif("cpu" not in COMPILED, reason="no extension")
def test_calls_at_the_same_time_share_the_helpers():
    """One call has the helping threads, the others work alone: no bit depends on which."""
    torch.set_num_threads(3)
    x, y, _ = inputs("multiclass:dice+focal", torch.float32)
    expected = run(build("multiclass:dice+focal"), x, y, "cpu")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(run, build("multiclass:dice+focal"), x, y, "cpu") for _ in range(12)]
        for call in calls:
            value, grad = call.result(timeout=120)
            assert torch.equal(value, expected[0]) and torch.equal(grad, expected[1])


FORKED = """
import os, torch, fastloss as fl
torch.set_num_threads(2)
x, y = torch.randn(4, 1, 512, 512), torch.randint(0, 2, (4, 1, 512, 512), dtype=torch.uint8)
loss = fl.DiceLoss("binary")
expected = loss(x, y)
child = os.fork()
if not child:
    os._exit(0 if torch.equal(loss(x, y), expected) else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif("cpu" not in COMPILED or not hasattr(os, "fork"), reason="no extension, or no fork")
def test_a_forked_process_has_helpers_of_its_own():
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=120)


CLASSES = [(name, 6144) for name in LOSSES if name in ("multiclass:ce", "multiclass:topk", "multiclass:iou+topk")]


@pytest.mark.parametrize("name,pixels", [(name, n) for name in CORE for n in (777, 800)] + CLASSES)
def test_hit_and_miss_of_the_predicted_scale_give_the_same_bits(name, pixels, compiled):
    """A gradient that was written in forward and one computed in backward, scaled by a power of two or not at all."""
    mode = LOSSES[name][0]
    x, y = logits((2, SHAPES[mode][1], pixels)).requires_grad_(), target(mode, (2, SHAPES[mode][1], pixels))
    with fl.backends.use(compiled):
        loss, grads = build(name), []
        for scale in (1.0, 1.0, 1024.0, 1024.0, 1.0):
            (grad,) = torch.autograd.grad(loss(x, y), x, torch.tensor(scale))
            grads.append(grad / scale)
    assert all(torch.equal(grads[0], grad) for grad in grads)

"""CUDA graphs: capture once, replay with other inputs, scales, weights and epochs."""

import pytest
import torch
from cases import CORE, LOSSES, MODES, SHAPES, build, crossentropy, logits, oracle, target
from tolerances import assert_value, assert_vector

import fastloss as fl

pytestmark = pytest.mark.gpu
NAMES = [*CORE, "binary:dice", "binary:topk", "multiclass:ce", "multilabel:focal-1.5", "multiclass:dice-sample-skip"]
NAMES += ["multiclass:topk", "multiclass:topk-0.6"]
HALF_TO_DOUBLE = (torch.float32, torch.float16, torch.bfloat16)
SIZES = {"few": (13, 11), "many": (517, 259)}


def inputs(mode, dtype=torch.float32, size=(13, 11)):
    shape = (*SHAPES[mode][:2], *size)
    return logits(shape, dtype).requires_grad_(), target(mode, shape, torch.uint8)


def refill(x, y, mode):
    """Other numbers at the same addresses."""
    with torch.no_grad():
        x.copy_(logits(x.shape, x.dtype))
        y.copy_(target(mode, x.shape, torch.uint8))


def capture(step):
    """The graph of a step, and its outputs, whose memory every replay writes."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    return graph, outputs


def both(loss, x, y, upstream=None):
    value = loss(x, y)
    return value, torch.autograd.grad(value, x, upstream)[0]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("dtype", HALF_TO_DOUBLE, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_other_inputs(name, dtype, size, card):
    """The bits of an eager call on the same numbers."""
    mode = LOSSES[name][0]
    loss, (x, y) = build(name), inputs(mode, dtype, size)
    graph, (value, grad) = capture(lambda: both(loss, x, y))
    for _ in range(3):
        refill(x, y, mode)
        graph.replay()
        expected, expected_grad = both(loss, x, y)
        assert torch.equal(value, expected) and torch.equal(grad, expected_grad)


@pytest.mark.parametrize("dtype", HALF_TO_DOUBLE, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_another_upstream_gradient(mode, dtype, card):
    """The first replay after a change meets a wrong guess, the next one a right one: both are right."""
    loss, (x, y) = build(f"{mode}:dice+focal"), inputs(mode, dtype)
    upstream = torch.tensor(1024.0)
    graph, (_, grad) = capture(lambda: both(loss, x, y, upstream))
    _, expected = oracle(loss, x, y)
    for scale in (1024.0, 65536.0, 65536.0, 2048.0, 4096.0, 1024.0):
        upstream.fill_(scale)
        graph.replay()
        assert_vector(grad, expected * scale, dtype)


@pytest.mark.parametrize("mode", MODES)
def test_other_weights(mode, card):
    weight, (x, y) = torch.tensor(1.0), inputs(mode)
    loss = weight * fl.DiceLoss(mode) + crossentropy(mode)
    graph, (value, grad) = capture(lambda: both(loss, x, y))
    for number in (1.0, 0.25, 0.0, -2.0):
        weight.fill_(number)
        graph.replay()
        expected, expected_grad = oracle(number * fl.DiceLoss(mode) + crossentropy(mode), x, y)
        assert_value(value, expected, torch.float32, scale=0.5)
        assert_vector(grad, expected_grad, torch.float32)


@pytest.mark.parametrize(
    "make", (fl.LossSchedule.linear, lambda *a: fl.LossSchedule.alternating(*a, 4)), ids=("linear", "alternating")
)
def test_other_epochs(make, card):
    x, y = inputs("binary")
    schedule = make(fl.DiceLoss("binary"), fl.BCEWithLogitsLoss(), 2, 18).to("cuda")
    graph, (value, grad) = capture(lambda: both(schedule, x, y))
    values = []
    for epoch in (0, 5, 11, 17, 30):
        schedule.step(epoch)
        graph.replay()
        expected, expected_grad = both(schedule, x, y)
        assert torch.equal(value, expected) and torch.equal(grad, expected_grad)
        values.append(value.item())
    assert values[0] != values[1] != values[-1]


@pytest.mark.parametrize("mode", MODES)
def test_statistics(mode, card):
    loss, (x, y) = build(f"{mode}:dice+focal"), inputs(mode)
    graph, (_, stats) = capture(lambda: loss.with_stats(x, y))
    for _ in range(2):
        refill(x, y, mode)
        graph.replay()
        _, expected = loss.with_stats(x, y)
        assert torch.equal(stats.counts, expected.counts)
        assert all(torch.equal(stats.terms[k], expected.terms[k]) for k in expected.terms)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_a_training_step_under_autocast(dtype, card):
    """Network, loss and backward in one graph, under a scale that changes."""
    net, scale = torch.nn.Conv2d(2, 3, 3, padding=1), torch.tensor(1024.0)
    image, y = torch.randn(2, 2, 33, 31), target("multiclass", (2, 3, 33, 31))
    loss = build("multiclass:dice+focal")

    def step():
        with torch.autocast("cuda", dtype):
            logits = net(image)
            value = loss(logits, y) * scale
        return value, torch.autograd.grad(value, list(net.parameters()))

    graph, (value, grads) = capture(step)
    for number in (1024.0, 4096.0, 4096.0):
        scale.fill_(number)
        with torch.no_grad():
            image.normal_()
        graph.replay()
        expected, expected_grads = step()
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
        for ours, eager in zip(grads, expected_grads):
            assert ours.isfinite().all() and (ours - eager).norm() <= 2e-2 * eager.norm()


def test_make_graphed_callables(card):
    """torch's own wrapper, which captures forward and backward apart."""

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.loss = torch.nn.Conv2d(2, 1, 3, padding=1), build("binary:dice+focal")

        def forward(self, image, y):
            return self.loss(self.net(image), y)

    step, image, y = Step(), torch.randn(2, 2, 33, 31), target("binary", (2, 1, 33, 31)).float()
    plain = torch.autograd.grad(step(image, y), list(step.parameters()))
    graphed = torch.cuda.make_graphed_callables(step, (image, y))
    for _ in range(2):
        found = torch.autograd.grad(graphed(image, y), list(step.parameters()))
        for ours, eager in zip(found, plain):
            assert_vector(ours, eager, torch.float32, factor=10)

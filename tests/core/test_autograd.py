"""Autograd: any upstream gradient, any number of backwards, sums with other losses, and never a second derivative."""

import copy

import pytest
import torch
from cases import CORE, DTYPES, LOSSES, MODES, SHAPES, build, logits, oracle, run, target
from tolerances import assert_value, assert_vector
from torch.utils.checkpoint import checkpoint

import fastloss as fl

UPSTREAMS = (1.0, 1.0, 65536.0, 65536.0, 0.25, -3.0, 0.0, 1.0)


def inputs(name, dtype=torch.float32):
    mode = LOSSES[name][0]
    return logits(SHAPES[mode], dtype).requires_grad_(), target(mode, SHAPES[mode])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CORE)
def test_upstream_gradient(name, dtype, backend):
    """A scaled loss (AMP, accumulation), whatever scale was seen before."""
    x, y = inputs(name, dtype)
    loss = build(name)
    _, expected = oracle(loss, x, y)
    with fl.backends.use(backend):
        for scale in UPSTREAMS:
            scale = scale * 1000 if dtype == torch.float16 and scale != 65536.0 else scale
            (grad,) = torch.autograd.grad(loss(x, y) * scale, x)
            assert_vector(grad, expected * scale, dtype)
            (grad,) = torch.autograd.grad(loss(x, y), x, torch.tensor(scale, dtype=loss(x, y).dtype))
            assert_vector(grad, expected * scale, dtype)


def test_scaled_half_gradients_are_not_flushed(compiled):
    """1 / N of 1024 x 1024 pixels is below float16; 65536 / N is not, if the scale comes before the rounding."""
    x, y = logits((1, 1, 1024, 1024), torch.float16), target("binary", (1, 1, 1024, 1024), torch.bool)
    _, grad = run(fl.BCEWithLogitsLoss(), x, y, compiled, upstream=65536.0)
    _, expected = oracle(fl.BCEWithLogitsLoss(), x, y, upstream=65536.0)
    assert_vector(grad, expected, torch.float16, factor=1.5)


@pytest.mark.parametrize("bad", (float("nan"), float("inf")), ids=str)
def test_a_bad_upstream_gradient_does_not_stay(bad, compiled):
    x, y = inputs(CORE[0])
    loss = build(CORE[0])
    _, expected = oracle(loss, x, y)
    with fl.backends.use(compiled):
        for scale in (bad, 1.0, 1.0, bad, bad, 2.0):
            (grad,) = torch.autograd.grad(loss(x, y) * scale, x)
            if scale != bad and scale == scale:
                assert_vector(grad, expected * scale, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CORE)
def test_retained_graph(name, dtype, compiled):
    """A second backward gives the same bits, even if the first gradient was written over."""
    x, y = inputs(name, dtype)
    with fl.backends.use(compiled):
        value = build(name)(x, y)
        (first,) = torch.autograd.grad(value, x, retain_graph=True)
        kept = first.clone()
        first.fill_(7.0)
        (second,) = torch.autograd.grad(value, x, retain_graph=True)
        assert torch.equal(second, kept) and second.data_ptr() != first.data_ptr()
        (third,) = torch.autograd.grad(value * 2, x, retain_graph=True)
        assert torch.equal(third, kept * 2) or dtype in (torch.float16, torch.bfloat16)
        value.backward(retain_graph=True)
        value.backward()
        assert_vector(x.grad, 2 * kept, dtype)
        with pytest.raises(RuntimeError, match="second time"):
            value.backward()


@pytest.mark.parametrize("name", CORE)
def test_a_term_of_a_larger_sum(name, compiled):
    """With another fused loss on the same logits, a plain one, and a regulariser."""
    x, y = inputs(name, torch.float64)
    mode = LOSSES[name][0]
    other = fl.FocalLoss(mode, gamma=1.0)

    def total(x, backend):
        with fl.backends.use(backend):
            ours = 3 * build(name)(x, y) + build(name)(2 * x, y) / 4 + other(x, y)
            return ours + 0.1 * x.square().mean() + x.tanh().sum()

    grads = [torch.autograd.grad(total(x, backend), x)[0] for backend in (compiled, "reference")]
    assert_vector(*grads, torch.float64)


@pytest.mark.parametrize("name", CORE)
def test_logits_that_a_network_made(name, compiled):
    mode = LOSSES[name][0]
    net = torch.nn.Conv2d(2, SHAPES[mode][1], 3, padding=1)
    image, y = torch.randn(4, 2, 13, 11), target(mode, SHAPES[mode])
    grads = []
    for backend in (compiled, "reference"):
        net.zero_grad()
        with fl.backends.use(backend):
            build(name)(net(image), y).backward()
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert_vector(*grads, torch.float32, factor=10)
    with fl.backends.use(compiled):
        net.zero_grad()
        checkpoint(lambda i: build(name)(net(i), y), image, use_reentrant=False).backward()
    assert_vector(torch.cat([p.grad.flatten() for p in net.parameters()]), grads[0], torch.float32)


def second_derivatives(x, y, loss):
    """Ways to ask for one."""

    def alone():
        (grad,) = torch.autograd.grad(loss(x, y), x, create_graph=True)
        grad.sum().backward()

    def in_a_sum():
        (grad,) = torch.autograd.grad(loss(x, y) + x.square().sum(), x, create_graph=True)
        torch.autograd.grad(grad.square().sum(), x)

    def penalty():
        value = loss(x, y) * 2 + x.sigmoid().sum()
        (grad,) = torch.autograd.grad(value, x, create_graph=True)
        (value + grad.norm()).backward()

    def by_backward():
        (loss(x, y) + x.exp().sum()).backward(create_graph=True)
        x.grad.sum().backward()

    return alone, in_a_sum, penalty, by_backward


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("name", CORE)
def test_double_backward_raises(name, which, dtype, compiled):
    x, y = inputs(name, dtype)
    with fl.backends.use(compiled), pytest.raises(RuntimeError, match="fastloss.*double backward.*reference"):
        second_derivatives(x, y, build(name))[which]()
    with fl.backends.use("reference"):
        x.grad = None
        if "everything" not in name:
            second_derivatives(x, y, build(name))[which]()


@pytest.mark.parametrize("mode", MODES)
def test_double_backward_raises_on_the_generic_paths(mode, compiled):
    x, y = inputs(f"{mode}:dice")
    weight = torch.tensor(1.0, requires_grad=True)
    none = (fl.CrossEntropyLoss if mode == "multiclass" else fl.BCEWithLogitsLoss)(reduction="none", mode=mode)
    with fl.backends.use(compiled):
        for value in ((weight * fl.DiceLoss(mode))(x, y), none(x, y).sum()):
            (grad,) = torch.autograd.grad(value + x.square().sum(), x, create_graph=True)
            with pytest.raises(RuntimeError, match="fastloss.*double backward"):
                grad.sum().backward()


@pytest.mark.parametrize("name", CORE)
def test_a_first_derivative_with_create_graph_is_right(name, compiled):
    x, y = inputs(name)
    with fl.backends.use(compiled):
        plain, graphed = [torch.autograd.grad(build(name)(x, y), x, create_graph=g)[0].detach() for g in (False, True)]
    assert torch.equal(plain, graphed)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
def test_logits_changed_in_place(dtype, compiled):
    """The gradient of the value that was computed, or torch's error about it; never that of other numbers."""
    leaf, y = inputs(CORE[0], dtype)
    with fl.backends.use(compiled):
        expected = torch.autograd.grad(build(CORE[0])(leaf, y), leaf)[0]
        x = leaf * 1
        value = build(CORE[0])(x, y)
        with torch.no_grad():
            x.zero_()
        try:
            grad = torch.autograd.grad(value, leaf, retain_graph=True)[0]
        except RuntimeError as error:
            assert "inplace" in str(error)
        else:
            assert torch.equal(grad, expected)
            with pytest.raises(RuntimeError, match="inplace"):
                torch.autograd.grad(value, leaf)


def test_no_gradient_asked_for(compiled):
    x, y = inputs(CORE[0])
    loss = build(CORE[0])
    with fl.backends.use(compiled):
        assert not loss(x.detach(), y).requires_grad
        with torch.no_grad():
            assert not loss(x, y).requires_grad
        with torch.inference_mode():
            loss(x.detach() * 1, y)
        frozen, stats = loss.with_stats(x, y)
    assert frozen.requires_grad and not any(v.requires_grad for v in stats.terms.values())


@pytest.mark.parametrize("name", CORE)
def test_autocast(name, compiled):
    x, y = inputs(name)
    with fl.backends.use(compiled), torch.autocast(x.device.type, torch.bfloat16):
        low = torch.nn.functional.conv2d(x, torch.eye(x.shape[1])[..., None, None])
        value = build(name)(low, y)
    expected, _ = oracle(build(name), low, y)
    assert low.dtype == torch.bfloat16 and value.dtype == torch.float32
    assert_value(value, expected, torch.bfloat16)
    value.backward()
    assert x.grad.dtype == torch.float32 and x.grad.isfinite().all()


@pytest.mark.parametrize("name", CORE)
def test_functorch(name, compiled):
    """torch.func runs through the reference."""
    x, y = inputs(name)
    x = x.detach()
    expected, expected_grad = oracle(build(name), x, y)
    with fl.backends.use(compiled):
        grad, value = torch.func.grad_and_value(build(name))(x, y)
        assert_value(value, expected, torch.float32, scale=0.1)
        assert_vector(grad, expected_grad, torch.float32)
        batched = torch.func.vmap(torch.func.grad(build(name)), (0, None))(torch.stack([x, x / 2]), y)
    assert_vector(batched[0], expected_grad, torch.float32)
    assert_vector(batched[1], oracle(build(name), x / 2, y)[1], torch.float32)


@pytest.mark.parametrize("name", CORE)
def test_a_copy_of_a_loss_and_of_its_graphless_value(name, compiled):
    x, y = inputs(name)
    with fl.backends.use(compiled):
        a, b = [loss(x, y) for loss in (build(name), copy.deepcopy(build(name)))]
    assert torch.equal(a, b)

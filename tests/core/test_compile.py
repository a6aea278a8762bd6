"""torch.compile(fullgraph=True, dynamic=True): equal values and gradients, and no recompilation where none is due."""

import threading

import pytest
import torch
from cases import LOSSES, MODES, SHAPES, build, crossentropy, logits, oracle, target
from tolerances import assert_value, assert_vector
from torch._dynamo.testing import CompileCounterWithBackend

import fastloss as fl
from fastloss import functional
from fastloss.compat.torch import sigmoid_focal_loss

pytestmark = pytest.mark.compile
NAMES = [f"{m}:{n}" for m in MODES for n in ("dice", "focal-1.5", "topk", "everything", "mcc+focal")]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compile(function, backend="aot_eager"):
    """The compiled function, and a counter of its compilations (two for the first call: dynamo first takes Python's
    floats as dynamic, then starts again with constants)."""
    counter = CompileCounterWithBackend(backend)
    return torch.compile(function, fullgraph=True, dynamic=True, backend=counter), counter


def inputs(mode, size=(13, 11), samples=4, dtype=torch.float32):
    shape = (samples, SHAPES[mode][1], *size)
    return logits(shape, dtype).requires_grad_(), target(mode, shape)


def check(compiled_loss, loss, x, y, *extra):
    value = compiled_loss(x, y, *extra)
    (grad,) = torch.autograd.grad(value, x)
    expected, expected_grad = oracle(loss, x, y, *extra)
    assert_value(value, expected, x.dtype, scale=0.1)
    assert_vector(grad, expected_grad, x.dtype)


@pytest.mark.parametrize("name", NAMES)
def test_dynamic_shapes(name, compiled):
    mode = LOSSES[name][0]
    with fl.backends.use(compiled):
        loss, counter = compile(build(name))
        check(loss, build(name), *inputs(mode))
        compilations = counter.frame_count
        for size, samples in (((9, 20), 3), ((31, 7), 5)):
            check(loss, build(name), *inputs(mode, size, samples))
        assert counter.frame_count == compilations
        x, y = inputs(mode)
        check(loss, build(name), x, y, torch.rand(x[:, 0].shape) < 0.5, torch.rand(x[:, 0].shape))


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float64), ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_other_dtypes_and_layouts(mode, dtype, compiled):
    with fl.backends.use(compiled):
        loss, _ = compile(build(f"{mode}:dice+focal"))
        x, y = inputs(mode, dtype=dtype)
        upstream = 1000.0
        for given in (x, x.detach().transpose(-1, -2).contiguous().transpose(-1, -2).requires_grad_()):
            (grad,) = torch.autograd.grad(loss(given, y) * upstream, given)
            assert_vector(grad, oracle(build(f"{mode}:dice+focal"), given, y, upstream=upstream)[1], dtype)


@pytest.mark.parametrize("mode", MODES)
def test_inductor_and_a_network_around_it(mode, compiled):
    """With the compiler that users run, in a training step of a convolution."""
    net = torch.nn.Conv2d(2, SHAPES[mode][1], 3, padding=1)
    loss, image = build(f"{mode}:dice+focal"), torch.randn(4, 2, 13, 11)
    y = inputs(mode)[1]

    def step(image, y):
        return loss(net(image), y) + 1e-3 * net.weight.square().sum()

    fast, _ = compile(step, "inductor")
    grads = []
    with fl.backends.use(compiled):
        for run in (fast, step):
            net.zero_grad()
            run(image, y).backward()
            grads.append(net.weight.grad.clone())
    assert_vector(*grads, torch.float32, factor=10)


@pytest.mark.parametrize("mode", MODES)
def test_elementwise(mode, compiled):
    with fl.backends.use(compiled):
        plain = crossentropy(mode, reduction="none")
        loss, _ = compile(lambda x, y: plain(x, y).square().mean())
        x, y = inputs(mode)
        (grad,) = torch.autograd.grad(loss(x, y), x)
        (expected,) = torch.autograd.grad(plain(x, y).square().mean(), x)
        assert_vector(grad, expected, torch.float32, factor=3)


def test_functional_form_and_statistics(compiled):
    x, y = inputs("binary")
    with fl.backends.use(compiled):
        dice, _ = compile(lambda x, y: functional.dice_loss(x, y, smooth=1.0))
        assert_value(dice(x, y), functional.dice_loss(x, y, smooth=1.0), torch.float32)
        criterion = fl.DiceLoss("binary") + fl.FocalLoss("binary")

        def with_stats(x, y):
            loss, stats = criterion.with_stats(x, y)
            return loss, stats.counts, stats.terms

        loss, counts, terms = compile(with_stats)[0](x, y)
        expected, stats = criterion.with_stats(x, y)
        assert_value(loss, expected, torch.float32)
        assert torch.equal(counts, stats.counts) and torch.equal(terms["dice"], stats.terms["dice"])
        loss.backward()
        assert x.grad.isfinite().all()


FORMS = {
    "topk": lambda x, y: functional.topk_loss(x, y, "multiclass", k=0.29),
    "ce": lambda x, y: functional.cross_entropy_loss(x, y, class_weights=[1.0, 2.0, 0.5], label_smoothing=0.1),
    "focal": lambda x, y: functional.focal_loss(x, y, "multiclass", gamma=1.5, alpha=[0.1, 0.2, 0.3]),
    "tversky": lambda x, y: functional.tversky_loss(x, y, "multiclass", alpha=0.3, beta=0.7, gamma=1.5),
    "iou": lambda x, y: functional.iou_loss(x, y, "multiclass", classes=[0, 2], batch=False, empty="skip"),
    "made inside": lambda x, y: (fl.DiceLoss("multiclass") + 0.5 * fl.TopKLoss("multiclass", k=0.2))(x, y),
    "deep supervision": lambda x, y: fl.DeepSupervisionLoss(fl.DiceLoss("multiclass"))([x, x[..., ::2, ::2]], y),
    "torchvision": lambda x, y: sigmoid_focal_loss(x, (y[:, None] == 1).expand(x.shape).float(), reduction="mean"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_losses_that_a_compiled_function_makes(form, compiled):
    x, y = inputs("multiclass", (12, 10))
    with fl.backends.use(compiled):
        (grad,) = torch.autograd.grad(compile(form)[0](x, y), x)
        (expected,) = torch.autograd.grad(form(x, y), x)
    assert_vector(grad, expected, torch.float32)


def test_the_chosen_backend_is_guarded(compiled):
    """A compiled loss follows `backends.use`, each thread its own."""
    loss, counter = compile(fl.DiceLoss("binary"))
    x, y = inputs("binary")
    found = []

    def call():
        loss(x, y)
        found.append(counter.frame_count)

    with fl.backends.use(compiled):
        call()
        with fl.backends.use("reference"):
            call()
            thread = threading.Thread(target=call)  # where the device decides
            thread.start()
            thread.join()
            call()
        call()
    before, other, elsewhere, *again = found
    assert before < other <= elsewhere
    assert again == [elsewhere] * 2


@pytest.mark.parametrize("mode", MODES)
def test_a_schedule_does_not_recompile(mode, compiled):
    """20 epochs of a blend: its weights are tensors, so that nothing in the graph changes."""
    schedule = fl.LossSchedule.linear(fl.DiceLoss(mode), crossentropy(mode), 2, 18)
    with fl.backends.use(compiled):
        loss, counter = compile(schedule)
        x, y = inputs(mode)
        check(loss, schedule, x, y)
        compilations = counter.frame_count
        for epoch in range(20):
            schedule.step(epoch)
            check(loss, schedule, x, y)
    assert counter.frame_count == compilations


def test_an_abrupt_schedule_compiles_once_a_stage(compiled):
    schedule = fl.LossSchedule([(0, fl.DiceLoss("binary")), (2, fl.BCEWithLogitsLoss())])
    with fl.backends.use(compiled):
        loss, counter = compile(schedule)
        x, y = inputs("binary")
        counts = []
        for epoch in range(6):
            schedule.step(epoch)
            check(loss, schedule, x, y)
            counts.append(counter.frame_count)
    assert counts[0] == counts[1] < counts[2] == counts[-1]


def test_a_weight_that_learns(compiled):
    """Uncertainty weighting: the generic path, compiled."""
    weight = torch.nn.Parameter(torch.tensor(0.7))
    criterion = weight * fl.DiceLoss("binary") + fl.BCEWithLogitsLoss()
    x, y = inputs("binary")
    with fl.backends.use(compiled):
        loss, _ = compile(criterion)
        grads = [torch.autograd.grad(f(x, y), (x, weight)) for f in (loss, criterion)]
    assert_vector(grads[0][0], grads[1][0], torch.float32)
    assert_value(grads[0][1], grads[1][1], torch.float32)


def test_bad_input_raises_under_compile(compiled):
    x, y = inputs("binary")
    with fl.backends.use(compiled):
        loss, _ = compile(fl.DiceLoss("binary"))
        with pytest.raises(Exception, match="y must have the shape"):
            loss(x, y[..., :-1])
        with pytest.raises((ValueError, RuntimeError), match="y must"):
            loss(x, torch.full_like(y, 255))


def test_double_backward_raises_under_compile(compiled):
    x, y = inputs("binary")
    with fl.backends.use(compiled):
        loss, _ = compile(fl.DiceLoss("binary"))
        with pytest.raises(RuntimeError, match="double backward|create_graph"):
            (grad,) = torch.autograd.grad(loss(x, y) + x.square().sum(), x, create_graph=True)
            grad.sum().backward()

"""The host's side of the Triton backend, on a card that is not there: how many kernels a call starts, that each is the
one that Triton itself would choose, and what it costs."""

import contextlib
import time

import pytest
import torch
from cases import DEVICES, LOSSES, build, logits, target

pytest.importorskip("triton")
if DEVICES["triton"] != "cuda":
    pytest.skip("the interpreter starts nothing", allow_module_level=True)

import no_gpu
from triton import knobs

import fastloss as fl
from fastloss.spec import WANT_COUNTS, WANT_GRAD
from fastloss.triton import call, launch, ops


@pytest.fixture
def card():
    with no_gpu.card() as made, fl.backends.use("triton"):
        yield made


def step(loss, x, y, *extra):
    x = x.detach().requires_grad_()
    loss(x, y, *extra).backward()


SHAPES = {"binary": (2, 1, 40, 30), "multilabel": (2, 3, 20, 30), "multiclass": (2, 4, 20, 30)}
PASSES = {"binary": "sigmoid_pass", "multilabel": "sigmoid_pass", "multiclass": "softmax_pass"}
COUNTS = [  # loss, launches of forward after the pass, whether it is masked
    ("binary:dice", False),
    ("binary:dice+focal", False),
    ("binary:dice-sample-skip", True),
    ("multilabel:dice+focal", True),
    ("multiclass:tversky+crossentropy", False),
    ("binary:bce", False),
    ("binary:bce", True),
    ("binary:focal-2.0", False),
    ("multiclass:ce", False),
    ("multiclass:ce", True),
]


@pytest.mark.parametrize("name,masked", COUNTS)
def test_three_launches(name, masked, card):
    """Sums, finish, gradient; of pointwise terms sums and gradient at once, finish, and the look at grad_output."""
    mode = LOSSES[name][0]
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode])
    extra = (torch.rand(x[:, 0].shape) < 0.6,) if masked else ()
    for _ in range(2):
        card.started.clear()
        step(build(name), x, y, *extra)
        assert [name for name, *_ in card.started] == [PASSES[mode], "finish", PASSES[mode]]


def views(shape, dtype):
    """Tensors of that shape that Triton compiles for differently: alignment, strides, sizes."""
    count = torch.Size(shape).numel()
    room = torch.zeros(2 * count + 64, dtype=dtype)
    yield room[:count].view(shape)
    yield room[16:][:count].view(shape)
    yield room[1:][:count].view(shape)  # not at a multiple of 16 bytes
    yield room[: 2 * count : 2].view(shape)
    yield room[:count].view(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2)
    yield torch.zeros(*shape[:-1], shape[-1] + 1, dtype=dtype)[..., 1:]
    yield torch.zeros(1, dtype=dtype).expand(shape)


def odd_inputs():
    """(loss, logits, labels, mask, pixel weights)"""
    for mode, name in (("binary", "binary:dice+focal"), ("multiclass", "multiclass:tversky+crossentropy")):
        for size in ((4, 4), (16, 16), (5, 7), (1, 1), (1, 16), (16, 1), (33, 48)):
            for batch, channels in ((1, 1), (2, 1), (16, 1)) if mode == "binary" else ((1, 2), (2, 16), (3, 5)):
                shape = (batch, channels, *size)
                flat = shape if mode == "binary" else (batch, *size)
                labels = torch.zeros(flat, dtype=torch.int64)
                yield build(name), torch.zeros(shape), labels, None, None
        shape = SHAPES[mode]
        flat = (shape[0], *shape[2:])
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            for x in views(shape, dtype):
                yield build(name), x, torch.zeros(shape if mode == "binary" else flat, dtype=torch.uint8), None, None
        for dtype in (torch.uint8, torch.int32, torch.int64, torch.bool):
            for y in views(shape if mode == "binary" else flat, dtype):
                yield build(name), torch.zeros(shape), y, None, None
        y = torch.zeros(shape if mode == "binary" else flat, dtype=torch.uint8)
        for mask in views(flat, torch.bool):
            yield build(name), torch.zeros(shape), y, mask, None
        for dtype in (torch.float32, torch.float16):
            for weight in views(flat, dtype):
                yield build(name), torch.zeros(shape), y, None, weight
    for name in (
        "binary:topk",
        "multiclass:topk",
        "binary:bce",
        "multiclass:ce",
        "binary:tensors",
        "multiclass:tensors",
    ):
        mode = LOSSES[name][0]
        yield build(name), torch.zeros(SHAPES[mode]), target(mode, SHAPES[mode]), None, None


def started(card, loss, *inputs):
    """What forward with gradient and statistics, and backward, start: kernels by number and their arguments."""
    card.started.clear()
    x, y, mask, weight = inputs
    ints, floats = loss.spec.encode(x.shape[1])
    grad = torch.zeros(3)
    for scalar in (grad[0], grad[1], grad[2].double()):  # aligned, not aligned, of another type
        weights = [scalar] * sum([term.weight_index >= 0 for term in loss.spec.terms])
        _, state, _ = ops.loss(x, y, mask, weight, weights, ints, floats, WANT_COUNTS | WANT_GRAD, 0.5, 1.0)
        ops.backward(scalar, state, x, y, mask, weight, ints, floats)
    return [(*entry[:4], entry[5], plain(entry[10:])) for entry in card.started]


def plain(arguments):
    return [
        plain(a) if isinstance(a, tuple) else (a.dtype, a.shape, a.stride()) if isinstance(a, torch.Tensor) else a
        for a in arguments
    ]


def test_each_kernel_is_the_one_that_triton_chooses(card, monkeypatch):
    """Known launches start what Triton's own look at the arguments would find, whatever was started before."""
    table = list(odd_inputs())
    for given in table:
        started(card, *given)
    monkeypatch.setattr(launch, "start", refused)
    known = [started(card, *given) for given in table]
    monkeypatch.undo()
    call._calls.cache_clear()
    monkeypatch.setattr(launch, "DIRECT", False)
    for given, quick in zip(table, known):
        assert quick == started(card, *given), given
    assert len({entry[4] for entries in known for entry in entries}) > 100


def refused(*_):
    raise AssertionError("a known launch took the ordinary way")


def test_what_is_called_by_name_and_device_is_kept_apart(card):
    """Calls on another device are others, and inputs on two devices are refused."""
    spec = ops.kernel_spec_of(*map(tuple, build("binary:dice").spec.encode(1)))
    x, y = torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert call.call_of(spec, x, y) is call.call_of(spec, x + 1, y)
    assert call.call_of(spec, x.to("meta"), y.to("meta")) is not call.call_of(spec, x, y)
    with pytest.raises(ValueError, match="different devices"):
        call.call_of(spec, x, y.to("meta"))


def test_launches_go_to_the_device_and_stream_of_the_logits(card, monkeypatch):
    entered = []

    @contextlib.contextmanager
    def device(where):
        entered.append(where)
        monkeypatch.setattr(ops, "elsewhere", lambda where: False)
        yield

    loss, x, y = build("binary:dice"), logits(SHAPES["binary"]), target("binary", SHAPES["binary"])
    step(loss, x, y)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(ops, "elsewhere", lambda where: True)
    monkeypatch.setattr(ops, "stream_of", lambda where: 77)
    card.started.clear()
    loss(x, y)
    assert entered == [x.device] and [entry[4] for entry in card.started] == [77, 77]


def test_hooks_see_every_launch(card):
    """A profiler's hooks are given to the launcher, with what Triton says of the launch; without any there are none."""
    loss, x, y = build("multiclass:ce"), logits(SHAPES["multiclass"]), target("multiclass", SHAPES["multiclass"])
    step(loss, x, y)
    hooks = knobs.runtime.launch_enter_hook
    for hooked in (True, False):
        card.started.clear()
        if hooked:
            hooks.add(print)
        try:
            step(loss, x, y)
        finally:
            hooks.remove(print)
        assert len(card.started) == 3
        for _, *_, metadata, enter, leave in [entry[:10] for entry in card.started]:
            assert (metadata is not None and enter is hooks) if hooked else metadata is enter is leave is None


def test_an_unknown_triton_is_asked_each_time(card, monkeypatch):
    """Where nobody has looked at Triton's launcher, its `run` does it all."""
    asked, ordinary = [], launch.start
    monkeypatch.setattr(launch, "start", lambda kernel, *rest: asked.append(kernel) or ordinary(kernel, *rest))
    loss, x, y = build("binary:dice"), logits(SHAPES["binary"]), target("binary", SHAPES["binary"])
    for direct, expected in ((False, (3, 3)), (True, (3, 0))):
        monkeypatch.setattr(launch, "DIRECT", direct)
        call._calls.cache_clear()
        for count in expected:
            asked.clear()
            step(loss, x, y)
            assert len(asked) == count


def test_the_profiler_sees_the_op(card):
    """Outside of a profiler the dispatcher, which knows no kernel of this backend for the CPU, is passed by."""
    loss, x, y = build("binary:dice"), logits(SHAPES["binary"]), target("binary", SHAPES["binary"])
    loss(x, y)
    with torch.profiler.profile(), pytest.raises(NotImplementedError, match="fastloss_triton::loss"):
        loss(x, y)


BUDGET = 1.75  # times the C++ backend's call on 16 pixels: autograd's and the dispatcher's time, and hardly any other


@pytest.mark.skipif(fl.backends.available()["cpu"] is not None, reason="the extension is the yardstick")
@pytest.mark.parametrize("name", ("binary:dice", "binary:bce", "multiclass:tversky+crossentropy"))
def test_host_time(name, card):
    """Forward and backward of a known spec and shape, all of Python's and PyTorch's work included."""
    mode, loss = LOSSES[name][0], build(name)
    shape = (1, SHAPES[mode][1], 4, 4)
    x, y = logits(shape).requires_grad_(), target(mode, shape)
    card.noting = False

    def once(backend):
        x.grad = None
        with fl.backends.use(backend):
            loss(x, y).backward()

    best = {"triton": float("inf"), "cpu": float("inf")}
    for _ in range(150):
        for backend in best:
            once(backend)
            begin = time.thread_time_ns()
            for _ in range(5):
                once(backend)
            best[backend] = min(best[backend], (time.thread_time_ns() - begin) / 5e3)
    print(f"{name}: {best} us")
    assert best["triton"] <= BUDGET * best["cpu"], best

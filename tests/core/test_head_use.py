"""HeadLoss in use: autograd, compiling, statistics, memory, state, fallbacks, bad input."""

import pickle
from copy import deepcopy

import pytest
import torch
from cases import LOSSES, SHAPES, build
from heads import BAND, FEATURES, head, inputs, unfused
from test_memory import allocations
from tolerances import assert_value, assert_vector
from torch import nn

import fastloss as fl


def test_a_frozen_head_and_frozen_features(compiled):
    x, y = inputs("multiclass")
    layer, criterion = head("multiclass"), build("multiclass:ce")
    _, (dx, dw, db) = unfused(criterion, layer, x, y)
    with fl.backends.use(compiled):
        loss = fl.HeadLoss(layer, criterion, band_bytes=BAND)
        loss(x.detach(), y).backward()
        assert_vector(layer.weight.grad, dw, torch.float32, factor=4)
        assert_vector(layer.bias.grad, db, torch.float32, factor=4)
        layer.requires_grad_(False)
        (ours,) = torch.autograd.grad(loss(x, y), x)
        assert_vector(ours, dx, torch.float32, factor=4)
        assert not loss(x.detach(), y).requires_grad


@pytest.mark.parametrize("name", ("multiclass:ce", "multiclass:dice+focal", "binary:iou+topk"))
def test_retained_graphs_and_upstream_gradients(name, compiled):
    mode = LOSSES[name][0]
    layer, (x, y) = head(mode), inputs(mode)
    parts = [x, *layer.parameters()]
    with fl.backends.use(compiled):
        loss = fl.HeadLoss(layer, build(name), band_bytes=BAND)
        value = loss(x, y)
        first = torch.autograd.grad(value, parts, retain_graph=True)
        again = torch.autograd.grad(value, parts, retain_graph=True)
        tripled = torch.autograd.grad(3 * value, parts)
        assert all(torch.equal(a, b) for a, b in zip(first, again))
        for a, b in zip(tripled, first):
            assert_vector(a, 3 * b.double(), torch.float32)
        twice = loss(x, y) + loss(x, y)
        for a, b in zip(torch.autograd.grad(twice, parts), first):
            assert_vector(a, 2 * b.double(), torch.float32)
        grads = torch.autograd.grad(loss(x, y), parts, create_graph=True)
        with pytest.raises(RuntimeError, match="double backward"):
            torch.autograd.grad(grads[0].sum(), x)
        with torch.no_grad():
            assert_value(loss(x, y), value, torch.float32)


def test_weight_tensors_learn_and_schedules_take_effect(compiled):
    x, y = inputs("multiclass")
    layer = head("multiclass")
    for make in (fl.DiceLoss("multiclass") + fl.CrossEntropyLoss(), fl.FocalLoss("multiclass") + fl.CrossEntropyLoss()):
        weight = torch.tensor(0.7, requires_grad=True)
        criterion = make + weight * fl.FocalLoss("multiclass", gamma=1.5)
        with fl.backends.use("reference"):
            (expected,) = torch.autograd.grad(criterion(layer(x).double(), y), weight)
        with fl.backends.use(compiled):
            (ours,) = torch.autograd.grad(fl.HeadLoss(layer, criterion, band_bytes=BAND)(x, y), weight)
        assert_value(ours, expected, torch.float32, scale=0.1, factor=4)
    schedule = fl.LossSchedule([(0, fl.CrossEntropyLoss()), (1, fl.DiceLoss("multiclass"))])
    with fl.backends.use(compiled):
        loss = fl.HeadLoss(layer, schedule)
        for epoch, active in enumerate((fl.CrossEntropyLoss(), fl.DiceLoss("multiclass"))):
            schedule.step(epoch)
            assert torch.equal(loss(x, y), fl.HeadLoss(layer, active)(x, y))


def test_statistics(backend):
    x, y = inputs("multiclass")
    layer, criterion = head("multiclass"), build("multiclass:everything")
    mask = torch.rand(4, 13, 11) < 0.7
    with fl.backends.use(backend):
        value, stats = fl.HeadLoss(layer, criterion, band_bytes=BAND).with_stats(x, y, mask=mask)
        expected, theirs = criterion.with_stats(layer(x), y, mask=mask)
    assert_value(value, expected, torch.float32)
    assert torch.equal(stats.counts, theirs.counts) and stats.terms.keys() == theirs.terms.keys()
    for name, term in stats.terms.items():
        assert_value(term, theirs.terms[name], torch.float32, factor=2)


def test_eval_and_calls_without_a_target_give_logits():
    x, y = inputs("multiclass")
    layer = head("multiclass")
    loss = fl.HeadLoss(layer, fl.CrossEntropyLoss())
    assert torch.equal(loss(x), layer(x)) and torch.equal(loss.eval()(x, y), layer(x))
    value, _ = loss.with_stats(x, y)
    assert_value(value, fl.CrossEntropyLoss()(layer(x), y), torch.float32)


def test_other_criterions_hooks_and_the_oracle_get_whole_logits():
    x, y = inputs("multiclass")
    layer = head("multiclass")
    expected = nn.functional.cross_entropy(layer(x), y)
    assert torch.equal(fl.HeadLoss(layer, nn.CrossEntropyLoss())(x, y), expected)
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    assert_value(fl.HeadLoss(layer, fl.CrossEntropyLoss())(x, y), expected, torch.float32)
    assert calls
    with fl.backends.use("reference"):
        loss = fl.HeadLoss(head("multiclass").double(), fl.CrossEntropyLoss())
        double = x.detach()[:1, :, :2, :2].double().requires_grad_()
        assert torch.autograd.gradgradcheck(lambda x: loss(x, y[:1, :2, :2]), double)


def test_where_nothing_but_the_reference_runs(monkeypatch):
    """By default, not by name: then bands are made all the same."""
    monkeypatch.setattr(fl.backends, "_DEFAULTS", {})
    x, y = inputs("multiclass")
    for name in ("multiclass:everything", "multiclass:ce"):
        layer, criterion = head("multiclass"), build(name)
        expected, grads = unfused(criterion, layer, x, y)
        value = fl.HeadLoss(layer, criterion, band_bytes=BAND)(x, y)
        assert_value(value, expected, torch.float32, factor=4)
        for a, b in zip(torch.autograd.grad(value, [x, *layer.parameters()]), grads):
            assert_vector(a, b, torch.float32, factor=4)


@pytest.mark.parametrize("name", ("multiclass:dice+focal", "multiclass:ce", "multiclass:iou+topk"))
def test_memory_is_that_of_a_few_bands(name, compiled):
    """8 MiB of logits from 2 MiB of features: beside the gradients, bands of 64 KiB."""
    layer = nn.Conv2d(8, 32, 1)
    x, y = torch.randn(2, 8, 256, 128, requires_grad=True), torch.randint(0, 32, (2, 256, 128))
    band = 2**16
    loss = fl.HeadLoss(
        layer, build(name) if name != "multiclass:iou+topk" else fl.TopKLoss("multiclass"), band_bytes=band
    )
    with fl.backends.use(compiled):
        torch.autograd.grad(loss(x, y), [x, *layer.parameters()])
        _, sizes = allocations(lambda: torch.autograd.grad(loss(x, y), [x, *layer.parameters()]))
    sizes = sorted(sizes)
    assert sizes[-1] == x.nbytes and sizes[-2] <= 2 * band


@pytest.mark.compile
@pytest.mark.parametrize("name", ("multiclass:everything", "binary:bce", "multilabel:tensors"))
def test_compiles_whole(name, compiled):
    torch._dynamo.reset()
    mode = LOSSES[name][0]
    layer = head(mode)
    with fl.backends.use(compiled):
        loss = torch.compile(fl.HeadLoss(layer, build(name), band_bytes=BAND), fullgraph=True, backend="aot_eager")
        for space in ((13, 11), (9, 20), (8, 7)):
            x, y = inputs(mode, space)
            expected, expected_grads = unfused(build(name), layer, x, y)
            value = loss(x, y)
            assert_value(value, expected, torch.float32, scale=0.1, factor=4)
            for a, b in zip(torch.autograd.grad(value, [x, *layer.parameters()]), expected_grads):
                assert_vector(a, b, torch.float32, factor=4)


@pytest.mark.parametrize("name", ("multiclass:everything", "binary:bce", "multilabel:dice-sample-skip"))
def test_opcheck(name, compiled):
    mode = LOSSES[name][0]
    x, y = inputs(mode, (5, 4), samples=2)
    layer = head(mode)
    parts, how = [x, layer.weight, layer.bias], [0, 0]
    detached = [p.detach() for p in parts]
    ints, floats = build(name).spec.encode(SHAPES[mode][1])
    rest = (ints, floats, compiled, BAND)
    ops = torch.ops.fastloss
    for op, args in (
        (ops.band_sums, (*parts, how, y, None, None, *rest, "")),
        (ops.band_counts, (*detached, how, y, None, *rest, 0.5)),
    ):
        result = torch.library.opcheck(op.default, args)
        assert set(result.values()) == {"SUCCESS"}, result
    sums, aux = ops.band_sums(*detached, how, y, None, None, *rest, "")
    args = (torch.ones_like(sums), aux, *detached, how, y, None, None, *rest, [1, 0, 1])
    result = torch.library.opcheck(ops.band_gradient.default, args)
    assert set(result.values()) == {"SUCCESS"}, result


def test_batched_gradients(compiled):
    x, y = inputs("multiclass")
    with fl.backends.use(compiled):
        loss = fl.HeadLoss(head("multiclass"), build("multiclass:dice+focal"), band_bytes=BAND)
        value = loss(x, y)
        (batch,) = torch.autograd.grad(value, x, torch.tensor([1.0, -2.0]), is_grads_batched=True, retain_graph=True)
        (one,) = torch.autograd.grad(value, x)
    assert_vector(batch[0], one, torch.float32)
    assert_vector(batch[1], -2 * one, torch.float32)


def test_transforms_run_as_plain_pytorch(compiled):
    x, y = inputs("multiclass")
    layer = head("multiclass")
    with fl.backends.use(compiled):
        loss = fl.HeadLoss(layer, build("multiclass:dice+focal"), band_bytes=BAND)
        found = torch.func.grad(lambda x: loss(x, y))(x.detach())
        (expected,) = torch.autograd.grad(loss(x, y), x)
    assert_vector(found, expected, torch.float32, factor=4)


def test_no_samples_and_no_terms(compiled):
    layer = head("multiclass")
    x, y = torch.randn(0, FEATURES, 4, 4, requires_grad=True), torch.zeros(0, 4, 4, dtype=torch.long)
    with fl.backends.use(compiled):
        for name in ("multiclass:everything", "multiclass:ce"):
            value = fl.HeadLoss(layer, build(name))(x, y)
            value.backward()
            assert value == 0 and not layer.weight.grad.any()
        x, y = inputs("multiclass")
        value = fl.HeadLoss(layer, 0.0 * fl.CrossEntropyLoss())(x, y)
        assert value == 0 and not torch.autograd.grad(value, x)[0].any()


def test_state_pickling_copies_and_repr():
    x, y = inputs("multiclass")
    loss = fl.HeadLoss(head("multiclass"), build("multiclass:dice+focal"), band_bytes=1000)
    for other in (pickle.loads(pickle.dumps(loss)), deepcopy(loss)):
        assert torch.equal(other(x, y), loss(x, y)) and repr(other) == repr(loss)
    assert "band_bytes=1000" in repr(loss) and list(loss.state_dict()) == ["head.weight", "head.bias"]


BAD = {
    "kernel_size": (lambda: nn.Conv2d(5, 3, 3), ValueError, "kernel_size=1, got"),
    "stride": (lambda: nn.Conv2d(5, 3, 1, stride=2), ValueError, "stride=1, got"),
    "padding": (lambda: nn.Conv2d(5, 3, 1, padding=1), ValueError, "padding=0, got"),
    "groups": (lambda: nn.Conv2d(6, 3, 1, groups=3), ValueError, "groups=1, got"),
    "other": (lambda: nn.ReLU(), TypeError, "head must be a Conv1d"),
}


@pytest.mark.parametrize(("make", "error", "words"), BAD.values(), ids=BAD)
def test_bad_heads(make, error, words):
    with pytest.raises(error, match=words):
        fl.HeadLoss(make(), fl.CrossEntropyLoss())


def test_bad_input(backend):
    layer, (x, y) = head("multiclass"), inputs("multiclass")
    with fl.backends.use(backend):
        loss = fl.HeadLoss(layer, fl.CrossEntropyLoss())
        for given, error, words in (
            ((x[:, :2], y), ValueError, "features must have the 5 channels of the head, got 2"),
            ((x[0], y), ValueError, "features must be .* 2 spatial axes"),
            ((x.double(), y), TypeError, "features must have the dtype of the head"),
            ((x.long(), y), TypeError, "features must hold floating-point features"),
            ((x, y[:, :2]), ValueError, "y must be class ids"),
            ((x, y.tolist()), TypeError, "y must be a tensor"),
            ((x, y, y), TypeError, "mask must hold a boolean mask"),
        ):
            with pytest.raises(error, match=words):
                loss(*given)
        if backend in ("cpu", "reference"):
            with pytest.raises(ValueError, match="class ids from 0 to 2, got 7"):
                loss(x, torch.full_like(y, 7))
    for make, error, words in (
        (lambda: fl.HeadLoss(layer, fl.CrossEntropyLoss(reduction="none")), ValueError, "reduction='none'"),
        (lambda: fl.HeadLoss(layer, sum), TypeError, "criterion must be a loss module"),
        (lambda: fl.HeadLoss(layer, fl.CrossEntropyLoss(), band_bytes=0), ValueError, "band_bytes must be at least 1"),
        (lambda: fl.HeadLoss(layer, nn.CrossEntropyLoss()).with_stats(x, y), TypeError, "with_stats needs a loss"),
    ):
        with pytest.raises(error, match=words):
            make()

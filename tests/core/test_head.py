"""HeadLoss: value and gradients are those of the criterion on the head's logits, which never exist as a whole."""

import os
import pickle
import sys
from copy import deepcopy

import pytest
import torch
import torch.distributed as dist
from cases import COMPILED, CORE, LOSSES, MODES, SHAPES, build, crossentropy, target
from test_memory import allocations
from tolerances import assert_value, assert_vector
from torch import nn

import fastloss as fl

FEATURES = 5
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NAMES = [*CORE, *[f"{m}:{n}" for m in MODES for n in ("focal-1.5", "topk", "dice-sample-skip", "tensors")]]
NAMES += [
    "multiclass:ce",
    "multiclass:ce-weights",
    "binary:bce-pos_weight",
    "multilabel:bce-smoothing",
    "multiclass:ce-sum",
]
BAND = 256  # bytes: a few pixels, so that every call has many bands


def head(mode, axes=2, bias=True, dtype=torch.float32):
    torch.manual_seed(7)
    return CONVOLUTIONS[axes](FEATURES, SHAPES[mode][1], 1, bias=bias).to(dtype)


def inputs(mode, space=(13, 11), dtype=torch.float32, samples=4):
    torch.manual_seed(8)
    x = torch.randn(samples, FEATURES, *space).to(dtype).requires_grad_()
    return x, target(mode, (samples, SHAPES[mode][1], *space))


def unfused(criterion, layer, x, y, *extra):
    """(value, gradients of features, weight, bias) by whole logits, in float64 and by the reference."""
    layer, x = deepcopy(layer).double(), x.detach().double().requires_grad_()
    extra = [t.double() if t is not None and t.is_floating_point() else t for t in extra]
    with fl.backends.use("reference"):
        value = criterion(layer(x), y, *extra)
    return value, torch.autograd.grad(value, [x, *layer.parameters()])


def check(criterion, layer, x, y, *extra, backend, factor=4.0, band=BAND, scale=1.0):
    expected, expected_grads = unfused(criterion, layer, x, y, *extra)
    with fl.backends.use(backend):
        value = fl.HeadLoss(layer, criterion, band_bytes=band)(x, y, *extra)
        grads = torch.autograd.grad(value * scale, [x, *layer.parameters()])
    dtype = layer.weight.dtype
    assert_value(value, expected, dtype, scale=0.1, factor=factor)
    for ours, theirs, what in zip(grads, expected_grads, ("features", "weight", "bias")):
        assert ours.dtype == dtype
        assert_vector(ours, theirs * scale, dtype, what, factor)


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradients(name, compiled):
    mode = LOSSES[name][0]
    check(build(name), head(mode), *inputs(mode), backend=compiled)


@pytest.mark.parametrize("name", [*CORE, "multiclass:ce-weights", "multilabel:focal-1.5"])
def test_masks_pixel_weights_and_ignored_labels(name, compiled):
    mode = LOSSES[name][0]
    x, y = inputs(mode)
    mask, weight = torch.rand(4, 13, 11) < 0.7, torch.rand(4, 13, 11)
    check(build(name), head(mode), x, y, mask, weight, backend=compiled)
    if LOSSES[name][2] is not None:
        y[torch.rand(y.shape) < 0.3] = 9
        check(build(name, ignore_index=9), head(mode), x, y, backend=compiled)
        check(build(name, ignore_index=9), head(mode), x, torch.full_like(y, 9), mask, backend=compiled)


@pytest.mark.parametrize("axes", (1, 2, 3))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "sliced"))
@pytest.mark.parametrize("bias", (True, False))
def test_axes_layouts_and_linear(axes, layout, bias, compiled):
    space = (143,) if axes == 1 else (13, 11) if axes == 2 else (5, 6, 7)
    x, y = inputs("multiclass", space)
    if layout == "channels_last":
        x = x.detach().movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()
    elif layout == "sliced":
        x = torch.randn(8, FEATURES, *[2 * n for n in space])[
            (slice(None, None, 2), slice(None), *[slice(None, None, 2)] * axes)
        ]
        x = x.detach().requires_grad_()
    layer = head("multiclass", axes, bias)
    check(build("multiclass:dice+focal"), layer, x, y, backend=compiled)
    linear = nn.Linear(FEATURES, 3, bias=bias)
    with torch.no_grad():
        for ours, theirs in zip(linear.parameters(), layer.parameters()):
            ours.copy_(theirs.view(ours.shape))
    with fl.backends.use(compiled):
        loss = fl.HeadLoss(linear, build("multiclass:dice+focal"), band_bytes=BAND)
        other = fl.HeadLoss(layer, build("multiclass:dice+focal"), band_bytes=BAND)
        assert torch.equal(loss(x, y), other(x, y))
        assert_vector(loss(x), other(x), torch.float32)


@pytest.mark.parametrize("band", (1, 64, 4096, 2**25))
@pytest.mark.parametrize("name", ("multiclass:everything", "binary:iou+topk", "multilabel:focal-2.0"))
def test_bands_of_any_size(name, band, compiled):
    mode = LOSSES[name][0]
    check(build(name), head(mode), *inputs(mode), backend=compiled, band=band)


@pytest.mark.parametrize("name", ("multiclass:everything", "binary:bce", "multilabel:dice+focal"))
def test_double_precision(name, compiled):
    mode = LOSSES[name][0]
    check(build(name), head(mode, dtype=torch.float64), *inputs(mode, dtype=torch.float64), backend=compiled)


@pytest.mark.parametrize("name", ("multiclass:ce", "multiclass:dice+focal", "binary:bce"))
def test_half_types_and_autocast(name, compiled):
    """The head computes in the half type as it would, so its gradients have the rounding of that."""
    mode = LOSSES[name][0]
    layer, (x, y) = head(mode), inputs(mode, (40, 40))
    expected, grads = unfused(build(name), layer, x, y)
    for dtype in (torch.bfloat16, torch.float16):
        for given, autocast in ((x, True), (x.detach().to(dtype).requires_grad_(), True), (x, False)):
            here, source = layer, given
            if not autocast:
                here, source = deepcopy(layer).to(dtype), x.detach().to(dtype).requires_grad_()
            with fl.backends.use(compiled), torch.autocast("cpu", dtype, enabled=autocast):
                value = fl.HeadLoss(here, build(name), band_bytes=BAND)(source, y)
            ours = torch.autograd.grad(value * 1024, [source, *here.parameters()])
            assert value.dtype == torch.float32
            assert abs(value - expected) < 0.02 * abs(expected)
            for a, b, t in zip(ours, grads, [source, *here.parameters()]):
                assert a.dtype == t.dtype
                assert (a.double() / 1024 - b).norm() < 0.03 * b.norm()


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


# Two processes: the sums of region losses over the group, the largest elements of both, and DDP around a head.

GROUPED = {
    "dice+crossentropy": lambda g: fl.DiceLoss("multiclass", process_group=g) + 0.5 * crossentropy("multiclass"),
    "topk": lambda g: (
        fl.TopKLoss("multiclass", k=0.3, process_group=g)
        + fl.DiceLoss("multiclass", batch=False, empty="skip", process_group=g)
    ),
    "ce": lambda g: fl.CrossEntropyLoss(),
}


class Network(nn.Module):
    def __init__(self, criterion):
        super().__init__()
        torch.manual_seed(3)
        self.backbone = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        self.loss = fl.HeadLoss(head("multiclass"), criterion, band_bytes=BAND)

    def forward(self, x, y=None):
        return self.loss(self.backbone(x), y)


def worker(rank, folder):
    if sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x, y = inputs("multiclass")
    mine = slice(0, 2) if rank == 0 else slice(2, 4)  # equal shares, as DDP's mean assumes of a mean over pixels
    found = {}
    for backend in COMPILED:
        with fl.backends.use(backend):
            for name, make in GROUPED.items():
                network = nn.parallel.DistributedDataParallel(Network(make(True)))
                value = network(x.detach()[mine], y[mine])
                value.backward()
                found[backend, name] = value.detach(), [p.grad for p in network.parameters()]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes(tmp_path):
    if not dist.is_gloo_available():
        pytest.skip("no gloo")
    torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    x, y = inputs("multiclass")
    for backend in COMPILED:
        for name, make in GROUPED.items():
            network = Network(make(None))
            with fl.backends.use(backend):
                value = network(x.detach(), y)
            value.backward()
            mean = sum(rank[backend, name][0] for rank in ranks) / 2
            assert_value(mean, value, torch.float32, scale=0.1, factor=4)
            for rank in ranks:
                for ours, theirs in zip(rank[backend, name][1], network.parameters()):
                    assert_vector(ours, theirs.grad, torch.float32, factor=8)

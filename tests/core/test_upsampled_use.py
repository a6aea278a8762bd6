"""UpsampledLoss in use: autograd, compiling, statistics, memory, the CPU's own ops, state, fallbacks, bad input."""

import os
import pickle
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from cases import LOSSES, SHAPES, build, run
from test_memory import allocations, resident_peak
from tolerances import assert_value, assert_vector
from torch.nn.functional import interpolate
from upsampling import BAND, inputs, unfused

import fastloss as fl
from fastloss import _interpolation
from fastloss._sources import UPSAMPLED


@pytest.mark.parametrize("name", ("multiclass:ce", "multiclass:dice+focal", "binary:iou+topk"))
def test_retained_graphs_and_upstream_gradients(name, compiled):
    x, y = inputs(LOSSES[name][0])
    with fl.backends.use(compiled):
        loss = fl.UpsampledLoss(build(name), band_bytes=BAND)
        value = loss(x, y)
        first, again, tripled = [torch.autograd.grad(s * value, x, retain_graph=True)[0] for s in (1, 1, 3)]
        assert torch.equal(first, again)
        assert_vector(tripled, 3 * first.double(), torch.float32)
        assert_vector(torch.autograd.grad(loss(x, y) + loss(x, y), x)[0], 2 * first.double(), torch.float32)
        (grad,) = torch.autograd.grad(loss(x, y), x, create_graph=True)
        with pytest.raises(RuntimeError, match="double backward"):
            torch.autograd.grad(grad.sum(), x)
        with torch.no_grad():
            assert torch.equal(loss(x, y), value)
        with torch.inference_mode():
            assert torch.equal(loss(x, y), value)


@pytest.mark.parametrize("name", ("multiclass:everything", "multilabel:dice+focal"))
def test_statistics(name, backend):
    mode = LOSSES[name][0]
    x, y = inputs(mode)
    mask, criterion = torch.rand(3, 13, 11) < 0.7, build(name)
    with fl.backends.use(backend):
        value, stats = fl.UpsampledLoss(criterion, band_bytes=BAND).with_stats(x, y, 0.3, mask)
        logits = interpolate(x, y.shape[-2:], mode="bilinear")
        expected, theirs = criterion.with_stats(logits, y, 0.3, mask)
    assert_value(value, expected, torch.float32, factor=2)
    assert torch.equal(stats.counts, theirs.counts) and stats.terms.keys() == theirs.terms.keys()
    for term, number in stats.terms.items():
        assert_value(number, theirs.terms[term], torch.float32, factor=2)


def test_weight_tensors_learn_and_schedules_take_effect(compiled):
    x, y = inputs("multiclass")
    weight = torch.tensor(0.7, requires_grad=True)
    criterion = fl.DiceLoss("multiclass") + weight * fl.FocalLoss("multiclass", gamma=1.5)
    with fl.backends.use("reference"):
        (expected,) = torch.autograd.grad(criterion(interpolate(x.double(), (13, 11), mode="bilinear"), y), weight)
    with fl.backends.use(compiled):
        (ours,) = torch.autograd.grad(fl.UpsampledLoss(criterion)(x, y), weight)
        assert_value(ours, expected, torch.float32)
        schedule = fl.LossSchedule([(0, fl.CrossEntropyLoss()), (1, fl.DiceLoss("multiclass"))])
        loss = fl.UpsampledLoss(schedule)
        for epoch, active in enumerate((fl.CrossEntropyLoss(), fl.DiceLoss("multiclass"))):
            schedule.step(epoch)
            assert torch.equal(loss(x, y), fl.UpsampledLoss(active)(x, y))


def test_deep_supervision_against_full_resolution_labels(compiled):
    criterion = fl.DiceLoss("multiclass") + fl.CrossEntropyLoss()
    levels = [inputs("multiclass", low)[0] for low in ((13, 11), (6, 5), (3, 2))]
    y = inputs("multiclass")[1]
    expected = grads = 0.0
    for weight, x in zip((0.5, 0.3, 0.2), levels):
        value, grad = unfused(criterion, x, y)
        expected, grads = expected + weight * value, [*(grads or []), weight * grad]
    with fl.backends.use(compiled):
        loss = fl.DeepSupervisionLoss(fl.UpsampledLoss(criterion), [0.5, 0.3, 0.2])(levels, y)
        assert_value(loss, expected, torch.float32, factor=2)
        for ours, theirs in zip(torch.autograd.grad(loss, levels), grads):
            assert_vector(ours, theirs, torch.float32, factor=2)


def test_other_criterions_and_the_oracle_get_whole_logits(compiled):
    x, y = inputs("multiclass")
    whole = interpolate(x, (13, 11), mode="bilinear")
    criterion = torch.nn.CrossEntropyLoss()
    assert torch.equal(fl.UpsampledLoss(criterion)(x, y), criterion(whole, y))
    with fl.backends.use(compiled):
        same = fl.fuse(criterion)
        assert_value(fl.UpsampledLoss(same)(x, y), criterion(whole, y), torch.float32)
        found = torch.func.grad(lambda x: fl.UpsampledLoss(build("multiclass:dice"))(x, y))(x.detach())
        assert_vector(found, unfused(build("multiclass:dice"), x, y)[1], torch.float32, factor=2)
    with fl.backends.use("reference"):
        loss, small = fl.UpsampledLoss(build("multiclass:dice")), x.detach()[:1, :, :2, :2].double().requires_grad_()
        assert torch.autograd.gradgradcheck(lambda x: loss(x, y[:1, :3, :3]), small)


def test_where_nothing_but_the_reference_runs(monkeypatch):
    monkeypatch.setattr(fl.backends, "_DEFAULTS", {})
    x, y = inputs("multiclass")
    expected, grad = unfused(build("multiclass:everything"), x, y)
    value = fl.UpsampledLoss(build("multiclass:everything"), band_bytes=BAND)(x, y)
    assert_value(value, expected, torch.float32, factor=2)
    assert_vector(torch.autograd.grad(value, x)[0], grad, torch.float32, factor=2)


@pytest.mark.parametrize("name", ("multiclass:dice+focal", "multiclass:ce", "multiclass:topk"))
def test_memory_does_not_depend_on_the_resolution(name, compiled):
    """Beyond one low-resolution gradient, a few bands of 64 KiB; the logits would take 6 MiB and 24 MiB."""
    band, peaks = 2**16, []
    for size in (512, 1024):
        x, y = torch.randn(2, 3, 64, 64, requires_grad=True), torch.randint(0, 3, (2, size, size)).to(torch.uint8)
        loss = fl.UpsampledLoss(build(name), band_bytes=band)
        with fl.backends.use(compiled):
            torch.autograd.grad(loss(x, y), x)
            _, sizes = allocations(lambda: torch.autograd.grad(loss(x, y), x))
        peaks.append(max(sizes))
    assert max(peaks) <= 8 * band


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer keeps freed memory")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks the Linux kernel for the peak")
@pytest.mark.parametrize("name", ("multiclass:dice+focal", "multiclass:ce"))
def test_the_process_does_not_grow(name):
    """96 MiB of logits, forward and backward: C++'s own bands stay small as well."""
    if fl.backends.available()["cpu"] is not None:
        pytest.skip("the cpu backend does not run here")
    x, y = torch.randn(2, 12, 64, 64, requires_grad=True), torch.randint(0, 12, (2, 1024, 1024)).to(torch.uint8)
    loss = fl.UpsampledLoss(build(name))
    torch.autograd.grad(loss(x, y[:, :64, :64]), x)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_peak()
    torch.autograd.grad(loss(x, y), x)
    assert resident_peak() - before < 12 * 2**20


@pytest.mark.compile
@pytest.mark.parametrize("name", ("multiclass:everything", "binary:bce", "multilabel:tensors"))
def test_compiles_whole(name, compiled):
    torch._dynamo.reset()
    with fl.backends.use(compiled):
        loss = torch.compile(
            fl.UpsampledLoss(build(name), band_bytes=BAND), fullgraph=True, dynamic=True, backend="aot_eager"
        )
        for low, size in (((6, 5), (13, 11)), ((7, 4), (20, 9)), ((5, 5), (31, 40))):
            x, y = inputs(LOSSES[name][0], low, size)
            expected, grad = unfused(build(name), x, y)
            value = loss(x, y)
            assert_value(value, expected, torch.float32, scale=0.1, factor=2)
            assert_vector(torch.autograd.grad(value, x)[0], grad, torch.float32, factor=2)


@pytest.mark.parametrize("name", ("multiclass:everything", "binary:bce", "multilabel:dice-sample-skip"))
def test_opcheck(name, compiled):
    mode = LOSSES[name][0]
    x, y = inputs(mode, (3, 2), (5, 4), samples=2)
    how = [UPSAMPLED, _interpolation.MODES.index("bilinear"), 0, 5, 4]
    rest = (*build(name).spec.encode(SHAPES[mode][1]), compiled, BAND)
    ops = torch.ops.fastloss
    sums, aux = ops.band_sums(x.detach(), None, None, how, y, None, None, *rest, "")
    for op, args in (
        (ops.band_sums, (x, None, None, how, y, None, None, *rest, "")),
        (ops.band_counts, (x.detach(), None, None, how, y, None, *rest, 0.5)),
        (ops.band_gradient, (torch.ones_like(sums), aux, x.detach(), None, None, how, y, None, None, *rest, [1])),
    ):
        result = torch.library.opcheck(op.default, args)
        assert set(result.values()) == {"SUCCESS"}, result


@pytest.mark.parametrize("name", ("multiclass:dice+focal", "binary:bce", "multilabel:dice-sample-skip"))
def test_opcheck_of_the_cpus_own_ops_and_direct_calls(name):
    if fl.backends.available()["cpu"] is not None:
        pytest.skip("the cpu backend does not run here")
    mode = LOSSES[name][0]
    x, y = inputs(mode, (3, 2), (5, 4), samples=2)
    x, like = x.detach(), x.detach().new_zeros(()).expand(*x.shape[:2], 5, 4)
    rest = (None, None, *build(name).spec.encode(SHAPES[mode][1]), 3, False, 7)
    ops = torch.ops.fastloss_cpu
    sums, aux, _ = ops.upsampled_sums(like, x, y, *rest, False, 0.5)
    state = torch.cat([aux.new_zeros(len(aux)), aux.flatten(), torch.ones_like(sums).flatten()])
    for op, args in (
        (ops.upsampled_sums, (like, x, y, *rest, True, 0.5)),
        (ops.upsampled_backward, (state, like, x, y, *rest)),
    ):
        result = torch.library.opcheck(op.default, args)
        assert set(result.values()) == {"SUCCESS"}, result
    bad = {
        "samples": (like, x[:1], y),
        "channels": (like, torch.rand(2, 7, 3, 2), y),
        "an axis without pixels": (like, x[:, :, :0], y),
        "dtype": (like, x.double(), y),
        "integers": (like, x.long(), y),
        "rank": (like, x[..., None], y),
        "target": (like, x, y[..., :-1]),
    }
    for given in bad.values():
        with pytest.raises((ValueError, RuntimeError)):
            ops.upsampled_sums(*given, *rest, False, 0.5)
    with pytest.raises((ValueError, RuntimeError)):
        ops.upsampled_backward(state[:-1], like, x, y, *rest)
    topk = build(f"{mode}:topk").spec.encode(SHAPES[mode][1])
    with pytest.raises((ValueError, RuntimeError), match="top-k"):
        ops.upsampled_sums(like, x, y, None, None, *topk, 3, False, 7, False, 0.5)


def test_no_samples_and_no_terms(compiled):
    x, y = torch.randn(0, 3, 4, 4, requires_grad=True), torch.zeros(0, 8, 8, dtype=torch.long)
    for name in ("multiclass:everything", "multiclass:ce"):
        value, grad = run(fl.UpsampledLoss(build(name)), x, y, compiled)
        assert value == 0 and grad.shape == x.shape
    x, y = inputs("multiclass")
    value, grad = run(fl.UpsampledLoss(0.0 * fl.CrossEntropyLoss()), x, y, compiled)
    assert value == 0 and not grad.any()


def test_settings_pickling_copies_and_repr():
    x, y = inputs("multiclass")
    loss = fl.UpsampledLoss(build("multiclass:dice+focal"), align_corners=True, band_bytes=1000)
    for other in (pickle.loads(pickle.dumps(loss)), deepcopy(loss)):
        assert torch.equal(other(x, y), loss(x, y)) and repr(other) == repr(loss)
    assert "mode='bilinear', align_corners=True, band_bytes=1000" in repr(loss)
    loss.align_corners = False
    loss.mode = "nearest"
    assert_value(loss(x, y), unfused(build("multiclass:dice+focal"), x, y, mode="nearest")[0], torch.float32)


def test_bad_input(backend):
    x, y = inputs("multiclass")
    loss = fl.UpsampledLoss(fl.CrossEntropyLoss())
    with fl.backends.use(backend):
        for given, error, words in (
            ((x.tolist(), y), TypeError, "x must be a tensor"),
            ((x.long(), y), TypeError, "x must hold floating-point logits"),
            ((x, y.tolist()), TypeError, "y must be a tensor"),
            ((x[0], y), ValueError, r"x must be \[N, C, \*s\] with 2 spatial axes for mode 'bilinear'"),
            ((x, y[0, 0]), ValueError, "y must be a target for logits"),
            ((x, y[:, :0]), ValueError, "y must have a pixel along each spatial axis"),
            ((x[:, :, :0], y), ValueError, "x must have a pixel along each spatial axis"),
            ((x, y[:2]), ValueError, "y must be class ids"),
            ((x, y.float()), TypeError, "y must hold integer class ids"),
            ((x, y, y), TypeError, "mask must hold a boolean mask"),
            ((x, y, torch.ones(3, 6, 5).bool()), ValueError, "mask must have the shape"),
        ):
            with pytest.raises(error, match=words):
                loss(*given)
        if backend in ("cpu", "reference"):
            with pytest.raises(ValueError, match="class ids from 0 to 2, got 7"):
                loss(x, torch.full_like(y, 7))
    for make, words in (
        (lambda: fl.UpsampledLoss(fl.CrossEntropyLoss(), mode="bicubic"), "mode must be one of"),
        (lambda: fl.UpsampledLoss(fl.CrossEntropyLoss(), mode="nearest", align_corners=True), "needs a linear mode"),
        (lambda: fl.UpsampledLoss(fl.CrossEntropyLoss(reduction="none")), "reduction='none'"),
        (lambda: fl.UpsampledLoss(fl.CrossEntropyLoss(), band_bytes=0), "band_bytes must be at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            make()

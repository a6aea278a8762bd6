"""What a loss keeps and allocates: the inputs and at most one gradient; without gradient nothing of their size."""

import os
from pathlib import Path

import pytest
import torch
from cases import CORE, LOSSES, MODES, SHAPES, build, logits, target

import fastloss as fl

PIXELS = 65_536
# Channels-by-terms float64 tables and the like; far below one logit plane.
SMALL = 16_384


def inputs(name, dtype=torch.float32, pixels=PIXELS):
    mode = LOSSES[name][0]
    shape = (2, SHAPES[mode][1], pixels // 256, 256)
    return logits(shape, dtype).requires_grad_(), target(mode, shape, torch.uint8)


def allocations(action):
    """(what `action` returns, bytes of each allocation that torch's CPU allocator made meanwhile)."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = action()
    events = profile.profiler.kineto_results.events()
    return result, [event.nbytes() for event in events if event.name() == "[memory]" and event.nbytes() > 0]


def large(sizes):
    return [size for size in sizes if size > SMALL]


@pytest.mark.parametrize("extra", (False, True), ids=("plain", "masked"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", CORE)
def test_only_inputs_are_saved(name, dtype, extra, compiled):
    x, y = inputs(name, dtype)
    given = [x, y]
    if extra:
        given += [torch.rand(x[:, 0].shape) < 0.5, torch.rand(x[:, 0].shape)]
    saved = []
    keep = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)
    with fl.backends.use(compiled), keep:
        value = build(name)(*given)
    known = {t.untyped_storage().data_ptr() for t in given}
    others = [t for t in saved if t.untyped_storage().data_ptr() not in known]
    assert {t.untyped_storage().data_ptr() for t in saved} >= known
    assert sum(t.untyped_storage().nbytes() for t in others) <= SMALL
    value.backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16, torch.float64), ids=str)
@pytest.mark.parametrize("name", CORE)
def test_one_gradient_buffer(name, dtype, compiled):
    """Forward and backward together allocate one tensor of the logits' size."""
    x, y = inputs(name, dtype)
    with fl.backends.use(compiled):
        for _ in range(3):
            _, sizes = allocations(lambda: torch.autograd.grad(build(name)(x, y), x))
            assert large(sizes) == [x.nbytes]
            value, sizes = allocations(lambda: build(name)(x, y))
            assert large(sizes) in ([], [x.nbytes])
            kept = value  # the buffer goes with the graph, not before
            _, sizes = allocations(lambda: torch.autograd.grad(kept, x, retain_graph=True))
            _, again = allocations(lambda: torch.autograd.grad(kept, x))
            assert large(sizes) in ([], [x.nbytes]) and large(again) == [x.nbytes]


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "sliced"))
@pytest.mark.parametrize("name", [*CORE, "multiclass:ce-smoothing", "multilabel:dice-l1-squared"])
def test_forward_without_gradient_allocates_nothing_large(name, layout, compiled):
    """Nor does a strided input cost a copy of the logits."""
    mode = LOSSES[name][0]
    shape = (2, SHAPES[mode][1], 256, 256)
    x, y = logits(shape, torch.float32, layout), target(mode, shape, torch.uint8)
    mask = torch.rand(x[:, 0].shape) < 0.5
    with fl.backends.use(compiled), torch.no_grad():
        for given in ((x, y), (x, y, mask)):
            _, sizes = allocations(lambda given=given: build(name)(*given))
            assert not large(sizes)
            _, sizes = allocations(lambda given=given: build(name).with_stats(x, y))
            assert not large(sizes)


def resident_peak():
    """Bytes, from the kernel: the allocations that do not go through torch too."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer keeps freed memory")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks the Linux kernel for the peak")
@pytest.mark.parametrize("mode", MODES)
def test_the_process_does_not_grow(mode, compiled):
    """96 MiB of logits, forward without gradient: C++'s own buffers stay small as well."""
    shape = (4, 6, 1024, 1024) if mode != "binary" else (24, 1, 1024, 1024)
    x = torch.zeros(1).expand(shape).clone()
    y = torch.zeros(shape if mode != "multiclass" else (4, 1024, 1024), dtype=torch.uint8)
    loss = build(f"{mode}:dice+focal")
    with fl.backends.use(compiled), torch.no_grad():
        loss(x[:1], y[:1])
        Path("/proc/self/clear_refs").write_text("5")
        before = resident_peak()
        loss(x, y)
        assert resident_peak() - before < 12 * 2**20


def test_gradient_buffer_is_freed_by_backward(compiled):
    """What autograd returns is the buffer itself, not a copy that leaves a twin behind."""
    x, y = inputs(CORE[0])
    with fl.backends.use(compiled):
        value = build(CORE[0])(x, y)
        _, sizes = allocations(value.backward)
    assert not large(sizes) or x.dtype in (torch.float16, torch.bfloat16)

"""What `fuse(loss, verify=True)` reports: the original and the fused module side by side."""

from __future__ import annotations

import copy
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ROUNDS = 7


@dataclass(frozen=True)
class Report:
    """The original against the fused loss on the same inputs, forward and backward.

    Attributes:
        value, fused_value: of the losses (summed, if they are not scalars).
        difference: |value - fused_value| / max(|value|, 1).
        gradient_difference: norm of the difference of the gradients / norm of the original's.
        seconds, fused_seconds: median time of a call, interleaved (CPU time on one thread; wall time on a device).
        bytes, fused_bytes: the most that a call holds at once beyond its inputs.
    """

    value: float
    fused_value: float
    difference: float
    gradient_difference: float
    seconds: float
    fused_seconds: float
    bytes: int
    fused_bytes: int

    @property
    def time_ratio(self) -> float:
        """How many times longer the original takes."""
        return self.seconds / self.fused_seconds

    @property
    def memory_ratio(self) -> float:
        """How many times more memory the original holds."""
        return self.bytes / max(self.fused_bytes, 1)

    def __str__(self) -> str:
        return (
            f"value {self.value:.7g}, fused {self.fused_value:.7g} (difference {self.difference:.1e}); "
            f"gradients differ by {self.gradient_difference:.1e}; time {self.time_ratio:.2f}x ({self.seconds:.3g} s "
            f"against {self.fused_seconds:.3g} s), memory {self.memory_ratio:.2f}x ({self.bytes} bytes against "
            f"{self.fused_bytes})"
        )


def verify(original: Any, fused: Any, shape: Any, inputs: Any) -> Report:
    original = original if callable(original) else _PlainSum(original)
    if inputs is None:
        if shape is None:
            raise ValueError("verify=True needs shape, that of the logits [N, C, *S], or inputs; got neither.")
        inputs = _random_inputs(original, tuple(shape))
    logits, rest = inputs[0], tuple(inputs[1:])
    single = isinstance(logits, Tensor)
    leaves = [t.detach().clone().requires_grad_() for t in ([logits] if single else logits)]
    given = leaves[0] if single else leaves

    def step(loss: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, list[Tensor]]]:
        def run() -> tuple[Tensor, list[Tensor]]:
            value = loss(given, *rest).sum()
            found = torch.autograd.grad(value, leaves, allow_unused=True)
            return value.detach(), [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found)]

        return run

    steps = [step(original), step(fused)]
    (value, grads), (fused_value, fused_grads) = [run() for run in steps]
    a, b = [torch.cat([g.double().flatten() for g in found]) for found in (grads, fused_grads)]
    seconds = _seconds(steps, leaves[0])
    return Report(
        value=value.item(),
        fused_value=fused_value.item(),
        difference=(value.double() - fused_value.double()).abs().item() / max(abs(value.item()), 1.0),
        gradient_difference=((a - b).norm() / a.norm().clamp_min(1e-300)).item(),
        seconds=seconds[0],
        fused_seconds=seconds[1],
        bytes=_peak(steps[0], leaves[0]),
        fused_bytes=_peak(steps[1], leaves[0]),
    )


class _PlainSum:
    """A list of pairs, unfused."""

    def __init__(self, pairs: Sequence[tuple[float, Any]]) -> None:
        self.pairs = pairs

    def __call__(self, *inputs: Any) -> Tensor:
        return sum([weight * loss(*inputs) for weight, loss in self.pairs], start=torch.zeros(()))


def _random_inputs(loss: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Logits and the first kind of target that the original takes: class indices without and with a channel axis,
    masks; for losses of lists the same with three levels."""
    generator = torch.Generator().manual_seed(0)
    samples, channels, *space = shape
    indices = torch.randint(0, max(channels, 2), (samples, *space), generator=generator)
    masks = (torch.rand(shape, generator=generator) < 0.4).float()
    targets: list[Any] = [indices, indices[:, None], indices[:, None].float(), masks]
    sizes = [[max(1, n >> level) for n in space] for level in range(3)]
    pyramid = [torch.randn(samples, channels, *size, generator=generator) for size in sizes]
    steps = [tuple([slice(None, None, n // m) for n, m in zip(space, size)]) for size in sizes]
    resized = [[t[(..., *step)][(..., *[slice(m) for m in size])] for step, size in zip(steps, sizes)] for t in targets]
    reasons = []
    for x, y in [(pyramid[0], t) for t in targets] + [(pyramid, t) for t in targets] + [(pyramid, t) for t in resized]:
        probe = copy.deepcopy(x)
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                loss(probe, y)
        except Exception as error:  # the original's own errors, of any kind: the next kind of target may fit
            reasons.append(f"{type(error).__name__}: {error}")
        else:
            return x, y
    raise ValueError(f"shape {list(shape)} gives no inputs that the original takes; pass inputs. First: {reasons[0]}")


def _seconds(steps: list[Callable[[], Any]], x: Tensor) -> list[float]:
    """Median seconds of each, interleaved."""
    clock = time.thread_time if x.device.type == "cpu" else time.perf_counter
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taken: list[list[float]] = [[] for _ in steps]
    try:
        for _ in range(ROUNDS):
            for run, times in zip(steps, taken):
                _wait(x)
                begin = clock()
                run()
                _wait(x)
                times.append(clock() - begin)
    finally:
        torch.set_num_threads(threads)
    return [statistics.median(times) for times in taken]


def _wait(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)


def _peak(run: Callable[[], Any], x: Tensor) -> int:
    """Bytes that a call holds at most: from the profiler's list of allocations, or CUDA's own count."""
    if x.device.type == "cuda":
        before = torch.cuda.memory_allocated(x.device)
        torch.cuda.reset_peak_memory_stats(x.device)
        run()
        return torch.cuda.max_memory_allocated(x.device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with _quiet(), torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    profiler: Any = profile.profiler
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@contextmanager
def _quiet() -> Iterator[None]:
    """Send the process's standard error nowhere: the profiler's C++ writes of each start and stop there."""
    _flush()
    try:
        kept = os.dup(2)
    except OSError:  # closed already
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        _flush()
        os.dup2(kept, 2)
        os.close(kept)


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()

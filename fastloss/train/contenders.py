"""The same loss by fastloss and by other libraries, as `--compare` times them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fastloss
from fastloss.compound import Criterion
from fastloss.measure import memory
from fastloss.measure.cases import Case
from fastloss.measure.formula import same_formula
from fastloss.measure.peers import PEERS, NotOffered
from fastloss.measure.providers import Contender as MeasuredContender

OURS = "fastloss"
FEW_CLASSES = 14
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Contender:
    """loss(logits, target(labels)); `note`: what stands in, or why the formula is another one."""

    name: str
    loss: Loss
    target: Callable[[Tensor], Tensor]
    note: str = ""
    same: bool = True


def contenders(criterion: Criterion, shape: tuple[int, ...], peers: list[str]) -> tuple[list[Contender], list[str]]:
    """fastloss first; and in words which peers have no such loss. "compiled" adds torch.compile of each peer, or of
    plain torch if no library is named."""
    case = case_of(criterion, shape)
    found, missing = [Contender(OURS, criterion, _same)], []
    # Formulas are compared on few voxels, where many classes would be absent, which libraries treat differently.
    few = replace(case, shape=(shape[0], min(shape[1], FEW_CLASSES), *shape[2:]))
    labels = Tensor.long if case.mode == "multiclass" else _same  # class ids as torch wants them
    libraries = [name for name in peers if name != "compiled"]
    for library in libraries or ["torch"]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                offer = PEERS[library](case)
                twin = PEERS[library](few)
                other = offer.other or same_formula(few, twin.loss, twin.target)
        except NotOffered as error:
            missing.append(f"{library}: {error}")
            continue
        target = partial(_after, offer.target, labels)
        note = "; ".join([words for words in (f"other formula: {other}" if other else "", offer.note) if words])
        if libraries:
            found.append(Contender(library, offer.loss, target, note, not other))
        if "compiled" in peers:
            program = torch.compile(_wrap(offer.loss), dynamic=False)
            found.append(Contender(f"{library} compiled", program, target, note, not other))
    return found, missing


def _same(y: Tensor) -> Tensor:
    return y


def _after(second: Callable[[Tensor], Tensor], first: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    return second(first(y))


def deep(found: list[Contender], weights: tuple[float, ...]) -> list[Contender]:
    """The contenders for a network with several outputs, stacked in axis 1, all of full size (MONAI's DynUNet):
    fastloss's DeepSupervisionLoss, and for the others what MONAI's does, the weighted sum of a call for each."""

    def summed(loss: Loss) -> Loss:
        def call(x: Tensor, y: Tensor) -> Tensor:
            values = [weight * loss(level, y) for weight, level in zip(weights, x.unbind(1))]
            return sum(values[1:], values[0])

        return call

    made = []
    for each in found:
        loss = summed(each.loss)
        if each.name == OURS:
            pyramid = fastloss.DeepSupervisionLoss(each.loss, weights)
            loss = _unbound(pyramid)
        made.append(Contender(each.name, loss, each.target, each.note, each.same))
    return made


def _unbound(pyramid: fastloss.DeepSupervisionLoss) -> Loss:
    return lambda x, y: pyramid(list(x.unbind(1)), y)


def _wrap(loss: Loss) -> Loss:
    """A fresh function for each case: one shared code object would meet torch.compile's recompile limit."""

    def call(x: Tensor, y: Tensor) -> Tensor:
        return loss(x, y)

    return call


def case_of(criterion: Criterion, shape: tuple[int, ...]) -> Case:
    """The bench's description of a criterion, by which it knows what the libraries offer."""
    return Case(repr(criterion), "training", shape, criterion.mode, criterion.spec.terms)


def split(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return (value, gradient): forward, and backward no further than the logits."""
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, target)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def time_call(device: torch.device, work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and its seconds: between two CUDA events, launch gaps included, or of the clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        result = work()
        return result, time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    result = work()
    end.record()
    end.synchronize()
    return result, start.elapsed_time(end) / 1e3


def measure_memory(each: Contender, logits: Tensor, y: Tensor) -> dict[str, int]:
    """Count bytes beyond logits and target: the most during forward and backward, and what lives between them."""
    target = each.target(y)
    if logits.device.type != "cuda":
        leaf = logits.clone().requires_grad_()
        found = memory.measure(MeasuredContender("", "eager", "", each.loss, target, ""), leaf)
        return {"loss_peak_bytes": found.peak, "kept_bytes": found.kept}
    leaf = logits.clone().requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    value = each.loss(leaf, target)
    kept = torch.cuda.memory_allocated() - before
    torch.autograd.grad(value, leaf)
    return {"loss_peak_bytes": torch.cuda.max_memory_allocated() - before, "kept_bytes": kept}

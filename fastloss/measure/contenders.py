"""Contenders of a case: fastloss and its peers, eager and compiled, each with its own target."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastloss import DeepSupervisionLoss
from fastloss.compound import Criterion, Part
from fastloss.deep import halving

from . import formula
from .cases import COMPILED, IGNORED, TARGETS, Case, by_level
from .peers import Loss, NotOffered, offer, own_target
from .plain import split

OURS = "fastloss"
_names = map("loss_{}".format, itertools.count())


@dataclass
class Contender:
    """One way to compute a case: loss(x, target(truth)); of a pyramid x and truth are lists of levels, finest first.

    `role`: ours, ours-alt (with the target dtype of the peers), peer, baseline (no library ships it), other (another
    formula, never compared). `dtype`: the target's, in words. `y`: the target that `on` has bound.
    """

    key: str
    role: str
    loss: Loss
    target: Callable[[Tensor], Any] = lambda y: y
    dtype: str = ""
    notes: list[str] = field(default_factory=list)
    y: Any = None

    def on(self, truth: Any) -> Contender:
        """Bind the target of this truth."""
        return replace(self, y=by_level(self.target, truth))

    def step(self, x: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return loss and gradients of the logits, as in a training step (no leaf there: nothing accumulates)."""
        loss = self.loss(x, self.y)
        return loss, torch.autograd.grad(loss, x)


def _own_code(loss: Loss) -> Loss:
    """Make a function with a code object of its own: dynamo counts recompilations by code object."""

    def call(x: Any, y: Any) -> Tensor:
        return loss(x, y)

    call.__code__ = call.__code__.replace(co_name=next(_names))
    return call


def make_criterion(case: Case, backend: str | None = None) -> Criterion:
    """Make fastloss's loss of a case; backend None or "auto": the default of the device."""
    parts = [Part(term.kind, term.kind, term) for term in case.terms]
    ignore_index = IGNORED if case.ignored == "index" else None
    return Criterion(parts, case.mode, ignore_index, None if backend == "auto" else backend)


def make_ours(case: Case, backend: str | None = None, key: str = OURS) -> Contender:
    """Make fastloss's contender."""
    loss = mine = make_criterion(case, backend)
    if case.levels > 1:
        pyramid = DeepSupervisionLoss(mine)
        loss = lambda x, y: pyramid(x, y[0])  # noqa: E731
    elif case.ignored == "mask":
        loss = lambda x, y: mine(x, *split(case, y))  # noqa: E731
    return Contender(key, "ours", loss, partial(own_target, case), case.target)


def make_peer(case: Case, library: str, compiler: str = "") -> Contender:
    """Make a library's contender, eager or by this backend of torch.compile; NotOffered if it has no such loss.

    Levels are weighted and summed as users do it, in the same compiled region.
    """
    found, few = offer(case, library), formula.small(case)
    differs = found.other
    if library != "torch" and not differs:
        twin = offer(few, library)
        differs = formula.same_formula(few, twin.loss, twin.target)
    notes = [f"other formula: {differs}"] if differs else []
    notes += [found.note] if found.note else []
    natural = {term.kind for term in case.terms} <= {"bce", "ce", "topk"}  # users call plain torch directly
    role = "other" if differs else "peer" if library != "torch" or natural else "baseline"
    loss = found.compiled(compiler) if compiler and found.compiled else found.loss
    if case.levels > 1:
        loss = _weighted(loss, halving(case.levels))
    if compiler and not found.compiled:
        loss = torch.compile(_own_code(loss), dynamic=False, backend=compiler)
    return Contender(f"{library} compiled" if compiler else library, role, loss, found.target, found.dtype, notes)


def _weighted(single: Loss, weights: tuple[float, ...]) -> Loss:
    def loss(xs: list[Tensor], ys: list[Any]) -> Tensor:
        values = [weight * single(x, y) for weight, x, y in zip(weights, xs, ys)]
        return sum(values[1:], values[0])

    return loss


def make_contenders(
    case: Case, libraries: list[str], *, compiled: bool, backend: str | None = None, every_dtype: bool = True
) -> tuple[list[Contender], dict[str, str]]:
    """Make all contenders of a case, fastloss first (`every_dtype`: also with the target that the peers are given), and
    say why the others are missing ({name: reason})."""
    mine = make_ours(case, backend)
    found, missing = [mine], {}
    wide = "int64" if case.mode == "multiclass" else case.dtype
    if every_dtype and wide != case.target:
        target = lambda y: y.to(TARGETS[wide])  # noqa: E731
        found.append(replace(mine, key=f"{OURS}:{wide}", role="ours-alt", target=target, dtype=wide))
    compilers = ("", "inductor") if compiled and case.peers == COMPILED else ("",)
    for library in libraries:
        try:
            found += [make_peer(case, library, compiler) for compiler in compilers]
        except NotOffered as error:
            missing[library] = str(error)
    return found, missing

"""Contenders of one case: fastloss, the peers eager and compiled, each with its own target."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import plain
from .cases import DTYPES, IGNORED, TARGETS, Case, Term
from .formula import same_formula
from .peers import MODULES, PEERS, NotOffered, natural

OURS = "fastloss"


@dataclass
class Contender:
    """One way to compute a case. `role`: ours, ours-alt, peer, baseline (not counted), other (another formula)."""

    library: str
    how: str
    role: str
    loss: Callable[[Tensor, Tensor], Tensor]
    y: Tensor
    target: str
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.library if self.how == "eager" or self.library == OURS else f"{self.library} compiled"

    @property
    def key(self) -> str:
        return f"{self.library}:{self.target}" if self.role == "ours-alt" else self.name

    def step(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and gradient of the logits as a training step needs them (there no leaf: nothing accumulates)."""
        loss = self.loss(x, self.y)
        return loss, torch.autograd.grad(loss, x)[0]


def installed(names: list[str]) -> tuple[list[str], list[str]]:
    """Split peer names into those that can be imported and those that cannot."""
    there = [n for n in names if importlib.util.find_spec(MODULES[n]) is not None]
    return there, [n for n in names if n not in there]


def ours(case: Case, backend: str | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """The fastloss criterion of a case."""
    import fastloss

    extra = {} if backend in (None, "auto") else {"backend": backend}
    if case.ignored == "index":
        extra["ignore_index"] = IGNORED

    def make(t: Term):
        if t.kind == "bce":
            return fastloss.BCEWithLogitsLoss(case.mode, **extra)
        if t.kind == "ce":
            return fastloss.CrossEntropyLoss(case.mode, label_smoothing=t.smoothing, **extra)
        if t.kind == "focal":
            return fastloss.FocalLoss(case.mode, gamma=t.gamma, **extra)
        if t.kind == "topk":
            return fastloss.TopKLoss(case.mode, k=t.k, **extra)
        if t.kind == "dice":
            return fastloss.DiceLoss(case.mode, **extra)
        if t.kind == "iou":
            return fastloss.JaccardLoss(case.mode, **extra)
        return fastloss.TverskyLoss(case.mode, alpha=t.alpha, beta=t.beta, **extra)

    parts = [make(t) if t.weight == 1 else t.weight * make(t) for t in case.terms]
    criterion = sum(parts[1:], parts[0])
    return criterion if case.ignored != "mask" else lambda x, y: criterion(x, *plain.split(case, y))


def _ours(case: Case, y: Tensor, backend: str | None, every_dtype: bool) -> list[Contender]:
    criterion = ours(case, backend)
    found = [Contender(OURS, "eager", "ours", criterion, y.to(TARGETS[case.target]), case.target)]
    wide = "int64" if case.mode == "multiclass" else case.dtype  # what the peers are given, side by side
    if every_dtype and wide != case.target:
        found.append(Contender(OURS, "eager", "ours-alt", criterion, y.to(TARGETS[wide]), wide))
    return found


def contenders(
    case: Case, y: Tensor, libraries: list[str], *, compiled: bool, backend: str | None, every_dtype: bool = True
) -> tuple[list[Contender], dict[str, str]]:
    """All contenders of a case, fastloss first, and why the others are missing ({name: reason})."""
    missing: dict[str, str] = {}
    return _ours(case, y, backend, every_dtype) + peers(case, y, libraries, compiled=compiled, missing=missing), missing


def peers(
    case: Case, y: Tensor, libraries: list[str], *, compiled: bool, missing: dict[str, str] | None = None
) -> list[Contender]:
    """Everything but fastloss; the reasons of those that have no such loss go into `missing`."""
    found = []
    for library in libraries:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                offer = PEERS[library](case)
        except NotOffered as error:
            if missing is not None:
                missing[library] = str(error)
            continue
        target = offer.target(y)
        differs = offer.other or same_formula(case, offer.loss, offer.target)
        notes = [f"other formula: {differs}"] if differs else []
        notes += [offer.note] if offer.note else []
        role = "other" if differs else "peer" if library != "torch" or natural(case) else "baseline"
        found.append(Contender(library, "eager", role, offer.loss, target, offer.target_note, notes))
        if compiled and case.group != "overhead":
            # A fresh function per case: one shared code object would meet its recompile limit.
            program = torch.compile(_wrap(offer.loss), dynamic=False)
            found.append(Contender(library, "compiled", role, program, target, offer.target_note, list(notes)))
    return found


def _wrap(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def call(x: Tensor, y: Tensor) -> Tensor:
        return loss(x, y)

    return call


def fresh_logits(case: Case, x: Tensor) -> Tensor:
    return x.detach().to(DTYPES[case.dtype]).requires_grad_()

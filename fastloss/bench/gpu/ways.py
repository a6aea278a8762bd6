"""Ways to compute a problem on a GPU: the CUDA backend on each path, Triton, the peers eager and compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
from torch import Tensor

from fastloss.deep import halving
from fastloss.measure import peers as cpu_peers
from fastloss.measure import plain
from fastloss.measure.cases import DTYPES, Case, Term
from fastloss.measure.formula import same_formula
from fastloss.measure.peers import Loss, NotOffered, Offer, natural
from fastloss.measure.providers import ours

from .cases import COMPILED, Problem, own_target

FORCED = ("cuda resident", "cuda split")
OURS = ("cuda", *FORCED, "triton")
DRY_OURS = ("cuda", "cuda split", "triton")
DRY_BACKENDS = {"cuda": "cpu", "triton": "reference"}


@dataclass
class Way:
    """`loss(xs, targets)` over the levels of a problem; `target` makes a level's target of its int64 truth."""

    key: str
    role: str  # ours, peer, other (another formula)
    loss: Callable[[list[Tensor], list[Tensor]], Tensor]
    target: Callable[[Tensor], Tensor]
    target_name: str
    notes: list[str] = field(default_factory=list)

    def step(self, xs: list[Tensor], ys: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        loss = self.loss(xs, ys)
        return loss, torch.autograd.grad(loss, xs)


def backend_of(key: str, dry: bool) -> str:
    name = key.partition(" ")[0]
    return DRY_BACKENDS[name] if dry else name


def path_of(key: str) -> str:
    """What FASTLOSS_CUDA_PATH is set to for this way."""
    return key.partition(" ")[2] or "auto"


def own(problem: Problem, key: str, dry: bool) -> Way:
    """fastloss; the path of the CUDA backend is the process's own (see `lanes`)."""
    criterion = ours(problem.case, backend_of(key, dry))
    loss = lambda xs, ys: criterion(xs[0], ys[0])  # noqa: E731
    if problem.levels > 1:
        from fastloss import DeepSupervisionLoss

        pyramid = DeepSupervisionLoss(criterion)
        loss = lambda xs, ys: pyramid(xs, ys[0])  # noqa: E731
    return Way(key, "ours", loss, lambda y: own_target(problem, y), problem.case.target)


def nnunet(case: Case) -> Offer:
    """Its softmax Dice, alone or with CE. It is -Dice, so 1 is added."""
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
    from nnunetv2.utilities.helpers import softmax_helper_dim1

    kinds = [t.kind for t in case.terms]
    if case.mode != "multiclass" or kinds not in (["dice"], ["dice", "ce"]):
        raise NotOffered("nnU-Net's compiled Dice is softmax Dice, alone or with CE")
    sums = {"batch_dice": True, "smooth": 0.0, "do_bg": True, "ddp": False}
    if len(kinds) == 1:
        loss: torch.nn.Module = MemoryEfficientSoftDiceLoss(softmax_helper_dim1, **sums)
    else:
        loss = DC_and_CE_loss(
            sums,
            {},
            weight_dice=case.terms[0].weight,
            weight_ce=case.terms[1].weight,
            dice_class=MemoryEfficientSoftDiceLoss,
        )
    shift = case.terms[0].weight

    def call(x: Tensor, y: Tensor) -> Tensor:
        return loss(x, y) + shift

    call.module = loss
    return Offer(call, lambda y: y[:, None], "int64")


def torchvision(case: Case) -> Offer:
    from torchvision.ops import sigmoid_focal_loss

    if case.mode == "multiclass" or [t.kind for t in case.terms] != ["focal"]:
        raise NotOffered("torchvision has sigmoid focal loss only")
    term: Term = case.terms[0]

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return sigmoid_focal_loss(x, y, alpha=-1, gamma=term.gamma, reduction="mean")

    return Offer(loss, lambda y: y.to(DTYPES[case.dtype]), case.dtype)


PEERS = {**cpu_peers.PEERS, "nnunet": nnunet, "torchvision": torchvision}
MODULES = {**cpu_peers.MODULES, "nnunet": "nnunetv2", "torchvision": "torchvision"}
PACKAGES = {**cpu_peers.PACKAGES, "torchvision": "torchvision"}
TRITON_KERNELS = ("exacta",)  # nothing left to compile
AS_SHIPPED_COMPILED = ("nnunet",)  # its trainer compiles the Dice
# The fastest (eager, compiled) of each formula: on an H200 where bench/results/gpu-first-design has it (Dice, top-k),
# else on a CPU (bench/results). What no library offers in this form, and many classes, is plain torch, as its users
# would write it.
MANY = 100
PLAIN = ("torch", "torch")
BEST = {
    "binary": {"dice": ("monai", "smp"), "dice+focal": ("smp", "smp"), "focal": ("smp", "smp")},
    "multiclass": {"dice+focal": ("monai", "torch"), "dice+ce": ("monai", "smp")},
    "pyramid": {"dice+ce": ("monai", "nnunet"), "dice+focal": ("monai", "torch")},
}


def usual(case: Case) -> bool:
    """Whether libraries offer it without conditions: every pixel counts, no smoothing, hard labels, gamma 2."""
    return not case.ignored and case.target != "float32" and all(t.smoothing == 0 and t.gamma == 2 for t in case.terms)


def best(problem: Problem) -> tuple[str, str]:
    """The library that is fastest eager, and the one that is fastest under torch.compile."""
    if natural(problem.case) or not usual(problem.case) or problem.case.shape[1] > MANY:
        return PLAIN
    mode = "pyramid" if problem.levels > 1 else problem.case.mode.replace("multilabel", "binary")
    return BEST[mode].get("+".join(t.kind for t in problem.case.terms), ("monai", "smp"))


def wanted(problem: Problem, libraries: list[str] | None) -> list[str]:
    """The keys of the peers of a problem: the best ones, or all of `libraries`; who offers no such loss says so."""
    if not problem.peers:
        return []
    eager, compiled = ([name] for name in best(problem)) if libraries is None else (libraries, libraries)
    keys = [name for name in eager if name not in AS_SHIPPED_COMPILED]
    if problem.peers == COMPILED:
        keys += [f"{name} compiled" for name in compiled if name not in TRITON_KERNELS]
    return keys


def installed(libraries: list[str] | None = None) -> tuple[list[str], list[str]]:
    """Split peers into those that can be imported and those that cannot."""
    names = list(PEERS) if libraries is None else libraries
    there = [name for name in names if find_spec(MODULES[name]) is not None]
    return there, [name for name in names if name not in there]


def peer(problem: Problem, key: str, dry: bool) -> Way:
    """One peer; levels are weighted and summed as users do it, in the same compiled region.

    Raises NotOffered where the library has no such loss.
    """
    library, _, how = key.partition(" ")
    if not usual(problem.case):
        if library != "torch":
            raise NotOffered("compared with plain torch only")
        offer = Offer(plain.build(problem.case), lambda y: own_target(problem, y), problem.case.target)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            offer = PEERS[library](problem.case)
    differs = usual(problem.case) and (offer.other or same_formula(problem.case, offer.loss, offer.target))
    notes = [f"other formula: {differs}"] if differs else []
    notes += [offer.note] if offer.note else []
    weights = halving(problem.levels)

    def loss(xs: list[Tensor], ys: list[Tensor]) -> Tensor:
        if len(xs) == 1:
            return offer.loss(xs[0], ys[0])
        return sum(w * offer.loss(x, y) for w, x, y in zip(weights, xs, ys))

    if how:
        loss = _compile(loss, offer.loss, dry)
    return Way(key, "other" if differs else "peer", loss, offer.target, offer.target_note, notes)


def _compile(loss: Loss, single: Loss, dry: bool) -> Loss:
    backend = "aot_eager" if dry else "inductor"  # a dry run has no time for a compiler
    module = getattr(single, "module", None)
    if module is not None:  # as nnU-Net's trainer does it: the Dice, not the sum
        dice = getattr(module, "dc", None)
        if dice is not None:
            module.dc = torch.compile(dice, dynamic=False, backend=backend)
            return loss
    # A code object of its own, since dynamo counts recompilations by code object.
    loss.__code__ = loss.__code__.replace(co_name=f"loss_{id(loss)}")
    return torch.compile(loss, dynamic=False, backend=backend)


def build(problem: Problem, key: str, dry: bool = False) -> Way:
    return own(problem, key, dry) if key in OURS else peer(problem, key, dry)

"""What is measured on a GPU, in the order of what matters most, and the bytes that each path moves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import cases
from ..cases import BCE, CE, DICE, DTYPES, FOCAL, IOU, TARGETS, Case, Term

TOPK = Term("topk", k=0.1)
SUMS = {
    "dice": (DICE,),
    "topk": (TOPK,),
    "bce": (BCE,),
    "focal": (FOCAL,),
    "dice+bce": (DICE, BCE),
    "dice+focal": (DICE, FOCAL),
    "iou+topk": (IOU, TOPK),
    "dice+ce": (DICE, CE),
}
SHAPES = {
    "64": (1, 1, 64, 64),
    "2mpx": (32, 1, 256, 256),
    "8mpx": (8, 1, 1024, 1024),
    "268mpx": (64, 1, 2048, 2048),
    "c9": (8, 9, 224, 224),
    "c14": (2, 14, 96, 96, 96),
    "c3": (2, 3, 128, 128, 128),
    "c118": (1, 118, 96, 96, 96),
}
DRY = {
    "64": (1, 1, 8, 8),
    "2mpx": (4, 1, 24, 24),
    "8mpx": (2, 1, 40, 40),
    "268mpx": (4, 1, 48, 48),
    "c9": (2, 9, 16, 16),
    "c14": (2, 14, 16, 16, 16),
    "c3": (2, 3, 16, 16, 16),
    "c118": (1, 118, 16, 16, 16),
}
BINARY, MANY = ("2mpx", "8mpx", "268mpx"), ("c9", "c14", "c3", "c118")
TAGS = {"float32": "fp32", "bfloat16": "bf16"}
EAGER, COMPILED = "eager", "compiled"  # which peers: the eager ones, or those under torch.compile too


@dataclass(frozen=True)
class Problem:
    """A case of one or more levels (a deep-supervision pyramid), and who is to run it."""

    case: Case
    size: str
    levels: int = 1
    peers: str = ""
    paths: bool = False

    @property
    def name(self) -> str:
        return self.case.name

    @property
    def parts(self) -> list[Case]:
        """The case of each level, the finest first; every level halves each axis."""
        n, c, *space = self.case.shape
        return [replace(self.case, shape=(n, c, *(s >> i for s in space))) for i in range(self.levels)]

    @property
    def topk(self) -> bool:
        return any(t.kind == "topk" for t in self.case.terms)

    @property
    def region(self) -> bool:
        return any(t.region for t in self.case.terms)

    @property
    def least_bytes(self) -> int:
        """Logits and targets read once, the gradient written once."""
        return sum(part.least_bytes() for part in self.parts)

    @property
    def one_gradient(self) -> int:
        return sum(part.logits_bytes for part in self.parts)

    def fits(self, path: str) -> bool:
        """Whether it makes sense to force a path: `small` is one block, `resident` and `shared` stay on the chip."""
        if path == "small":
            return self.case.numel <= 1 << 16
        return path not in ("resident", "shared") or self.one_gradient <= 64 << 20

    def path_bytes(self, path: str) -> int | None:
        """What a path moves between the chip and its memory if no cache helps; None where that is not one number.

        `resident`, `shared` and `small` read once and write once, as does a pointwise loss in any way. `split` reads
        logits and targets for the sums and once more for the gradient; each digit of a top-k selection is another such
        read, of which the first goes with the sums. With classes, keys of four bytes are written and read for three
        digits, in a pass of their own before the sums.
        """
        if path in ("resident", "shared", "small") or not (self.region or self.topk):
            return self.least_bytes
        if path != "split":
            return None
        classes = self.case.mode == "multiclass"
        reads = 2 + self.region if classes and self.topk else 4 if self.topk else 2
        keys = 16 * sum(part.pixels for part in self.parts) if classes and self.topk else 0
        return self.least_bytes + (reads - 1) * (self.least_bytes - self.one_gradient) + keys


def _problem(size, loss, dtype="float32", target="uint8", levels=1, peers="", paths=False, mode="", dry=False):
    shape = (DRY if dry else SHAPES)[size]
    mode = mode or ("binary" if shape[1] == 1 else "multiclass")
    name = f"{loss}-{size}-{TAGS[dtype]}"
    name += "-multilabel" if mode == "multilabel" else ""
    name += "" if target == "uint8" else f"-{target}"
    name += "" if levels == 1 else f"-{levels}levels"
    return Problem(Case(name, size, shape, mode, SUMS[loss], dtype, target), size, levels, peers, paths)


def resident(dry: bool = False) -> list[Problem]:
    """The first thing that a GPU is asked: are the resident kernels what the design hopes for?"""
    pairs = [(size, dtype) for dtype in TAGS for size in ("8mpx", "2mpx")]
    return [_problem(s, loss, d, paths=True, dry=dry) for s, d in pairs for loss in ("dice", "topk")]


def full(dry: bool = False) -> list[Problem]:
    """Everything else. What has a bar comes first: the time may run out."""
    every = []

    def add(size: str, *losses: str, **settings: object) -> None:
        every.extend(_problem(size, loss, dry=dry, **settings) for loss in losses)

    add("8mpx", "dice", "topk", peers=COMPILED, paths=True)
    add("2mpx", "dice", "topk", peers=COMPILED, paths=True)
    add("268mpx", "dice", peers=COMPILED, paths=True)
    add("c9", "dice+focal", peers=COMPILED, paths=True)
    add("c14", "dice+focal", "dice+ce", peers=COMPILED, paths=True)
    add("64", "dice", "bce", peers=EAGER, paths=True)
    add("8mpx", "dice", "topk", dtype="bfloat16", peers=COMPILED, paths=True)
    add("2mpx", "dice", "topk", dtype="bfloat16", paths=True)
    add("8mpx", "dice+focal", "focal", "dice+bce", "bce", "iou+topk", peers=COMPILED)
    add("c14", "topk", peers=COMPILED, paths=True)
    add("c9", "topk", peers=EAGER, paths=True)
    add("c9", "iou+topk", paths=True)
    add("268mpx", "topk", "dice+focal", peers=EAGER, paths=True)
    add("c14", "dice+ce", levels=4, peers=COMPILED)
    add("c9", "dice+focal", levels=4, peers=EAGER)
    add("c118", "dice+ce", peers=COMPILED)
    add("c3", "dice+bce", mode="multilabel", peers=COMPILED)
    add("c118", "dice+focal", peers=EAGER)
    add("c3", "dice+ce", "dice+focal", peers=EAGER)
    add("8mpx", "dice", target="int64", peers=EAGER)
    add("c14", "dice+ce", target="int64", peers=EAGER)
    add("268mpx", "dice", dtype="bfloat16", paths=True)
    add("c14", "dice+focal", "dice+ce", dtype="bfloat16", peers=EAGER)
    add("c9", "dice+focal", dtype="bfloat16", peers=EAGER)
    add("2mpx", "dice+focal", "focal", "dice+bce", "bce", "iou+topk", peers=EAGER)
    add("268mpx", "dice", target="int64")
    add("268mpx", "focal", "bce")
    add("8mpx", "dice+focal", "focal", "dice+bce", "bce", "iou+topk", dtype="bfloat16")
    add("2mpx", "dice+focal", "focal", "dice+bce", "bce", "iou+topk", dtype="bfloat16")
    add("268mpx", "topk", "dice+focal", dtype="bfloat16")
    add("c118", "dice+focal", "dice+ce", dtype="bfloat16")
    add("2mpx", "dice", target="int64")
    return _one_of_each(every) if dry else every


def _one_of_each(problems: list[Problem]) -> list[Problem]:
    """The first of each kind."""
    kinds = {}
    for p in problems:
        kinds.setdefault((p.case.mode, p.levels > 1, p.topk, p.case.dtype, p.case.target, p.size == "64"), p)
    return list(kinds.values())


def select(patterns: list[str] | None, problems: list[Problem]) -> list[Problem]:
    """As `cases.select`, over problems."""
    names = {c.name for c in cases.select(patterns, tuple(p.case for p in problems))}
    return [p for p in problems if p.name in names]


def inputs(problem: Problem, device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Logits with gradient, and int64 truth, of each level; the same values on every call on one kind of device."""
    made = [cases.draw(part.shape, part.mode, device) for part in problem.parts]
    dtype = DTYPES[problem.case.dtype]
    xs = [x.to(dtype).requires_grad_() for x, _ in made]
    ys = [y for _, y in made]
    if problem.levels > 1:  # the lower levels see the finest one's labels
        from fastloss.deep import sample

        ys = [sample(ys[0], x.shape[2:]) for x in xs]
    return xs, ys


def own_target(problem: Problem, y: Tensor) -> Tensor:
    return y.to(TARGETS[problem.case.target])


def clones(xs: list[Tensor], count: int) -> list[list[Tensor]]:
    """Further inputs of the same kind with other values, so that the cache holds none of them when its turn comes."""
    return [[torch.roll(x.detach(), i + 1, -1).requires_grad_() for x in xs] for i in range(count)]

"""What is measured on a GPU, in the order of what matters most, and the bytes that each path moves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastloss.measure import cases
from fastloss.measure.cases import BCE, CE, DICE, DTYPES, FOCAL, IGNORED, IOU, TARGETS, Case, Term
from fastloss.measure.plain import split

TOPK = Term("topk", k=0.1)
SUMS = {
    "dice": (DICE,),
    "topk": (TOPK,),
    "bce": (BCE,),
    "ce": (CE,),
    "focal": (FOCAL,),
    "focal1.5": (Term("focal", gamma=1.5),),
    "dice+bce": (DICE, BCE),
    "dice+focal": (DICE, FOCAL),
    "iou+topk": (IOU, TOPK),
    "dice+ce": (DICE, CE),
    "dice+smoothed": (DICE, Term("ce", smoothing=0.1)),
}
SHAPES = {
    "64": (1, 1, 64, 64),
    "2mpx": (32, 1, 256, 256),
    "4mpx": (16, 1, 512, 512),
    "8mpx": (8, 1, 1024, 1024),
    "16mpx": (16, 1, 1024, 1024),
    "268mpx": (64, 1, 2048, 2048),
    "c9": (8, 9, 224, 224),
    "c14": (2, 14, 96, 96, 96),
    "c3": (2, 3, 128, 128, 128),
    "c19": (4, 19, 512, 1024),
    "c118": (1, 118, 96, 96, 96),
    "c150": (2, 150, 512, 512),
}
DRY = {
    "64": (1, 1, 8, 8),
    "2mpx": (4, 1, 24, 24),
    "4mpx": (3, 1, 32, 32),
    "8mpx": (2, 1, 40, 40),
    "16mpx": (3, 1, 40, 40),
    "268mpx": (4, 1, 48, 48),
    "c9": (2, 9, 16, 16),
    "c14": (2, 14, 16, 16, 16),
    "c3": (2, 3, 16, 16, 16),
    "c19": (2, 19, 16, 24),
    "c118": (1, 118, 16, 16, 16),
    "c150": (2, 150, 24, 24),
}
TAGS = {"float32": "fp32", "bfloat16": "bf16"}
EAGER, COMPILED = "eager", "compiled"  # which peers: the best eager one, or the best one under torch.compile too
RESIDENT_BYTES = 256 << 20  # of logits: with more, nothing would stay on the chip


@dataclass(frozen=True)
class Problem:
    """A case of one or more levels (a deep-supervision pyramid), and who is to run it."""

    case: Case
    size: str
    levels: int = 1
    peers: str = COMPILED

    @property
    def name(self) -> str:
        return self.case.name

    @property
    def parts(self) -> list[Case]:
        """The case of each level, the finest first; every level halves each axis."""
        n, c, *space = self.case.shape
        return [replace(self.case, shape=(n, c, *(s >> i for s in space))) for i in range(self.levels)]

    @property
    def summed(self) -> bool:
        """Whether a gradient needs a sum over all pixels first, or a threshold."""
        return any(t.region or t.kind == "topk" for t in self.case.terms)

    @property
    def least_bytes(self) -> int:
        """Logits, targets and mask read once, the gradient written once."""
        return sum(part.least_bytes() for part in self.parts)

    @property
    def one_gradient(self) -> int:
        return sum(part.logits_bytes for part in self.parts)

    @property
    def forced(self) -> list[str]:
        """The paths of the CUDA backend that are forced too, so that the range of each can be read from a record."""
        if not self.summed or self.levels > 1 or self.size == "64":
            return []
        return ["resident", "split"] if self.one_gradient <= RESIDENT_BYTES else ["split"]

    def path_bytes(self, path: str) -> int | None:
        """The least that a path moves between the chip and its memory if no cache helps; None if that is open (auto).

        `resident` reads and writes once, as does a pointwise loss in any way. `split` reads once for the sums (and the
        digits of top-k) and once more for the gradient.
        """
        if path == "resident" or not self.summed:
            return self.least_bytes
        return 2 * self.least_bytes - self.one_gradient if path == "split" else None


def _problem(
    size, loss, dtype="float32", target="uint8", levels=1, peers=COMPILED, mode="", ignored="", dry=False
) -> Problem:
    shape = (DRY if dry else SHAPES)[size]
    mode = mode or ("binary" if shape[1] == 1 else "multiclass")
    name = f"{loss}-{size}-{TAGS[dtype]}"
    name += "-multilabel" if mode == "multilabel" else ""
    name += "" if target == "uint8" else f"-{target}"
    name += "" if levels == 1 else f"-{levels}levels"
    name += {"": "", "index": "-ignored", "mask": "-masked"}[ignored]
    return Problem(Case(name, size, shape, mode, SUMS[loss], dtype, target, ignored), size, levels, peers)


def bench(dry: bool = False) -> list[Problem]:
    """The rows that stand for all others."""
    rows: list[tuple[str, str, dict]] = [
        ("8mpx", "dice", {}),
        ("2mpx", "dice", {}),
        ("268mpx", "dice", {}),
        ("8mpx", "dice", {"dtype": "bfloat16"}),
        ("8mpx", "topk", {}),
        ("8mpx", "dice+bce", {"ignored": "mask"}),
        ("8mpx", "dice+bce", {"ignored": "index"}),
        ("8mpx", "dice+bce", {"target": "float32"}),
        ("8mpx", "focal1.5", {}),
        ("c9", "dice+focal", {}),
        ("c14", "dice+ce", {}),
        ("c14", "dice+ce", {"ignored": "index"}),
        ("c14", "dice+smoothed", {}),
        ("c118", "dice+ce", {}),
        ("c150", "dice+ce", {}),
        ("c14", "dice+ce", {"levels": 4}),
        ("64", "dice", {"peers": EAGER}),
    ]
    return [_problem(size, loss, dry=dry, **settings) for size, loss, settings in rows]


def more(dry: bool = False) -> list[Problem]:
    """The rest, those that peers are compiled for first."""
    every = []

    def add(sizes: str, losses: str, **settings: object) -> None:
        every.extend(_problem(s, loss, dry=dry, **settings) for s in sizes.split() for loss in losses.split())

    add("8mpx", "dice+focal focal dice+bce bce iou+topk")
    add("c14", "dice+focal topk")
    add("c3", "dice+bce", mode="multilabel")
    add("8mpx", "topk", dtype="bfloat16")
    add("c19", "ce", ignored="index")
    add("4mpx 16mpx", "dice", peers="")
    add("2mpx", "topk dice+focal focal dice+bce bce iou+topk", peers=EAGER)
    add("c9", "topk", peers=EAGER)
    add("c3", "dice+ce dice+focal", peers=EAGER)
    add("268mpx", "topk dice+focal", peers=EAGER)
    add("c118", "dice+focal", peers=EAGER)
    add("c9", "dice+focal", levels=4, peers=EAGER)
    add("c14", "dice+focal dice+ce", dtype="bfloat16", peers=EAGER)
    add("8mpx", "dice", target="int64", peers=EAGER)
    add("c14", "dice+ce", target="int64", peers=EAGER)
    add("64", "bce", peers=EAGER)
    add("8mpx", "dice+focal focal dice+bce bce iou+topk", dtype="bfloat16", peers="")
    add("2mpx", "dice topk dice+focal focal dice+bce bce iou+topk", dtype="bfloat16", peers="")
    add("268mpx", "focal bce", peers="")
    add("268mpx", "dice topk dice+focal", dtype="bfloat16", peers="")
    add("c9", "iou+topk", peers="")
    add("c9", "dice+focal", dtype="bfloat16", peers="")
    add("c118", "dice+focal dice+ce", dtype="bfloat16", peers="")
    return _one_of_each(every) if dry else every


def _one_of_each(problems: list[Problem]) -> list[Problem]:
    """The first of each kind."""
    kinds = {}
    for p in problems:
        kinds.setdefault((p.case.mode, p.levels > 1, p.case.dtype, p.case.target, p.peers), p)
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
    if problem.case.ignored:
        rng = torch.Generator(device).manual_seed(20240301)
        ys = [y.masked_fill(torch.rand(y.shape, generator=rng, device=device) < 0.1, IGNORED) for y in ys]
    return xs, ys


def own_target(problem: Problem, y: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
    """What fastloss and the plain formula are given: labels, with the mask if the case has one."""
    dtype = TARGETS[problem.case.target]
    if problem.case.ignored != "mask":
        return y.to(dtype)
    labels, mask = split(problem.case, y)
    return labels.to(dtype), mask


def clones(xs: list[Tensor], count: int) -> list[list[Tensor]]:
    """Further inputs of the same kind with other values, so that the cache holds none of them when its turn comes."""
    return [[torch.roll(x.detach(), i + 1, -1).requires_grad_() for x in xs] for i in range(count)]

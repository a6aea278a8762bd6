"""What is measured: shapes, dtypes, formulas in the terms of `fastloss.spec`, and inputs. No peer is imported here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastloss.deep import sample
from fastloss.spec import Term

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
TARGETS = {"uint8": torch.uint8, "int64": torch.int64, "float32": torch.float32, "bfloat16": torch.bfloat16}
TAGS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}
IGNORED = 255
LABELS = {
    "bce": "BCE",
    "ce": "CE",
    "focal": "Focal",
    "topk": "TopK",
    "dice": "Dice",
    "iou": "IoU",
    "tversky": "Tversky",
}
EAGER, COMPILED = "eager", "compiled"  # the peers of a case: eager ones, or those under torch.compile too


def kind(term: Term) -> str:
    """Return the kind of a term as users call it: Tversky with equal weights 1/2 is Dice, with 1 IoU."""
    if term.kind != "tversky":
        return term.kind
    return {(0.5, 0.5): "dice", (1.0, 1.0): "iou"}.get((term.alpha, term.beta), "tversky")


def label(term: Term) -> str:
    gamma = f" {term.gamma:g}" if term.kind == "focal" and term.gamma != 2 else ""
    return LABELS[kind(term)] + gamma + (" smoothed" if term.label_smoothing else "")


def by_level(function: Callable[..., Any], *values: Any) -> Any:
    """Apply a function to tensors, or to each level of pyramids (lists)."""
    return [function(*level) for level in zip(*values)] if isinstance(values[0], list) else function(*values)


@dataclass(frozen=True)
class Case:
    """One row: logits of `shape` [N, C, *S] in `dtype`, a target in `target` for fastloss, a weighted sum of terms.

    `ignored`: pixels of the truth that are IGNORED do not count, by `ignore_index` ("index") or by a mask ("mask").
    `levels`: of a deep-supervision pyramid; each level halves each axis. `peers`: EAGER, COMPILED, or "" for none.
    """

    name: str
    group: str
    shape: tuple[int, ...]
    mode: str
    terms: tuple[Term, ...]
    dtype: str = "float32"
    target: str = "uint8"
    ignored: str = ""
    levels: int = 1
    peers: str = COMPILED

    @property
    def title(self) -> str:
        ways = {"": "", "index": ", ignore_index", "mask": ", mask"}
        return "+".join(map(label, self.terms)) + ways[self.ignored]

    @property
    def kinds(self) -> list[str]:
        return [kind(term) for term in self.terms]

    @property
    def size(self) -> str:
        n, c, *space = self.shape
        spatial = f"{space[0]}^{len(space)}" if len(set(space)) == 1 else "x".join(map(str, space))
        return f"{n}x{c}x{spatial}"

    @property
    def parts(self) -> list[Case]:
        """The case of each level, the finest first."""
        n, c, *space = self.shape
        return [replace(self, shape=(n, c, *(s >> i for s in space)), levels=1) for i in range(self.levels)]

    @property
    def numel(self) -> int:
        """Logits of the finest level."""
        return torch.Size(self.shape).numel()

    @property
    def pixels(self) -> int:
        return self.numel // self.shape[1]

    @property
    def logits_bytes(self) -> int:
        """Bytes of the logits of all levels: those of one gradient."""
        return sum(part.numel for part in self.parts) * DTYPES[self.dtype].itemsize

    def least_bytes(self, target: str | None = None) -> int:
        """Count what no implementation can avoid: logits, targets and mask read once, the gradient written once."""
        pixel = TARGETS[target or self.target].itemsize * (1 if self.mode == "multiclass" else self.shape[1])
        pixel += self.ignored == "mask"
        return 2 * self.logits_bytes + pixel * sum(part.pixels for part in self.parts)


BCE, CE, FOCAL, TOPK = Term("bce"), Term("ce"), Term("focal", gamma=2.0), Term("topk", k=Fraction("0.6"))
DICE, IOU = Term("tversky"), Term("tversky", alpha=1.0, beta=1.0)
TVERSKY = Term("tversky", alpha=0.3, beta=0.7)
NAMED = {"bce": BCE, "focal": FOCAL, "topk": TOPK, "dice": DICE, "iou": IOU, "tversky": TVERSKY}
COMPOSITES = ("tversky+bce", "iou+bce", "iou+topk", "dice+focal")  # of paper 2: unweighted sums
SUMS = {name: tuple([NAMED[word] for word in name.split("+")]) for name in (*NAMED, *COMPOSITES)}
HALVES = (DICE.weighted(0.5), FOCAL.weighted(0.5))  # paper 1


def _all() -> tuple[Case, ...]:
    planes = [
        Case(f"{name}-{TAGS[dtype]}", f"2d-{TAGS[dtype]}", (32, 1, 256, 256), "binary", terms, dtype)
        for dtype in ("float32", "bfloat16")
        for name, terms in SUMS.items()
    ]
    return (
        *planes,
        Case("softmax2d-dice+focal", "softmax", (8, 9, 224, 224), "multiclass", HALVES),
        Case("softmax3d-dice+ce", "softmax", (1, 14, 96, 96, 96), "multiclass", (DICE, CE)),
        Case("softmax3d-dice+focal", "softmax", (1, 14, 96, 96, 96), "multiclass", (DICE, FOCAL)),
        Case("multilabel-dice+bce", "multilabel", (2, 3, 224, 224), "multilabel", (DICE, BCE)),
        *[Case(f"{name}-64", "overhead", (1, 1, 64, 64), "binary", terms, peers=EAGER) for name, terms in SUMS.items()],
    )


CASES = _all()
QUICK = (
    "bce-fp32 focal-fp32 topk-fp32 dice-fp32 tversky+bce-fp32 dice-bf16 softmax2d-dice+focal softmax3d-dice+ce "
    "multilabel-dice+bce bce-64 dice-64"
).split()


def select(patterns: list[str] | None, cases: tuple[Case, ...] = CASES) -> list[Case]:
    """Return cases whose name or group is a pattern, or else whose name contains it; ValueError if there is none."""
    if not patterns:
        return list(cases)
    chosen: list[Case] = []
    for pattern in patterns:
        found = [c for c in cases if pattern in (c.name, c.group)] or [c for c in cases if pattern in c.name]
        if not found:
            groups = ", ".join(dict.fromkeys(c.group for c in cases))
            raise ValueError(f"--cases: no case matches {pattern!r}; groups are {groups}, and --list prints every case")
        chosen += [c for c in found if c not in chosen]
    return chosen


def draw(shape: tuple[int, ...], mode: str, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Draw float32 logits that have learned something, and int64 truth of blobs: [N, C, *S] (sigmoid) or [N, *S]."""
    rng = torch.Generator(device).manual_seed(20240229)
    n, c, *space = shape
    pitch = 2 if min(space) < 64 else 16 if c <= 32 else 4  # small inputs and those of many classes meet every class
    coarse = [-(-s // pitch) for s in space]
    noise = torch.randn(n, c, *coarse, generator=rng, device=device)
    blobs = torch.nn.functional.interpolate(noise, size=space, mode="nearest")
    x = torch.randn(shape, generator=rng, device=device) * 1.5
    if mode == "multiclass":
        y = blobs.argmax(1)
        x.scatter_add_(1, y[:, None], torch.full_like(x[:, :1], 2.0))
        return x, y
    y = (blobs > 0.5).long()
    return x.add_(2.0 * y - 1.0), y


_drawn = lru_cache(maxsize=1)(draw)


def inputs(case: Case, device: str = "cpu") -> tuple[Any, Any]:
    """Return logits in the dtype of the case and int64 truth, or lists of them by level; the same values on every call
    (on a GPU others than on a CPU) and for every contender."""
    make = _drawn if device == "cpu" else draw
    made = [make(part.shape, case.mode, device) for part in case.parts]
    xs = [x.to(DTYPES[case.dtype], copy=make is _drawn) for x, _ in made]
    ys = [y for _, y in made]
    if case.levels > 1:  # the lower levels see the finest one's labels
        ys = [sample(ys[0], x.shape[2:]) for x in xs]
    if case.ignored:
        rng = torch.Generator(device).manual_seed(20240301)
        ys = [y.masked_fill(torch.rand(y.shape, generator=rng, device=device) < 0.1, IGNORED) for y in ys]
    return (xs, ys) if case.levels > 1 else (xs[0], ys[0])


def fresh(x: Any) -> Any:
    """Return the logits as leaves that require gradients."""
    return by_level(lambda level: level.detach().requires_grad_(), x)

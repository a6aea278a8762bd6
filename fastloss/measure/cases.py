"""What is measured: shapes, dtypes and formulas. Nothing here imports fastloss, a peer or a timer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
TARGETS = {"uint8": torch.uint8, "int64": torch.int64, "float32": torch.float32, "bfloat16": torch.bfloat16}
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


@dataclass(frozen=True)
class Term:
    """One weighted loss. alpha weighs FP and beta FN (Tversky); k is the kept fraction (TopK); smoothing is CE's."""

    kind: str
    weight: float = 1.0
    gamma: float = 2.0
    k: float = 0.6
    alpha: float = 0.5
    beta: float = 0.5
    smoothing: float = 0.0

    @property
    def label(self) -> str:
        gamma = f" {self.gamma:g}" if self.kind == "focal" and self.gamma != 2 else ""
        return LABELS[self.kind] + gamma + (" smoothed" if self.smoothing else "")

    @property
    def region(self) -> bool:
        return self.kind in ("dice", "iou", "tversky")


@dataclass(frozen=True)
class Case:
    """One row: logits of `shape` [N, C, *S] in `dtype`, a target in `target` for fastloss, a weighted sum of terms.

    `ignored`: pixels of the truth that are IGNORED do not count, by `ignore_index` ("index") or by a mask ("mask").
    """

    name: str
    group: str
    shape: tuple[int, ...]
    mode: str
    terms: tuple[Term, ...]
    dtype: str = "float32"
    target: str = "uint8"
    ignored: str = ""

    @property
    def title(self) -> str:
        ways = {"": "", "index": ", ignore_index", "mask": ", mask"}
        return "+".join(t.label for t in self.terms) + ways[self.ignored]

    @property
    def size(self) -> str:
        n, c, *space = self.shape
        spatial = f"{space[0]}^{len(space)}" if len(set(space)) == 1 else "x".join(map(str, space))
        return f"{n}x{c}x{spatial}"

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def pixels(self) -> int:
        return self.numel // self.shape[1]

    @property
    def logits_bytes(self) -> int:
        return self.numel * DTYPES[self.dtype].itemsize

    @property
    def target_numel(self) -> int:
        return self.pixels if self.mode == "multiclass" else self.numel

    def least_bytes(self, target: str | None = None) -> int:
        """Bytes that no implementation can avoid: read logits and targets once, write the gradient once."""
        masks = self.pixels if self.ignored == "mask" else 0
        return 2 * self.logits_bytes + self.target_numel * TARGETS[target or self.target].itemsize + masks


BCE, FOCAL, TOPK = Term("bce"), Term("focal"), Term("topk")
DICE, IOU, TVERSKY, CE = Term("dice"), Term("iou"), Term("tversky", alpha=0.3, beta=0.7), Term("ce")
SINGLE = {"bce": BCE, "focal": FOCAL, "topk": TOPK, "dice": DICE, "iou": IOU, "tversky": TVERSKY}
COMPOSITE = {  # the four composites of paper 2: unweighted sums
    "tversky+bce": (TVERSKY, BCE),
    "iou+bce": (IOU, BCE),
    "iou+topk": (IOU, TOPK),
    "dice+focal": (DICE, FOCAL),
}
HALF = 0.5  # paper 1: half Dice, half focal


def _all() -> list[Case]:
    sums = {name: (term,) for name, term in SINGLE.items()} | COMPOSITE
    cases = []
    for dtype, tag in (("float32", "fp32"), ("bfloat16", "bf16")):
        cases += [
            Case(f"{name}-{tag}", f"2d-{tag}", (32, 1, 256, 256), "binary", terms, dtype)
            for name, terms in sums.items()
        ]
    dice_focal = (Term("dice", HALF), Term("focal", HALF))
    cases += [
        Case("softmax2d-dice+focal", "softmax", (8, 9, 224, 224), "multiclass", dice_focal),
        Case("softmax3d-dice+ce", "softmax", (1, 14, 96, 96, 96), "multiclass", (DICE, CE)),
        Case("softmax3d-dice+focal", "softmax", (1, 14, 96, 96, 96), "multiclass", (DICE, FOCAL)),
        Case("multilabel-dice+bce", "multilabel", (2, 3, 224, 224), "multilabel", (DICE, BCE)),
    ]
    cases += [Case(f"{name}-64", "overhead", (1, 1, 64, 64), "binary", terms) for name, terms in sums.items()]
    return cases


CASES: tuple[Case, ...] = tuple(_all())
QUICK = (
    "bce-fp32",
    "focal-fp32",
    "topk-fp32",
    "dice-fp32",
    "tversky+bce-fp32",
    "dice-bf16",
    "softmax2d-dice+focal",
    "softmax3d-dice+ce",
    "multilabel-dice+bce",
    "bce-64",
    "dice-64",
)


def select(patterns: list[str] | None, cases: tuple[Case, ...] = CASES) -> list[Case]:
    """Cases whose name or group equals a pattern, or else whose name contains it; ValueError if there is none."""
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


def draw(shape: tuple[int, ...], mode: str, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 logits that have learned something, and integer truth made of blobs: [N, C, *S] (sigmoid) or [N, *S]."""
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


def inputs(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits in the dtype of the case and int64 truth; the same values on every call and for every contender."""
    x, y = _drawn(case.shape, case.mode)
    return x.to(DTYPES[case.dtype], copy=True), y

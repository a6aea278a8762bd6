"""What is measured on a GPU, in the order of what matters most, and the bytes that each path moves."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

from fastloss.measure import cases
from fastloss.measure.cases import EAGER, TAGS, Case
from fastloss.measure.peers import usual
from fastloss.spec import Term

TERMS = cases.NAMED | {"ce": cases.CE, "topk": Term("topk", k=Fraction("0.1")), "focal1.5": Term("focal", gamma=1.5)}
TERMS["smoothed"] = Term("ce", label_smoothing=0.1)
SHAPES = {  # and those of a dry run
    "64": ((1, 1, 64, 64), (1, 1, 8, 8)),
    "2mpx": ((32, 1, 256, 256), (4, 1, 24, 24)),
    "4mpx": ((16, 1, 512, 512), (3, 1, 32, 32)),
    "8mpx": ((8, 1, 1024, 1024), (2, 1, 40, 40)),
    "16mpx": ((16, 1, 1024, 1024), (3, 1, 40, 40)),
    "268mpx": ((64, 1, 2048, 2048), (4, 1, 48, 48)),
    "c9": ((8, 9, 224, 224), (2, 9, 16, 16)),
    "c14": ((2, 14, 96, 96, 96), (2, 14, 16, 16, 16)),
    "c3": ((2, 3, 128, 128, 128), (2, 3, 16, 16, 16)),
    "c19": ((4, 19, 512, 1024), (2, 19, 16, 24)),
    "c118": ((1, 118, 96, 96, 96), (1, 118, 16, 16, 16)),
    "c150": ((2, 150, 512, 512), (2, 150, 24, 24)),
}
RESIDENT_BYTES = 256 << 20  # of logits: with more, nothing would stay on the chip


def summed(case: Case) -> bool:
    """Tell whether a gradient needs a sum over all pixels first, or a threshold."""
    return any(t.region or t.kind == "topk" for t in case.terms)


def forced(case: Case) -> list[str]:
    """Return the paths of the CUDA backend that are forced too, so that the range of each can be read from a record."""
    if not summed(case) or case.levels > 1 or case.group == "64":
        return []
    return ["resident", "split"] if case.logits_bytes <= RESIDENT_BYTES else ["split"]


def path_bytes(case: Case, path: str) -> int | None:
    """Return the least bytes that a path moves to and from the chip if no cache helps; None if that is open (auto).

    `resident` reads and writes once, as does a pointwise loss in any way. `split` reads once for the sums (and the
    digits of top-k) and once more for the gradient.
    """
    if path == "resident" or not summed(case):
        return case.least_bytes()
    return 2 * case.least_bytes() - case.logits_bytes if path == "split" else None


def make(size: str, loss: str, dry: bool = False, **settings: Any) -> Case:
    """Make a row; `settings` as of `Case`."""
    shape = SHAPES[size][dry]
    mode = settings.pop("mode", "binary" if shape[1] == 1 else "multiclass")
    case = Case("", size, shape, mode, tuple([TERMS[word] for word in loss.split("+")]), **settings)
    name = f"{loss}-{size}-{TAGS[case.dtype]}" + "-multilabel" * (mode == "multilabel")
    name += "" if case.target == "uint8" else f"-{case.target}"
    name += "" if case.levels == 1 else f"-{case.levels}levels"
    name += {"": "", "index": "-ignored", "mask": "-masked"}[case.ignored]
    return replace(case, name=name)


def _rows(dry: bool, *lines: tuple[str, str, dict[str, Any]]) -> list[Case]:
    """Make every loss of a line at every size of it."""
    return [
        make(s, loss, dry, **more) for sizes, losses, more in lines for s in sizes.split() for loss in losses.split()
    ]


def bench(dry: bool = False) -> list[Case]:
    """Return the rows that stand for all others."""
    return _rows(
        dry,
        ("8mpx 2mpx 268mpx", "dice", {}),
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
        ("c118 c150", "dice+ce", {}),
        ("c14", "dice+ce", {"levels": 4}),
        ("64", "dice", {"peers": EAGER}),
    )


def more(dry: bool = False) -> list[Case]:
    """Return the rest, those that peers are compiled for first; dry: the first of each kind."""
    half = {"dtype": "bfloat16"}
    eager, none = {"peers": EAGER}, {"peers": ""}
    every = _rows(
        dry,
        ("8mpx", "dice+focal focal dice+bce bce iou+topk", {}),
        ("c14", "dice+focal topk", {}),
        ("c3", "dice+bce", {"mode": "multilabel"}),
        ("8mpx", "topk", half),
        ("c19", "ce", {"ignored": "index"}),
        ("4mpx 16mpx", "dice", none),
        ("2mpx", "topk dice+focal focal dice+bce bce iou+topk", eager),
        ("c9", "topk", eager),
        ("c3", "dice+ce dice+focal", eager),
        ("268mpx", "topk dice+focal", eager),
        ("c118", "dice+focal", eager),
        ("c9", "dice+focal", {"levels": 4, **eager}),
        ("c14", "dice+focal dice+ce", half | eager),
        ("8mpx", "dice", {"target": "int64", **eager}),
        ("c14", "dice+ce", {"target": "int64", **eager}),
        ("64", "bce", eager),
        ("8mpx", "dice+focal focal dice+bce bce iou+topk", half | none),
        ("2mpx", "dice topk dice+focal focal dice+bce bce iou+topk", half | none),
        ("268mpx", "focal bce", none),
        ("268mpx", "dice topk dice+focal", half | none),
        ("c9", "iou+topk", none),
        ("c9", "dice+focal", half | none),
        ("c118", "dice+focal dice+ce", half | none),
    )
    if not dry:
        return every
    kinds: dict[tuple, Case] = {}
    for case in every:
        kinds.setdefault((case.mode, case.levels > 1, case.dtype, case.target, case.peers), case)
    return list(kinds.values())


@cache
def named(dry: bool) -> dict[str, Case]:
    return {case.name: case for case in bench(dry) + more(dry)}


AS_SHIPPED_COMPILED = ("nnunet",)  # its trainer compiles the Dice
TRITON_KERNELS = ("exacta",)  # nothing left to compile
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


def best(case: Case) -> tuple[str, str]:
    """Return the library that is fastest eager, and the one that is fastest under torch.compile."""
    natural = {term.kind for term in case.terms} <= {"bce", "ce", "topk"}
    other_gamma = any(term.kind == "focal" and term.gamma != 2 for term in case.terms)
    if natural or other_gamma or not usual(case) or case.shape[1] > MANY:
        return PLAIN
    mode = "pyramid" if case.levels > 1 else case.mode.replace("multilabel", "binary")
    return BEST[mode].get("+".join(case.kinds), ("monai", "smp"))


def wanted(case: Case, libraries: list[str] | None) -> list[str]:
    """Return the keys of the peers of a case: the best ones, or all of `libraries`, also those without such a loss."""
    if not case.peers:
        return []
    eager, compiled = ([name] for name in best(case)) if libraries is None else (libraries, libraries)
    keys = [name for name in eager if name not in AS_SHIPPED_COMPILED]
    if case.peers != EAGER:
        keys += [f"{name} compiled" for name in compiled if name not in TRITON_KERNELS]
    return keys

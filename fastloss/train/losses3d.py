"""The losses alone, where fusing matters: many classes in three dimensions."""

from __future__ import annotations

from dataclasses import replace

import torch

from fastloss.measure import memory
from fastloss.measure.cases import Case, inputs, select
from fastloss.measure.contenders import OURS, Contender, make_contenders
from fastloss.measure.timing import interleave, ratio

LIBRARIES = ["smp", "monai"]
CASES = ["softmax3d-dice+ce", "softmax3d-dice+focal"]
GAP_LIMIT = 1e-2  # smp's and MONAI's own float32 error at this size is about 1e-4
SECONDS, ROUNDS = 7.0, 9


def measure(quick: bool) -> list[dict]:
    """Return a row for each case and library: time of forward and backward, bytes kept in between, gap to fastloss."""
    rows = []
    for case in select(CASES):
        small = replace(case, shape=(1, 14, 32, 32, 32)) if quick else case
        rows += _rows(small, SECONDS / 10 if quick else SECONDS)
    return rows


def _rows(case: Case, seconds: float) -> list[dict]:
    x, y = inputs(case)
    x.requires_grad_()
    found, missing = make_contenders(case, LIBRARIES, compiled=False, every_dtype=False)
    if missing:
        raise ValueError(f"{case.name}: {missing}")
    found = [contender.on(y) for contender in found]
    value, (gradient,) = found[0].step(x)
    rows = [_row(case, c, x, float(value.detach()), gradient) for c in found]
    sound = [c for c, row in zip(found, rows) if not row["refused"]]
    works = {c.key: (lambda c=c: c.step(x)) for c in sound}
    timings, _ = interleave(works, (OURS,), clock="wall", rounds=ROUNDS, seconds=seconds)
    for row in rows:
        if timing := timings.get(row["library"]):
            row |= {"seconds": timing.median, "ratio": ratio(timing, timings[OURS]).median}
    return rows


def _row(case: Case, contender: Contender, x: torch.Tensor, value: float, gradient: torch.Tensor) -> dict:
    row = {"case": case.title, "size": case.size, "library": contender.key, "target": contender.dtype}
    row |= {"logits": case.logits_bytes, "kept": memory.measure(contender, x).kept, "notes": contender.notes}
    row |= {"other": contender.role == "other", "refused": ""}
    if contender.role == "peer":
        theirs, (their_gradient,) = contender.step(x)
        row["value_gap"] = abs(float(theirs.detach()) - value) / max(abs(value), 1e-12)
        row["gradient_gap"] = float((their_gradient - gradient).norm() / gradient.norm())
        if not (row["value_gap"] < GAP_LIMIT and row["gradient_gap"] < GAP_LIMIT):
            row["refused"] = "gives another result: not timed"
    return row

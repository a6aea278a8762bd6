"""Contenders whose target is bound and whose gradient is one tensor, for the trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import contenders as every
from .cases import Case

OURS = every.OURS


@dataclass
class Contender:
    library: str
    how: str
    role: str
    loss: Callable[[Tensor, Tensor], Tensor]
    y: Tensor
    target: str
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.library

    def step(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loss = self.loss(x, self.y)
        return loss, torch.autograd.grad(loss, x)[0]


def contenders(
    case: Case, y: Tensor, libraries: list[str], *, compiled: bool, backend: str | None, every_dtype: bool = True
) -> tuple[list[Contender], dict[str, str]]:
    found, missing = every.contenders(case, libraries, compiled=compiled, backend=backend, every_dtype=every_dtype)
    return [Contender(c.key, "", c.role, c.loss, c.on(y).y, c.dtype, c.notes) for c in found], missing

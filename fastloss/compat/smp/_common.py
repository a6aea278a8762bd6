"""What smp's losses do alike with their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_functorch = torch._C._functorch.peek_interpreter_stack  # pyright: ignore[reportAttributeAccessIssue]
MODES = ("binary", "multilabel", "multiclass")
Vector = Sequence[float] | Tensor


def check_mode(mode: str) -> None:
    if mode not in MODES:
        raise AssertionError(f"mode must be one of {', '.join(MODES)}, got {mode!r}.")


def tensor(values: Any, dtype: torch.dtype) -> Tensor | None:
    """A list, tuple, array or tensor as a tensor of that type; anything else is None, as in smp."""
    if isinstance(values, Tensor):
        return values.type(dtype)
    if isinstance(values, list | tuple) or type(values).__module__ == "numpy":
        return torch.as_tensor(values).type(dtype)
    return None


def by_hand(y: Tensor) -> bool:
    """Whether the gradient may be one written out by hand: the call is eager, and the target needs none."""
    return not (torch.compiler.is_compiling() or y.requires_grad or _functorch() is not None)


def labels(y: Tensor) -> Tensor:
    """Class ids of any type as integers that the kernels read."""
    return y if not y.is_floating_point() and y.dtype != torch.bool else y.to(torch.int32)

"""What smp's losses do alike with their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._modes import transformed, unknown
from ...plan import plan
from ...spec import Spec, Term

MODES = ("binary", "multilabel", "multiclass")
Vector = Sequence[float] | Tensor


def check_mode(mode: str) -> None:
    if mode not in MODES:
        raise AssertionError(f"mode must be one of {', '.join(MODES)}, got {mode!r}.")


def tensor(name: str, values: Any, dtype: torch.dtype, strict: bool) -> Tensor | None:
    """A list, tuple, array or tensor as a tensor of that type; anything else is None as in smp, but TypeError if not
    strict."""
    if isinstance(values, Tensor):
        return values.type(dtype)
    if isinstance(values, list | tuple) or type(values).__module__ == "numpy":
        return torch.as_tensor(values).type(dtype)
    if values is not None and not strict:
        raise TypeError(f"{name} must be a list, a tuple, an array or a tensor, got {type(values).__name__}.")
    return None


def by_hand(x: Tensor, y: Tensor) -> bool:
    """Whether the gradient may be one written out by hand: the call is an ordinary one, and the target needs none."""
    return not (y.requires_grad or unknown(x) or transformed(x, y))


def bce(x: Tensor, y: Tensor) -> Tensor:
    """`binary_cross_entropy_with_logits` of each element; the kernels make it where they can, several times as fast."""
    wide = x.dtype in (torch.float32, torch.float64) and x.shape == y.shape and x.numel() > 0
    if wide and x.device.type == "cpu" and by_hand(x, y):
        try:
            return _Bce.apply(x, y)
        except ValueError:  # a label outside [0, 1]: torch takes any. A GPU would say so later, by a NaN
            pass
    return F.binary_cross_entropy_with_logits(x, y, reduction="none")


class _Bce(torch.autograd.Function):
    """Cross-entropies from the kernels, with a gradient that can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        ready = plan(Spec("multilabel", (Term("bce", reduction="none"),)))
        return ready.run(x.reshape(1, 1, -1), y.reshape(1, 1, -1))[0].reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        return grad_output * (x.sigmoid() - y), None


def labels(y: Tensor) -> Tensor:
    """Class indices of any type as integers that the kernels read."""
    return y if not y.is_floating_point() and y.dtype != torch.bool else y.to(torch.int32)

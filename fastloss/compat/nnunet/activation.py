"""Which activation a callable is, without importing where it may come from."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

SIGMOIDS = (torch.sigmoid, torch.special.expit, nn.functional.sigmoid)
SOFTMAXES = (torch.softmax, torch.special.softmax, nn.functional.softmax)


def softmax_helper_dim1(x: Tensor) -> Tensor:
    """Softmax over the channels: nnU-Net's own helper of this name."""
    return torch.softmax(x, 1)


def mode_of(apply_nonlin: Any) -> str | None:
    """ "multiclass" for softmax over dim 1, "multilabel" for sigmoid, None for anything else."""
    if any([apply_nonlin is f for f in SIGMOIDS]) or type(apply_nonlin) is nn.Sigmoid:
        return "multilabel"
    if type(apply_nonlin) is nn.Softmax and apply_nonlin.dim == 1:
        return "multiclass"
    if isinstance(apply_nonlin, partial):
        known = any([apply_nonlin.func is f for f in SOFTMAXES]) and not apply_nonlin.args
        return "multiclass" if known and apply_nonlin.keywords == {"dim": 1} else None
    home = (getattr(apply_nonlin, "__module__", None), getattr(apply_nonlin, "__name__", None))
    own = apply_nonlin is softmax_helper_dim1
    return "multiclass" if own or home == ("nnunetv2.utilities.helpers", "softmax_helper_dim1") else None

"""Arguments and targets as MONAI's losses take them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._modes import dispatches, unknown
from ...reference.inputs import signed
from .._base import TargetError

REDUCTIONS = ("none", "mean", "sum")


def check_reduction(reduction: Any) -> str:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}.")
    return str(getattr(reduction, "value", reduction))


def check_activation(sigmoid: bool, softmax: bool, other_act: Callable | None) -> None:
    if other_act is not None and not callable(other_act):
        raise TypeError(f"other_act must be None or callable, got {type(other_act).__name__}.")
    if int(sigmoid) + int(softmax) + int(other_act is not None) > 1:
        raise ValueError("at most one of sigmoid, softmax and other_act may be given, got several.")


def plain_tensor(t: Tensor) -> Tensor:
    """MONAI's MetaTensor as the tensor that it is; the kernels have no use for its metadata."""
    ordinary = type(t) is Tensor or isinstance(t, torch.nn.Parameter) or dispatches(t)
    return t if ordinary else t.as_subclass(Tensor)


def single(setting: str) -> None:
    if not torch.compiler.is_compiling():
        warnings.warn(f"single channel prediction, `{setting}` ignored.", stacklevel=4)


def one_hot(y: Tensor, channels: int) -> Tensor:
    """float32 [B, C, *S] of class indices [B, 1, *S]."""
    y = y.reshape(*y.shape, *[1] * (2 - y.ndim))
    if y.shape[1] != 1:
        raise AssertionError(f"target must have one channel with to_onehot_y=True, got the shape {list(y.shape)}.")
    zeros = y.new_zeros((y.shape[0], channels, *y.shape[2:]), dtype=torch.float32)
    return zeros.scatter_(1, y.long(), 1.0)


def class_indices(y: Tensor) -> Tensor:
    """Labels of any type as integers that the kernels read; fractions are cut off."""
    return y.to(torch.int32) if y.is_floating_point() or y.dtype == torch.bool else y


def ignore_mask(y: Tensor, ignore_index: int | None) -> Tensor | None:
    """float [B, 1, *S], 0 where ignored: by label, or with one-hot targets where that class is, or no class at all."""
    if ignore_index is None:
        return None
    if y.shape[1] == 1:
        return (y != ignore_index).float()
    if 0 <= ignore_index < y.shape[1]:
        return 1.0 - y[:, ignore_index : ignore_index + 1]
    return (y.sum(dim=1, keepdim=True) > 0).float()


def labels_for_one_hot(y: Tensor, ignore_index: int | None, channels: int) -> Tensor:
    """An ignored label that is no class becomes class 0, which the mask takes away again."""
    if ignore_index is None or 0 <= ignore_index < channels:
        return y
    return torch.where(y == ignore_index, torch.zeros_like(y), y)


def check_class_indices(y: Tensor, valid: Tensor | None, channels: int) -> None:
    """Check class indices that no kernel checks; not on a device, whose values nobody waits for."""
    if y.device.type != "cpu" or unknown(y) or y.numel() == 0:
        return
    indices = signed(y if valid is None else y[valid])
    if indices.numel() and (indices.min() < 0 or indices.max() >= channels):
        wrong = indices[(indices < 0) | (indices >= channels)][0].item()
        raise TargetError(f"target must hold class ids from 0 to {channels - 1}, got {wrong}.")


def is_hard(y: Tensor) -> bool:
    """Whether all labels are 0 or 1, as far as that can be known."""
    return not unknown(y) and bool(((y == 0) | (y == 1)).all())

"""What MONAI's compound losses share."""

from __future__ import annotations

from torch import Tensor

from ._declared import Activation, Declared, Smoothing


def paths(owner: str, form: type[Declared], **others: str) -> dict[str, str]:
    """Where a sum of losses keeps its arguments: those of the overlap loss, and others."""
    names = [name for part in (Activation, form, Smoothing) for name in part._declared]
    return {name: f"{owner}.{name}" for name in names if name != "strict"} | others


def not_negative(name: str, value: float) -> float:
    if value < 0.0:
        raise ValueError(f"{name} must not be below 0, got {value}.")
    return value


def check_shapes(x: Tensor, y: Tensor) -> None:
    if x.dim() != y.dim():
        raise ValueError(
            f"target must have the {x.dim()} axes of input (class ids [B, 1, *S] if it is not one-hot), got {y.dim()}."
        )
    if y.shape[1] != 1 and y.shape[1] != x.shape[1]:
        raise ValueError(f"target must have 1 or {x.shape[1]} channels, got {y.shape[1]}.")

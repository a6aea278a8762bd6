"""One validator for all backends: everything that shapes, dtypes, devices and settings can decide, in plain Python.

Traceable by torch.compile; in eager its outcome is cached by the inputs' metadata (see plan.py). What depends on values
(class indices, targets outside [0, 1]) is checked by the kernels, and by `check_values` for the reference backend.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from . import backends
from ._modes import hidden
from .reference.inputs import clamped, out_of_range, per_pixel, select, signed
from .spec import Spec

LOGITS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGERS = (torch.int64, torch.uint8, torch.int32, torch.int16, torch.int8, torch.uint16, torch.uint32, torch.uint64)
TARGETS = (torch.bool, *INTEGERS, *LOGITS)


class Route(NamedTuple):
    """How a call on inputs of some metadata runs: what one lookup in a plan's cache yields."""

    backend: str
    unsqueeze: bool  # x is [N, H, W]: the channel axis is missing
    ints: list[int]
    floats: list[float]


def prepare(
    spec: Spec,
    backend: str | None,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
) -> tuple[str, bool, int]:
    """Checks one call; returns the backend, whether x lacks its channel axis, and the number of channels.

    Raises:
        TypeError: an argument is no tensor, or has a dtype or layout that does not fit.
        ValueError: a shape, a device or a setting does not fit, or a target requires a gradient.
        RuntimeError: the backend that was asked for cannot run.
    """
    _check_tensor("x", x, LOGITS, "floating-point logits")
    unsqueeze = spec.mode == "binary" and x.ndim == 3 and x.shape[1] != 1
    shape = (x.shape[0], 1, *x.shape[1:]) if unsqueeze else tuple(x.shape)
    _check_logits(spec, x, shape)
    _check_target(spec, x, shape, y)
    if mask is not None:
        _check_tensor("mask", mask, (torch.bool,), "a boolean mask (True: counts)")
        _check_per_pixel(spec, "mask", mask, x, shape)
    if pixel_weight is not None:
        _check_tensor("pixel_weight", pixel_weight, LOGITS, "floating-point weights")
        _check_per_pixel(spec, "pixel_weight", pixel_weight, x, shape)
    _check_channels(spec, shape[1])
    name = backends.choose(backend, x)
    if name != "reference":
        for argument, t in (("y", y), ("mask", mask), ("pixel_weight", pixel_weight)):
            if t is not None and t.requires_grad and torch.is_grad_enabled():
                raise ValueError(
                    f"{argument} must not require a gradient, only x gets one; detach it, or call the loss within "
                    "`with fastloss.backends.use('reference'):`."
                )
    return name, unsqueeze, shape[1]


def _check_tensor(name: str, t: object, dtypes: tuple[torch.dtype, ...], what: str) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a tensor ({what}), got {type(t).__name__}.")
    if t.dtype not in dtypes:
        raise TypeError(f"{name} must hold {what} ({_names(dtypes)}), got {_name(t.dtype)}.")
    if t.layout != torch.strided:
        raise TypeError(f"{name} must be a dense (strided) tensor, got {t.layout}.")


def _check_logits(spec: Spec, x: Tensor, shape: tuple[int, ...]) -> None:
    if spec.mode == "binary":
        if not 3 <= len(shape) <= 5 or shape[1] != 1:
            raise ValueError(
                f"x must be [N, 1, *S] with 1 to 3 spatial axes, or [N, H, W], in mode 'binary', got {list(x.shape)}."
            )
    elif not 3 <= len(shape) <= 5:
        raise ValueError(f"x must be [N, C, *S] with 1 to 3 spatial axes, got {list(x.shape)}.")
    elif spec.softmax and shape[1] < 2:
        raise ValueError(f"x must have at least 2 channels in mode 'multiclass', got {list(x.shape)}.")
    elif shape[1] < 1:
        raise ValueError(f"x must have at least 1 channel, got {list(x.shape)}.")


def _check_target(spec: Spec, x: Tensor, shape: tuple[int, ...], y: Tensor) -> None:
    _check_tensor("y", y, TARGETS, "a target")
    _check_device("y", y, x)
    given = tuple(y.shape)
    plain = (shape[0], *shape[2:])
    if spec.unbounded and not y.is_floating_point():
        raise TypeError(f"y must hold floating-point distances (signed_distance makes them), got {_name(y.dtype)}.")
    if spec.unbounded and spec.softmax and given != shape:
        raise ValueError(f"y must be a map of distances of the shape {list(shape)} to fit x, got {list(given)}.")
    if any([term.kind == "wasserstein" for term in spec.terms]) and y.is_floating_point():
        raise TypeError(f"y must hold integer class ids for this loss, got {_name(y.dtype)}.")
    if not spec.softmax:
        if given != shape and not (shape[1] == 1 and given == plain):
            also = f" or {list(plain)}" if shape[1] == 1 else ""
            raise ValueError(f"y must have the shape {list(shape)}{also} to fit x, got {list(given)}.")
    elif given == shape:
        if not y.is_floating_point():
            raise TypeError(
                f"y has the shape of x and so must hold floating-point probabilities, got {_name(y.dtype)}; pass class "
                "ids [N, *S] (y.argmax(1) of a one-hot target) or y.float()."
            )
    elif given == plain or given == (shape[0], 1, *shape[2:]):
        if y.is_floating_point():
            raise TypeError(f"y must hold integer class ids in the shape {list(given)}, got {_name(y.dtype)}.")
    else:
        raise ValueError(
            f"y must be class ids {list(plain)} or probabilities {list(shape)} to fit x, got {list(given)}."
        )


def _check_per_pixel(spec: Spec, name: str, t: Tensor, x: Tensor, shape: tuple[int, ...]) -> None:
    _check_device(name, t, x)
    given = tuple(t.shape)
    plain, single = (shape[0], *shape[2:]), (shape[0], 1, *shape[2:])
    if given != plain and given != single and (spec.softmax or given != shape):
        also = "" if spec.softmax or shape[1] == 1 else f" or {list(shape)}"
        fits = f"{list(plain)} or {list(single)}{also}"
        raise ValueError(f"{name} must have the shape {fits} to fit x, got {list(given)}.")


def _check_device(name: str, t: Tensor, x: Tensor) -> None:
    if t.device != x.device:
        raise ValueError(f"{name} must be on the device of x ({x.device}), got {t.device}.")


def _check_channels(spec: Spec, channels: int) -> None:
    for term in spec.terms:
        if term.classes is not None and max(term.classes) >= channels:
            raise ValueError(f"classes names channel {max(term.classes)}, but x has only {channels} channels.")
        if term.kind == "wasserstein":
            if len(term.vector) != channels * channels:
                side = math.isqrt(len(term.vector))
                raise ValueError(f"distances is a matrix of {side} classes, but x has {channels} channels.")
            continue
        positives = term.kind in ("bce", "focal") or (term.kind in ("poly", "log_power") and not spec.softmax)
        single = positives and len(term.vector) == 1  # one number stands for every channel
        if term.vector and not single and len(term.vector) != channels:
            name = "alpha" if term.kind == "focal" else "pos_weight" if positives else "class_weights"
            raise ValueError(f"{name} has {len(term.vector)} values, but x has {channels} channels.")
        if len(term.kappa) > 1 and len(term.kappa) != channels:
            raise ValueError(f"kappa has {len(term.kappa)} values, but x has {channels} channels.")


def check_weights(weights: list[Tensor], x: Tensor) -> None:
    """Weight tensors live on the device of x; `criterion.to(x.device)` moves them."""
    for weight in weights:
        if weight.device != x.device:
            raise ValueError(
                f"a weight tensor of the loss must be on the device of x ({x.device}), got {weight.device}; move it "
                f"with criterion.to({str(x.device)!r})."
            )


def check_values(spec: Spec, x: Tensor, y: Tensor, mask: Tensor | None) -> None:
    """Raises ValueError if a valid class index or target is out of range; waits for the device of y. Where there are no
    values to look at (vmap, fake tensors) the loss tells by a NaN."""
    if hidden(y) or (mask is not None and hidden(mask)):
        return
    flat = signed(per_pixel(y.detach(), x))
    valid = select(spec, flat, mask if mask is None else per_pixel(mask, x))
    if spec.unbounded:
        if not (torch.isfinite(flat) | ~valid).all():
            wrong = flat[~torch.isfinite(flat) & valid][0].item()
            raise ValueError(f"y must hold finite distances, got {wrong}.")
        return
    if not out_of_range(spec, flat, valid, x.shape[1]):
        return
    valid = valid.expand_as(flat) if valid.shape[1] == 1 else valid
    if spec.softmax:
        indices = flat.expand_as(valid)[valid]
        wrong = indices[(indices < 0) | (indices >= x.shape[1])][0].item()
        raise ValueError(f"y must hold class ids from 0 to {x.shape[1] - 1}, got {wrong}.")
    values = clamped(flat.expand_as(valid)[valid])
    wrong = values[~((values >= 0) & (values <= 1))][0].item()
    raise ValueError(f"y must lie between 0 and 1, got {format(wrong, '.9g') if y.is_floating_point() else wrong}.")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join([_name(dtype) for dtype in dtypes])

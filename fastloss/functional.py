"""Functional forms: `dice_loss(x, y, "binary", smooth=1.0)` is `DiceLoss("binary", smooth=1.0)(x, y)`.

Each takes the keyword arguments of its class, and `mask` and `pixel_weight`. Shapes, formulas and errors are those of
the class. The checked loss of each set of arguments is cached, so that a call costs little more than that of a module.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from numbers import Number
from typing import Any

import torch
from torch import Tensor

from . import _arguments as check
from . import losses, region
from .compound import Criterion
from .plan import Plan, plan
from .spec import Spec
from .stats import Stats

__all__ = [
    "bce_with_logits_loss",
    "cross_entropy_loss",
    "dice_loss",
    "focal_loss",
    "iou_loss",
    "jaccard_loss",
    "stats",
    "topk_loss",
    "tversky_loss",
]


def _form_of(owner: type[Criterion]) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Gives a functional form the signature of its class."""

    def decorate(form: Callable[..., Tensor]) -> Callable[..., Tensor]:
        own = [p for p in inspect.signature(form).parameters.values() if p.kind is not p.VAR_KEYWORD]
        settings = [p for p in inspect.signature(owner).parameters.values() if p.kind is p.KEYWORD_ONLY]
        form.__signature__ = inspect.Signature([*own, *settings], return_annotation=Tensor)
        form.__doc__ = f"`fastloss.{owner.__name__}` as a function."
        return form

    return decorate


@_form_of(losses.BCEWithLogitsLoss)
def bce_with_logits_loss(
    x: Tensor,
    y: Tensor,
    mode: str = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    return _plan(losses.BCEWithLogitsLoss, mode, settings).run(x, y, mask, pixel_weight)[0]


@_form_of(losses.CrossEntropyLoss)
def cross_entropy_loss(
    x: Tensor,
    y: Tensor,
    mode: str = "multiclass",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    return _plan(losses.CrossEntropyLoss, mode, settings).run(x, y, mask, pixel_weight)[0]


@_form_of(losses.FocalLoss)
def focal_loss(
    x: Tensor,
    y: Tensor,
    mode: str = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    return _plan(losses.FocalLoss, mode, settings).run(x, y, mask, pixel_weight)[0]


@_form_of(losses.TopKLoss)
def topk_loss(
    x: Tensor,
    y: Tensor,
    mode: str = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    return _plan(losses.TopKLoss, mode, settings).run(x, y, mask, pixel_weight)[0]


@_form_of(region.TverskyLoss)
def tversky_loss(
    x: Tensor,
    y: Tensor,
    mode: str = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    return _plan(region.TverskyLoss, mode, settings).run(x, y, mask, pixel_weight)[0]


@_form_of(region.DiceLoss)
def dice_loss(
    x: Tensor,
    y: Tensor,
    mode: str = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    return _plan(region.DiceLoss, mode, settings).run(x, y, mask, pixel_weight)[0]


@_form_of(region.JaccardLoss)
def jaccard_loss(
    x: Tensor,
    y: Tensor,
    mode: str = "binary",
    *,
    mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    return _plan(region.JaccardLoss, mode, settings).run(x, y, mask, pixel_weight)[0]


iou_loss = jaccard_loss


def stats(
    x: Tensor,
    y: Tensor,
    mode: str = "binary",
    *,
    threshold: float = 0.5,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    backend: str | None = None,
) -> Stats:
    """Confusion counts without a loss, for validation: `stats(x, y, mode=…).dice()`. `Stats.terms` is empty.

    Args:
        x: logits, as for a loss (see `Criterion.forward`).
        y: the target, as for a loss; soft labels count as positive from 0.5, probability targets by their argmax.
        mode: "binary", "multilabel" or "multiclass".
        threshold: probability from which a pixel is predicted positive (binary, multilabel).
        ignore_index: targets of this value are left out.
        mask: as for a loss.
        backend: as for a loss.

    Raises:
        TypeError, ValueError, RuntimeError: as for a loss, and for a threshold outside [0, 1].
    """
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold must be a probability between 0 and 1, got {threshold}.")
    return Stats(_counting(mode, ignore_index, backend).counts(x, y, mask, threshold))


def _counting(mode: str, ignore_index: int | None, backend: str | None) -> Plan:
    spec = Spec(check.mode(mode), (), check.index("ignore_index", ignore_index))
    return plan(spec, check.backend(backend))


def _plan(owner: Callable[..., Criterion], mode: str, settings: dict[str, Any]) -> Plan:
    flat = [_by_value(item) for pair in settings.items() for item in pair]
    if torch.compiler.is_compiling() or not all(map(_fixed, (mode, *flat))):
        return owner(mode, **settings)._plan
    return _cached(owner, mode, *flat)


def _make(owner: Callable[..., Criterion], mode: str, *flat: Any) -> Plan:
    return owner(mode, **dict(zip(flat[::2], flat[1::2])))._plan


_cached = lru_cache(maxsize=256, typed=True)(_make)  # typed: k=1 is refused, k=1.0 is not


def _by_value(value: Any) -> Any:
    """Lists, arrays and tensors by value: a cache must not go by the identity of what can change."""
    if hasattr(value, "tolist") and not getattr(value, "requires_grad", False) and not getattr(value, "is_meta", False):
        value = value.tolist()
    return tuple(map(_by_value, value)) if isinstance(value, list | tuple) else value


def _fixed(value: Any) -> bool:
    """Whether a cache may go by it; anything else is for the class to judge."""
    if isinstance(value, tuple):
        return all(map(_fixed, value))
    group = hasattr(value, "size") and not isinstance(value, Tensor)
    return value is None or isinstance(value, str | Number) or group

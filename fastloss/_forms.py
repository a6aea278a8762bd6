"""The functional form of a loss: a call by arguments, whose checked loss is cached by their values."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from functools import lru_cache
from numbers import Number
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from .compound import Criterion
from .plan import Plan

Declared = TypeVar("Declared", bound=Callable[..., Tensor])


def form_of(owner: type[Criterion]) -> Callable[[Declared], Declared]:
    """Give a declaration its body: the loss `owner` of its keyword arguments, called with x, y, mask, pixel_weight."""

    def make(declared: Declared) -> Declared:
        default = inspect.signature(declared).parameters["mode"].default

        @functools.wraps(declared)
        def form(
            x: Tensor,
            y: Tensor,
            mode: str = default,
            *,
            mask: Tensor | None = None,
            pixel_weight: Tensor | None = None,
            **settings: Any,
        ) -> Tensor:
            return _plan(owner, mode, settings).run(x, y, mask, pixel_weight)[0]

        form.__module__ = "fastloss.functional"  # where users find it
        return cast(Declared, form)

    return make


def _plan(owner: Callable[..., Criterion], mode: str, settings: dict[str, Any]) -> Plan:
    flat = tuple([_by_value(item) for pair in settings.items() for item in pair])
    if torch.compiler.is_compiling() or not all(map(_fixed, (mode, *flat))):
        return owner(mode, **settings)._plan
    return _cached(owner, mode, flat, _types(flat))


@lru_cache(maxsize=256)
def _cached(owner: Callable[..., Criterion], mode: str, flat: tuple, types: Any) -> Plan:
    return owner(mode, **dict(zip(flat[::2], flat[1::2])))._plan


def _types(value: Any) -> Any:
    """The types of all values, also in tuples: equal ones may be refused (k=1 and 1.0, classes=[0] and [0.0])."""
    return tuple(map(_types, value)) if isinstance(value, tuple) else type(value)


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

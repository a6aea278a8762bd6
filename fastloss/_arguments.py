"""Checks of constructor arguments: each returns the value in its canonical type or raises one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, NoReturn

from .backends import check_name
from .spec import EMPTY, MODES, REDUCTIONS


def mode(value: Any, allowed: tuple[str, ...] = MODES, hint: str = "") -> str:
    if not isinstance(value, str) or value not in MODES:
        raise ValueError(f"mode must be one of {_list(MODES)}, got {value!r}.")
    if value not in allowed:
        raise ValueError(f"mode must be {_list(allowed)} for this loss, got {value!r}{hint}.")
    return value


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, open_low: bool = False) -> float:
    """A finite number in [low, high], or in (low, high] if open_low."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}.")
    value = float(value)
    if not math.isfinite(value) or not low <= value <= high or (open_low and value == low):
        raise ValueError(f"{name} must be {_interval(low, high, open_low)}, got {value}.")
    return value


def threshold(value: Any) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"threshold must be a probability between 0 and 1, got {value}.")


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}.")
    return value


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {_list(allowed)}, got {value!r}.")
    return value


def reduction(value: Any, allowed: tuple[str, ...] = REDUCTIONS) -> str:
    return choice("reduction", value, allowed)


def index(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer or None, got {value!r}.")
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} must fit into 64 bits, got {value}.")
    return number


def count(name: str, value: Any, low: int = 0) -> int:
    """An integer of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}.")
    return int(value)


def vector(name: str, value: Any, high: float = math.inf, low: float = 0.0) -> tuple[float, ...]:
    """Numbers in [low, high], one for each channel, in order, from a list, a tuple, an array or a 1-d tensor; () for
    None. The numbers of a tensor are read once, so that it can neither learn nor lie where nothing can be read."""
    if value is None:
        return ()
    what = f"{name} must be a list with one number for each channel, in order"
    values = _listed(name, value, what, (Mapping, Set))
    if not isinstance(values, list) or not values:
        raise ValueError(f"{what}, got {value!r}.")
    return tuple([number(name, v, low, high) for v in values])


def number_or_vector(name: str, value: Any, high: float = math.inf) -> tuple[float, ...]:
    """As `vector`, where a single number stands for every channel."""
    single = value
    if getattr(value, "ndim", None) == 0:
        single = _listed(name, value, f"{name} must be a number or a list of them")
    if single is not None and (isinstance(single, Real) or not isinstance(single, Iterable)):
        return (number(name, single, 0.0, high),)
    return vector(name, value, high)


def classes(value: Any) -> tuple[int, ...] | None:
    """Distinct channel numbers, sorted."""
    if value is None:
        return None
    values = _listed("classes", value, "classes must be a list of channel numbers", (Mapping,))
    if not isinstance(values, list) or any([isinstance(v, bool) or not isinstance(v, Integral) for v in values]):
        raise TypeError(f"classes must be a list of channel numbers, got {value!r}.")
    if not values or min(values) < 0 or len(set(values)) != len(values):
        raise ValueError(f"classes must be distinct channel numbers from 0, at least one, got {value!r}.")
    return tuple(sorted(map(int, values)))


def grouping(
    mode_name: str, channels: Any, class_weights: Any, batch: Any, empty: Any, rules: tuple[str, ...] = EMPTY
) -> tuple[dict[str, Any], dict[str, Any]]:
    """How a region loss goes from classes and samples to one number: fields of its term, and what its repr shows."""
    if mode(mode_name) == "binary" and (channels is not None or class_weights is not None):
        name = "classes" if channels is not None else "class_weights"
        raise ValueError(f"{name} needs mode 'multilabel' or 'multiclass', got 'binary', which has one channel.")
    if not flag("batch", batch) and empty is None:
        words = ", ".join([repr(rule) for rule in rules[:-1]]) + f" or {rules[-1]!r}"
        raise ValueError(
            f"empty must be {words} with batch=False, got None; there is no default, because single samples often lack "
            "a class and libraries disagree about it."
        )
    rule = choice("empty", "zero" if empty is None else empty, rules)
    chosen, weights = classes(channels), vector("class_weights", class_weights)
    shown = {
        "classes": None if chosen is None else list(chosen),
        "class_weights": list(weights) or None,
        "batch": None if batch else False,
        "empty": repr(rule) if rule != "zero" or not batch else None,
    }
    return {"classes": chosen, "vector": weights, "batch": batch, "empty": rule}, shown


def scored(empty: str, smooth: float) -> None:
    if empty == "score" and smooth == 0.0:
        raise ValueError("empty='score' needs smooth > 0, got smooth=0.0, which leaves 0/0 for an absent class.")


def pairs(name: str, value: Any, what: str) -> list[tuple[Any, Any]]:
    """At least one pair, from a list or anything else that has an order."""
    if isinstance(value, Mapping | Set | str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of pairs {what}, got {type(value).__name__}.")
    found = list(value)
    if not found:
        raise ValueError(f"{name} must hold at least one pair {what}, got none.")
    for pair in found:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise TypeError(f"{name} must be a list of pairs {what}, got one that holds {type(pair).__name__}.")
    return [(first, second) for first, second in found]


def fraction(value: Any) -> Fraction:
    """The share k of top-k as the decimal that was written: 0.29 is 29/100."""
    if isinstance(value, int):
        hint = f"; nnU-Net counts percent, its k={value} is k={value / 100} here" if not isinstance(value, bool) else ""
        raise TypeError(f"k must be a float in (0, 1], got the integer {value}{hint}.")
    k = value if isinstance(value, Fraction) else Fraction(repr(number("k", value, 0.0, 1.0, open_low=True)))
    if not 0 < k.numerator <= k.denominator:  # torch.compile before 2.13 cannot compare a Fraction
        raise ValueError(f"k must be a float in (0, 1], got {value}.")
    return k


def backend(value: Any) -> str | None:
    if value is not None:
        check_name(value, "backend")
    return value


def process_group(value: Any) -> object:
    """None (also for False), True or a torch.distributed process group."""
    if value is None or value is False:
        return None
    if value is True or hasattr(value, "size"):
        return value
    raise TypeError(f"process_group must be True or a torch.distributed process group, got {type(value).__name__}.")


def shown_group(group: object) -> str | None:
    """A process group as `repr` of a loss says it."""
    return None if group is None else "True" if group is True else "given"


def _listed(name: str, values: Any, what: str, refused: tuple[type, ...] = ()) -> Any:
    """The values as Python numbers in a list; a number for a 0-d tensor."""
    if getattr(values, "requires_grad", False):
        raise ValueError(f"{name} must not require a gradient, because its numbers are read once; detach it.")
    if hasattr(values, "tolist"):
        try:
            return values.tolist()
        except RuntimeError:
            raise ValueError(f"{what}, got a tensor on {values.device} whose numbers cannot be read.") from None
    if isinstance(values, (str, bytes, bytearray, *refused)) or not isinstance(values, Iterable):
        kind = f" ({type(values).__name__})" if isinstance(values, refused) else ""
        raise TypeError(f"{what}, got {values!r}{kind}.")
    return list(values)


def refuse_change(owner: object, name: str) -> NoReturn:
    kind = type(owner).__name__
    raise AttributeError(f"{name} of {kind} cannot be changed after construction; build a new {kind} with it.")


def shown(tensor: Any) -> str:
    """The number of a 0-d tensor or the numbers of another, or where it lies if they cannot be read (meta, fake)."""
    try:
        return str(tensor.tolist()) if tensor.ndim else f"{tensor.item():.6g}"
    except RuntimeError:
        return f"<{'fake' if tensor.device.type != 'meta' else 'meta'}>"


def _list(values: tuple[str, ...]) -> str:
    return " or ".join([repr(v) for v in values])


def _interval(low: float, high: float, open_low: bool) -> str:
    if high == math.inf:
        if low == -math.inf:
            return "finite"
        return f"finite and {'greater than' if open_low else 'at least'} {low:g}"
    return f"between {low:g} {'(not included) ' if open_low else ''}and {high:g}"

"""Constructors of MONAI's overlap losses and their sums, which share most of their arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import Field, field
from typing import Any, ClassVar

from typing_extensions import dataclass_transform


@dataclass_transform(eq_default=False, field_specifiers=(field,))
class Declared:
    """Base of what declares constructor arguments: annotated attributes, in the order of dataclasses (those of the
    bases first, from the last base to the first). A loss gets them all in `_set`.

    `field(init=False, default=...)` in a subclass takes an argument away and fixes its value.
    """

    _declared: ClassVar[dict[str, Field]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__module__.startswith("fastloss."):  # a user's subclass declares attributes as it likes
            return
        cls._declared = {name: _take(cls, name) for name in inspect.get_annotations(cls) if name[0] != "_"}
        fields: dict[str, Field] = {}
        for base in reversed(cls.__mro__):
            fields |= vars(base).get("_declared", {})
        cls.__init__ = _constructor(fields)

    def _set(self, **settings: Any) -> None:
        """Check and keep the settings."""
        raise NotImplementedError


def _take(cls: type, name: str) -> Field:
    """The declaration, taken off the class: an instance without the attribute must not have its default."""
    value: Any = vars(cls)[name]
    delattr(cls, name)
    return value if isinstance(value, Field) else field(default=value)


def _constructor(fields: dict[str, Field]) -> Callable[..., None]:
    positional = [_parameter(name, f) for name, f in fields.items() if f.init and f.kw_only is not True]
    named = [_parameter(name, f) for name, f in fields.items() if f.init and f.kw_only is True]
    signature = inspect.Signature([*positional, *named])
    fixed = {name: f.default for name, f in fields.items() if not f.init}

    def __init__(self: Declared, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of the original, under its names and in its order.

        strict: True keeps the original's defects, False mends them (docs: the migration page of the library).
        """
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}() {error}.") from None
        bound.apply_defaults()
        self._set(**fixed, **bound.arguments)

    own: Any = __init__
    own.__signature__ = signature.replace(parameters=[_SELF, *positional, *named])
    return __init__


_SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _parameter(name: str, declared: Field) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY if declared.kw_only is True else inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, kind, default=declared.default)


class Activation(Declared):
    include_background: bool = True
    to_onehot_y: bool = False
    sigmoid: bool = False
    softmax: bool = False
    other_act: Callable | None = None
    strict: bool = field(default=True, kw_only=True)


class Squares(Declared):
    squared_pred: bool = False
    jaccard: bool = False


class ClassWeighting(Declared):
    w_type: str = "square"


class ErrorWeights(Declared):
    alpha: float = 0.5  # of false positives
    beta: float = 0.5  # of false negatives


class Smoothing(Declared):
    reduction: str = "mean"
    smooth_nr: float = 1e-5
    smooth_dr: float = 1e-5
    batch: bool = False

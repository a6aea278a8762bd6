"""Base of every loss that is a plan: settings are read once, and refuse to be changed."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from torch import nn

from . import _arguments as check
from .explanation import Explained
from .plan import Plan

SETTINGS = {"backend", "spec", "weights"}  # and the arguments of every loss: names that cannot be assigned later


class Planned(Explained, nn.Module):
    """A loss, or the larger part of one, that a plan computes."""

    _own_settings: ClassVar[frozenset[str]] = frozenset()
    _plan: Plan

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = set(inspect.signature(cls.__init__).parameters) - {"self", "args", "kwargs"}
        if cls.__module__.startswith("fastloss."):
            SETTINGS.update(own)
        else:  # a user's subclass keeps its own arguments where it likes
            cls._own_settings = cls._own_settings | own

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SETTINGS and name not in self._own_settings:
            check.refuse_change(self, name)
        super().__setattr__(name, value)

    @property
    def mode(self) -> str:
        return self._plan.spec.mode

    @property
    def ignore_index(self) -> int | None:
        return self._plan.spec.ignore_index

    @property
    def backend(self) -> str | None:
        return self._plan.backend

    @property
    def process_group(self) -> Any:
        return self._plan.group


class PlannedLoss(Planned):
    """A loss that is no weighted sum of terms: more is done with what the kernels give."""

    def __init__(self, plan: Plan, shown: dict[str, Any] | None = None) -> None:
        """
        Args:
            plan: what the kernels compute.
            shown: further settings, as `repr` writes them; None is left out.
        """
        super().__init__()
        self._plan = plan
        self._shown = {
            **(shown or {}),
            "ignore_index": self.ignore_index,
            "process_group": check.shown_group(self.process_group),
            "backend": None if self.backend is None else repr(self.backend),
        }

    def __repr__(self) -> str:
        words = [f"{name}={value}" for name, value in self._shown.items() if value is not None]
        return f"{type(self).__name__}({', '.join(words)})"

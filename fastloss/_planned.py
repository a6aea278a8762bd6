"""Base of losses that are no weighted sum of terms: what a plan computes is the larger part of them."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from . import _arguments as check
from .compound import SETTINGS
from .explanation import Explained
from .plan import Plan


class Planned(Explained, nn.Module):
    """Its settings are read once and refuse to be changed, as those of `Criterion`."""

    _plan: Plan

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        if cls.__module__.startswith("fastloss."):
            SETTINGS.update(set(inspect.signature(cls.__init__).parameters) - {"self"})

    def __init__(self, plan: Plan, shown: dict[str, Any] | None = None) -> None:
        """
        Args:
            plan: what the kernels compute.
            shown: further settings, by the names that `repr` gives them; None is left out.
        """
        super().__init__()
        self._plan = plan
        self._shown = {**(shown or {}), "ignore_index": self.ignore_index, "backend": self.backend}

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SETTINGS:
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

    def __repr__(self) -> str:
        words = [f"{name}={value!r}" for name, value in self._shown.items() if value is not None]
        return f"{type(self).__name__}({', '.join(words)})"

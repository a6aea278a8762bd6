"""Which implementation runs: "reference" (plain PyTorch), "cpu" (C++), "cuda" (CUDA C++) or "triton".

Order of choice: the `backend=` argument, then `with backends.use(name)`, then the environment variable FASTLOSS_BACKEND
(read when fastloss is imported), then the default of the device. A backend asked for by name that cannot run raises.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from . import _library, _ops, triton

__all__ = ["available", "debug", "use"]

NAMES = ("reference", "cpu", "cuda", "triton")
DEVICES = {
    "cpu": "cpu",
    "cuda": "cpu" if _library.EMULATED else "cuda",
    "triton": "cpu" if triton.interpreted() else "cuda",
}
_DEFAULTS = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}


class _Thread(threading.local):
    """What `use` sets, once more: before 2.14 torch.compile traces (and guards) this, but no ContextVar."""

    def __init__(self) -> None:
        self.override: str | None = None


# Read by every call as part of the key of its cache (and guarded by torch.compile).
override: ContextVar[str | None] = ContextVar("fastloss_backend", default=None)
_thread = _Thread()
_traces_context = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14)
checking: ContextVar[bool] = ContextVar("fastloss_debug", default=False)
_environment = os.environ.get("FASTLOSS_BACKEND") or None


def available() -> dict[str, str | None]:
    """{name: None, or one sentence that says why the backend cannot run here}."""
    return {name: _reason(name) for name in NAMES}


@contextmanager
def use(name: str) -> Iterator[None]:
    """Runs every loss that names no backend itself on `name`; the setting belongs to the current thread or task.

    Raises ValueError for an unknown name and RuntimeError for a backend that cannot run here.
    """
    check_name(name, "name")
    why_not = _reason(name)
    if why_not is not None:
        raise RuntimeError(f"backend {name!r} cannot run here: {why_not}.")
    token, _thread.override, before = override.set(name), name, _thread.override
    try:
        yield
    finally:
        override.reset(token)
        _thread.override = before


@contextmanager
def debug() -> Iterator[None]:
    """Checks the values of the targets on every device and raises ValueError, where CUDA else makes the loss NaN.

    Each call then waits for the device, and cannot be captured in a CUDA graph.
    """
    token = checking.set(True)
    try:
        yield
    finally:
        checking.reset(token)


def check_name(name: object, argument: str) -> None:
    if name not in NAMES:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, NAMES))}, got {name!r}.")


def choose(argument: str | None, x: Tensor) -> str:
    """The backend for logits x.

    Raises RuntimeError if the one asked for by name cannot run, ValueError if it does not work on x's device.
    """
    name, source = _wish(argument)
    device = x.device.type
    if name is None:
        return _default(device)
    check_name(name, source.rstrip("="))
    if name == "reference":
        return name
    why_not = _found(name)
    if why_not is not None:
        raise RuntimeError(f"backend {name!r} (from {source}) cannot run here: {why_not}.")
    if DEVICES[name] != device:
        raise ValueError(f"backend {name!r} (from {source}) works on {DEVICES[name]} tensors, x is on {device}.")
    return name


def named(argument: str | None) -> bool:
    """Whether a backend is asked for by name: by the argument, by `use` or by the environment."""
    return _wish(argument)[0] is not None


def _wish(argument: str | None) -> tuple[str | None, str]:
    """(the backend that is asked for, if any; by what)."""
    if argument is not None:
        return argument, "backend="
    setting = override.get() if _traces_context or not torch.compiler.is_compiling() else _thread.override
    return (_environment, "FASTLOSS_BACKEND") if setting is None else (setting, "backends.use")


def why(argument: str | None, x: Tensor) -> str:
    """Why `choose` takes the backend that it takes, as a sentence without its full stop."""
    name, source = _wish(argument)
    if name is not None:
        return f"{source} asks for {name!r}" if source != "backend=" else f"the loss was made with backend={name!r}"
    device = x.device.type
    taken, missing = _default(device), [(name, _found(name)) for name in _DEFAULTS.get(device, ())]
    missing = [f"{name}: {reason}" for name, reason in missing if reason is not None]
    if taken == "reference":
        return f"no kernels run on {device} tensors here ({'; '.join(missing) or 'there are none for such a device'})"
    return f"it is the default for {device} tensors" + (f" ({'; '.join(missing)})" if missing else "")


def _reason(name: str) -> str | None:
    return None if name == "reference" else _ops.available(name)


# What `choose` goes by, asked once: at the first use, since the question needs the driver where there is a GPU.
_reasons: dict[str, str | None] = {}


def _found(name: str) -> str | None:
    if name not in _reasons:
        _reasons[name] = _reason(name)
    return _reasons[name]


_slow: set[str] = set()  # devices of which `_default` has said that nothing but the reference runs there


def _default(device: str) -> str:
    names = _DEFAULTS.get(device, ())
    found = next((name for name in names if _found(name) is None), None)
    if found is None and names and device not in _slow:
        _slow.add(device)
        reasons = "; ".join([f"{name}: {_found(name)}" for name in names])
        warnings.warn(
            f"losses of fastloss on {device} tensors run as plain PyTorch, several times slower, because no compiled "
            f"backend works here ({reasons}).",
            stacklevel=2,
        )
    return found or "reference"


# torch.compile takes the answers as constants: what torch.compiler.assume_constant_result does, which imports dynamo.
_found._dynamo_marked_constant = _default._dynamo_marked_constant = True

"""Which backend and which way a call of a loss takes, and why: told by the code that chooses, without computing it.

Within `explaining` the plans (plan.py) note what they would run, and give zeros instead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.nn.modules.loss import _Loss

WAYS = {
    "fast": "one fused pass of the kernels written for what most calls are",
    "general": "one fused pass of the kernels that take every call",
    "generic": "the kernels sum up, PyTorch makes the loss of the sums",
    "bands": "the logits are made, summed up and forgotten band by band",
    "reference": "plain PyTorch, several passes over the inputs",
    "plain": "plain PyTorch, outside of fastloss's backends",
    "mixed": "several calls",
}
GRADIENTS = {
    "early": "written by forward, with the loss",
    "late": "computed by backward, from the inputs",
    "autograd": "by PyTorch's autograd",
    "none": "none",
    "mixed": "differs",
}


@dataclass(frozen=True)
class Explanation:
    """What one call of a loss runs.

    Attributes:
        loss: what is computed, of which inputs.
        backend: "reference", "cpu", "cuda", "triton", "torch" (no backend of fastloss), or "mixed".
        path: "fast", "general", "generic", "bands", "reference", "plain" or "mixed"; `str` says what they are.
        gradient: "early", "late", "autograd", "none" or "mixed".
        reasons: why, a sentence each.
        calls: one explanation for each call of the kernels, where there are several.
    """

    loss: str
    backend: str
    path: str
    gradient: str
    reasons: tuple[str, ...] = ()
    calls: tuple[Explanation, ...] = ()

    def __str__(self) -> str:
        if self.calls:
            head = f"{self.loss}: {len(self.calls)} calls, one after the other"
            return "\n".join([head, *[_indented(str(call)) for call in self.calls]])
        lines = [f"backend   {self.backend}", f"path      {self.path}: {WAYS[self.path]}"]
        lines.append(f"gradient  {self.gradient}: {GRADIENTS[self.gradient]}".replace("none: none", "none"))
        lines += [f"because   {reason}" for reason in self.reasons]
        return "\n".join([self.loss, *[f"  {line}" for line in lines]])


def _indented(text: str) -> str:
    return "\n".join([f"  {line}" for line in text.splitlines()])


class _Noted(threading.local):
    """The calls noted in this thread; None where nobody asks."""

    calls: list[Explanation] | None = None


noted = _Noted()


def plain(loss: str, why: str, x: Tensor | None = None) -> Explanation:
    """Of a loss that runs as plain PyTorch."""
    learns = torch.is_grad_enabled() and (x is None or x.requires_grad)
    return Explanation(loss, "torch", "plain", "autograd" if learns else "none", (why,))


_FOREIGN = "it is no loss of fastloss"


@contextmanager
def explaining(loss: nn.Module) -> Iterator[list[Explanation]]:
    """Within, calls of `loss` compute nothing of fastloss's own, and are noted."""
    before, calls = noted.calls, []
    noted.calls = calls
    parts, started = set(loss.modules()), []

    def start(module: nn.Module, _: tuple) -> None:
        if noted.calls is calls and module in parts:
            started.append(len(calls))

    def end(module: nn.Module, inputs: tuple, _: Any) -> None:
        if noted.calls is not calls or module not in parts:
            return
        found, why = len(calls) - started.pop(), getattr(module, "why_not_fused", None)
        layer = type(module).__module__.startswith("torch.nn.") and not isinstance(module, _Loss)  # a HeadLoss's head
        if (found == 0 or why is not None) and not layer:
            x = next((t for t in inputs if isinstance(t, Tensor)), None)
            ours = type(module).__module__.startswith("fastloss.")
            other = "torch.compile has it: explain the loss inside" if hasattr(module, "_orig_mod") else _FOREIGN
            why = why or ("these inputs are left to it" if ours else other)
            calls.append(plain(type(module).__name__, why, x))

    # Hooks of all modules: those of a single one are seen by the code that decides (deep.altered).
    hooks = modules.register_module_forward_pre_hook(start), modules.register_module_forward_hook(end)
    try:
        yield calls
    finally:
        noted.calls = before
        for hook in hooks:
            hook.remove()


def explain(loss: nn.Module, *inputs: Any, **named: Any) -> Explanation:
    """Say which backend and which path `loss(*inputs, **named)` takes, and why. The kernels do not run.

    Whether a gradient is computed, and how, depends on whether the logits require one, as in the call itself.

    Args:
        loss: a loss of fastloss, a drop-in, a sum, a schedule, or any other module.
        inputs, named: those of the call, mostly (x, y).

    Returns:
        An `Explanation`; print it.

    Raises what the call raises for inputs that do not fit, and TypeError for a loss that is no module.
    """
    if not isinstance(loss, nn.Module):
        raise TypeError(f"loss must be a module, got {type(loss).__name__}.")
    inner = getattr(loss, "_orig_mod", loss)  # torch.compile's wrapper, whose code would not be looked into
    with explaining(inner) as calls:
        inner(*inputs, **named)
    calls = [_compiled(call) for call in calls] if inner is not loss else calls
    if len(calls) == 1:
        return calls[0]
    if not calls:
        return plain(type(loss).__name__, "it computes nothing")
    backend, path, gradient = [_common([getattr(call, name) for call in calls]) for name in _COMMON]
    return Explanation(type(loss).__name__, backend, path, gradient, (), tuple(calls))


def _compiled(call: Explanation) -> Explanation:
    gradient = "late" if call.gradient == "early" else call.gradient
    why = "torch.compile traces the ops with their registered gradients: forward writes none"
    return replace(call, gradient=gradient, reasons=(*call.reasons, why))


_COMMON = ("backend", "path", "gradient")


def _common(values: list[str]) -> str:
    return values[0] if len(set(values)) == 1 else "mixed"


class Explained:
    """Gives a loss the method `explain`."""

    def explain(self: Any, *inputs: Any, **named: Any) -> Explanation:
        """Say which backend and which path `self(*inputs, **named)` takes, and why; see `fastloss.explain`."""
        return explain(self, *inputs, **named)

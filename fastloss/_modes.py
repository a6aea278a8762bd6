"""Which calls the kernels may not make: those of torch.func, forward-mode AD, and tensors that hold no numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_func: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
_functorch, _batched = _func.peek_interpreter_stack, _func.is_legacy_batchedtensor
_modes = torch._C._len_torch_dispatch_stack
_PYTHON = torch._C.DispatchKey.Python  # of tensors with a __torch_dispatch__
_ORDINARY = (Tensor, torch.nn.Parameter)


def transformed(*tensors: Tensor | None) -> bool:
    """Whether a transform of torch.func is at work, or a tensor carries a tangent of forward-mode AD. Plain PyTorch
    knows what to do then: the reference runs."""
    if _functorch() is not None:
        return True
    if forward_ad._current_level < 0:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    return any([t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors])


def hidden(t: Tensor) -> bool:
    """Whether the numbers of t cannot be asked for: it is one of many (vmap), fake, or watched (make_fx). The ops and
    their registered gradients are what such tensors know."""
    return _modes() > 0 or _batched(t) or (_functorch() is not None and _wrapped(t)) or dispatches(t)


def _wrapped(t: Tensor) -> bool:
    while _func.is_gradtrackingtensor(t):  # which only watches
        t = _func.get_unwrapped(t)
    return _func.is_functorch_wrapped_tensor(t)


def dispatches(t: Tensor) -> bool:
    """Whether t is of a class that computes by itself (a FakeTensor, not one that only carries metadata along)."""
    return type(t) not in _ORDINARY and torch._C._dispatch_keys(t).has(_PYTHON)


def unknown(t: Tensor) -> bool:
    """The same, or torch.compile is tracing."""
    return torch.compiler.is_compiling() or hidden(t)

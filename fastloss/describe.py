"""The explanation of one call of a plan: the words for what plan.py, backends.py and _ops.py have decided."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _ops, backends
from ._modes import hidden, transformed
from .explanation import Explanation
from .spec import Spec
from .validate import Route

# Why the fast kernels do not take a call: CallPath of csrc/problem.h, in order.
WHY_GENERAL = {
    "fast_call": None,
    "wide_logits": "float64 logits",
    "masked_elements": "ignored or masked elements",
    "pixel_weights": "pixel weights",
    "squared_sums": "terms with squared=True or soft='l1'",
    "several_terms": "more than one pointwise term, or more than one with label smoothing",
    "other_term": "a pointwise term whose settings, or soft labels, the fast kernels do not take",
    "dense_target": "probabilities as the target, or label smoothing",
    "many_classes": "more classes than the fast kernels take",
    "special_weight": "a class weight, pos_weight or alpha of 0 or 1",
    "scattered_planes": "planes that are not contiguous, or begin at different places of a pack of elements",
    "statistics": "statistics",
}


def describe(
    spec: Spec,
    route: Route,
    way: str,
    inputs: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    weights: list[Tensor],
    argument: str | None,
    group: Any,
    counts: bool = False,
    gradient: str | None = None,
    made: str | None = None,
) -> Explanation:
    """Say what a call runs.

    Args:
        spec: the terms.
        route: of this call, as `Plan._begin` gives it.
        way: "reference", "elementwise", "sums" or "loss", as `Plan.run` takes it, or "bands".
        inputs: (x, y, mask, pixel_weight), x with its channel axis.
        weights: the weight tensors of the terms.
        argument: `backend=` of the loss.
        group: its process group.
        counts: whether statistics are wanted.
        gradient, made: of bands: whose logits are not there to require one, and how they come about.
    """
    x = inputs[0]
    what = f"{' + '.join([term.kind for term in spec.terms]) or 'nothing'}, {spec.mode}, {_shown(x)}"
    reasons = []
    if way == "reference" and route.backend == "reference" and transformed(x, inputs[1], inputs[3], *weights):
        reasons.append("torch.func or forward-mode AD is at work, which only plain PyTorch can follow")
    elif way == "reference" and route.backend != "reference":
        reasons.append("every weight is 0: no kernel has anything to compute")
    else:
        reasons.append(backends.why(argument, x))
    learns = x.requires_grad and torch.is_grad_enabled()
    if way == "reference":
        return Explanation(what, "reference", "reference", "autograd" if learns else "none", tuple(reasons))
    if way == "bands":
        reasons.append(f"logits and their gradient exist one band at a time{made or ''}")
        return Explanation(what, route.backend, "bands", gradient or "none", tuple(reasons))
    path, why = _kernels(route, way, inputs, counts)
    if way == "sums":
        path = "generic"
        if group is not None:
            reasons.append("process_group: the sums of all processes are added up before the loss is made of them")
        elif any([w.requires_grad for w in weights]):
            reasons.append("a weight tensor requires a gradient")
        else:
            reasons.append("the loss is another function of the sums than the kernels know")
        why = why and f"the sums are made by the general kernels: {why}"
    if why:
        reasons.append(why)
    gradient = "none"
    if learns:
        early = way == "loss" and not hidden(x) and _ops.is_early(route.backend, x, inputs[2], route.ints)
        gradient = "early" if early else "late"
        if not early:
            reasons.append(_why_late(route.backend, way, x))
    return Explanation(what, route.backend, path, gradient, tuple(reasons))


def _kernels(route: Route, way: str, inputs: tuple, counts: bool) -> tuple[str, str | None]:
    """("fast" or "general", why) as the library says that it will take the call."""
    if route.backend == "triton":
        return "fast", "Triton compiles its kernels for the terms and types of a call, so that all of them are alike"
    if hidden(inputs[0]):
        return "general", "inputs without numbers do not tell which kernels will take them"
    if way == "elementwise":
        return "general", 'reduction="none" stores each element'
    x, y, mask, pixel_weight = inputs
    grads = way == "loss" and x.requires_grad and torch.is_grad_enabled()
    found = _ops.path(route.backend, route.ints, route.floats, x, y, mask, pixel_weight, grads, counts)
    why = list(WHY_GENERAL.values())[found]
    return ("fast", None) if why is None else ("general", why)


def _why_late(backend: str, way: str, x: Tensor) -> str:
    if way != "loss":
        return "the gradient waits for what becomes of the sums or elements"
    if hidden(x):
        return "batched, fake and traced inputs take the ops with their registered gradients"
    if backend == "triton" and x.dtype is not torch.float16:
        return "the gradient needs the sums of the whole batch, after which Triton would need a launch more"
    return f"gradients of {_name(x.dtype)} logits are scaled before they are rounded"


def _shown(x: Tensor) -> str:
    return f"{_name(x.dtype)} {list(x.shape)} on {x.device}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

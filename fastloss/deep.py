"""Deep supervision: one loss over a pyramid of outputs, with targets sampled from the full-resolution labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import _arguments as check
from ._planned import SETTINGS
from ._types import Interpolation
from .compound import Criterion
from .explanation import Explained
from .plan import scaled_plan
from .schedule import LossSchedule

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
INTERPOLATIONS = ("nearest-exact", "nearest")


class DeepSupervisionLoss(Explained, nn.Module):
    """The weighted sum of one loss over the outputs of a network at several resolutions (Lee et al. 2015,
    "Deeply-supervised nets"; the form of nnU-Net and of MONAI).

    The target is given once, at full resolution. Each level reads it through a stride where the sizes divide each
    other, so that no smaller copies exist; elsewhere the few indices that are needed are gathered. Each level is one
    fused call, its weight inside.
    """

    def __init__(
        self,
        criterion: nn.Module,
        weights: Sequence[float] | None = None,
        *,
        interpolation: Interpolation = "nearest-exact",
    ) -> None:
        """Make the loss of a pyramid.

        Args:
            criterion: the loss of each level: one of fastloss, a drop-in of `fastloss.compat`, or any module that is
                called with logits and a target. `UpsampledLoss(loss)` compares each level, interpolated, with the
                labels of full resolution instead of sampling them.
            weights: one number for each level, the finest first; levels of weight 0 are not computed. None: 1, 1/2,
                1/4 …, divided by their sum. (nnU-Net's trainer takes these with a 0 for the coarsest level.)
            interpolation: "nearest-exact" (nnU-Net, MONAI: the pixel below the centre of the coarse one) or "nearest"
                (its corner), as `torch.nn.functional.interpolate` names them.

        Raises:
            ValueError: no weights, all of them 0, one that is not finite or below 0, or another interpolation.
            TypeError: the criterion is no module.
        """
        super().__init__()
        self.criterion = criterion
        self.weights: Any = weights
        self.interpolation: Interpolation = interpolation

    def __setattr__(self, name: str, value: Any) -> None:
        """Settings can be changed at any time, and are checked as those of the constructor."""
        if name in SETTINGS and name != "weights":
            check.refuse_change(self, name)
        if name == "criterion" and not isinstance(value, nn.Module):
            raise TypeError(f"criterion must be a loss module, got {type(value).__name__}.")
        if name == "weights" and value is not None:
            value = check.vector("weights", value)
            if not any(value):
                raise ValueError(f"weights must not all be 0, got {list(value)}.")
        if name == "interpolation":
            value = check.choice("interpolation", value, INTERPOLATIONS)
        found: Any = value
        super().__setattr__(name, found)

    def forward(
        self,
        x: Sequence[Tensor],
        y: Tensor | Sequence[Tensor],
        mask: Tensor | None = None,
        pixel_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of a pyramid.

        Args:
            x: logits of each level, [N, C, *S_l], the finest first.
            y: the target at full resolution (the shapes of `Criterion.forward`, of any size), or one for each level.
            mask: at full resolution, as for the criterion.
            pixel_weight: the same.

        Returns:
            0-d, the sum over the levels.

        Raises:
            ValueError: no levels, or another number of them than of weights or targets; and what the criterion raises.
            TypeError: x is no list or tuple.
        """
        if not isinstance(x, Sequence):
            raise TypeError(f"x must be a list or tuple with the logits of each level, got {type(x).__name__}.")
        if not x:
            raise ValueError("x must hold at least one output, got none.")
        weights = halving(len(x)) if self.weights is None else self.weights
        if len(x) != len(weights):
            raise ValueError(f"x must hold one output for each of the {len(weights)} weights, got {len(x)}.")
        if isinstance(y, Sequence) and len(y) != len(x):
            raise ValueError(f"y must hold one target for each of the {len(x)} outputs, got {len(y)}.")
        total: Any = None
        for level, (logits, weight) in enumerate(zip(x, weights)):
            if weight == 0:
                continue
            optional = [self._fitted(t, logits) for t in (mask, pixel_weight) if t is not None]
            given = [name for name, t in (("mask", mask), ("pixel_weight", pixel_weight)) if t is not None]
            target = y[level] if isinstance(y, Sequence) else self._fitted(y, logits)
            value = scaled(self.criterion, weight, logits, target, **dict(zip(given, optional)))
            total = value if total is None else total + value
        return total

    def _fitted(self, t: Tensor, logits: Tensor) -> Tensor:
        """What a level reads: `UpsampledLoss` takes labels of any size."""
        full = getattr(self.criterion, "full_resolution", False)
        return t if full else sample(t, logits.shape[2:], self.interpolation)

    def extra_repr(self) -> str:
        words = ["weights=halving" if self.weights is None else f"weights={list(self.weights)}"]
        if self.interpolation != "nearest-exact":
            words.append(f"interpolation={self.interpolation!r}")
        return ", ".join(words)


def halving(levels: int) -> tuple[float, ...]:
    """1, 1/2, 1/4 … divided by their sum."""
    total = sum([0.5**level for level in range(levels)])
    return tuple([0.5**level / total for level in range(levels)])


def sample(t: Tensor, size: Sequence[int], interpolation: str = "nearest-exact") -> Tensor:
    """The last axes of t reduced to `size` as `torch.nn.functional.interpolate` does, for any dtype: a view where the
    sizes divide each other."""
    exact = interpolation == "nearest-exact"
    for axis, wanted in enumerate(size, t.ndim - len(size)):
        have = t.shape[axis]
        if have == wanted:
            continue
        if wanted and have % wanted == 0:
            step = have // wanted
            t = t[(slice(None),) * axis + (slice(step // 2 if exact else 0, None, step),)]
        else:  # in float32, as interpolate computes it
            places = torch.arange(wanted, device=t.device, dtype=torch.float32) + (0.5 if exact else 0.0)
            scale = torch.tensor(have, dtype=torch.float32) / wanted
            t = t.index_select(axis, (places * scale.item()).long().clamp_max(have - 1))
    return t


def scaled(loss: Callable[..., Tensor], weight: float, *inputs: Any, **named: Any) -> Tensor:
    """weight * loss(*inputs), with the weight inside the fused pass where there is one: the gradient that is written
    ahead in forward then is right for every level of a pyramid."""
    if isinstance(loss, nn.Module) and altered(loss):
        return weight * loss(*inputs, **named)
    if isinstance(loss, LossSchedule):
        return scaled(loss.active, weight, *inputs, **named)
    if isinstance(loss, Criterion):
        factors = loss._weights() if loss._factors else None
        return scaled_plan(loss._plan, float(weight)).run(*inputs, **named, weights=factors)[0]
    inside = getattr(loss, "_scaled", None)
    return weight * loss(*inputs, **named) if inside is None else inside(float(weight), *inputs, **named)


def altered(loss: nn.Module) -> bool:
    """Whether a call of a loss runs something else than its own computation: hooks, or the forward of a subclass."""
    loss = getattr(loss, "_orig_mod", loss)  # torch.compile's wrapper
    if "forward" in loss.__dict__ or any([getattr(loss, hook, None) for hook in HOOKS]):
        return True
    for known in (Criterion, LossSchedule):
        if isinstance(loss, known):
            return type(loss).forward is not known.forward
    return getattr(loss, "_replaced", False)

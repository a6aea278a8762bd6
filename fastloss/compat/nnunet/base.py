"""What nnU-Net's sums of Dice and a pointwise loss share."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...plan import plan
from ...spec import FIXED_SUMS, AuxColumn, Spec, SumColumn, Term
from .._base import REGISTRY, CompatLoss
from .._linear import Linear
from .dice import _Dice


def unwrapped(module: Any) -> Any:
    """What `torch.compile` wrapped (nnU-Net's trainer compiles `loss.dc`)."""
    return getattr(module, "_orig_mod", module)


class Compound(CompatLoss):
    """Dice (`dc`) and a pointwise loss (`ce`), which may be replaced or compiled as in nnU-Net's trainer."""

    library = "nnunet"
    dc: nn.Module
    ce: nn.Module
    weight_ce: float
    weight_dice: float

    @property
    def why_not_fused(self) -> str | None:
        dc, ce = unwrapped(self.dc), unwrapped(self.ce)
        for name, part, known in (("dc", dc, _Dice), ("ce", ce, CompatLoss)):
            if not isinstance(part, known):
                return f"{name}={type(part).__name__} is none of fastloss.compat.nnunet"
        return dc.why_not_fused

    def _adopt(self, loss: Any) -> None:
        """What an original may have been given after its construction."""
        unwrapped(self.dc).apply_nonlin = unwrapped(loss.dc).apply_nonlin

    def forward(self, net_output: Tensor, target: Tensor) -> Tensor:
        """net_output: logits [N, C, *S]; target: see the class. Returns 0-d."""
        return self._scaled(1.0, net_output, target)

    def _scaled(self, scale: float, net_output: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def _one_pass(
        self,
        weights: tuple[float, float],
        pointwise: Linear | None,
        x: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        pixel_weight: Tensor | None = None,
    ) -> Tensor | None:
        """Dice and the pointwise term, weighted, of targets that the kernels read; None if it takes two passes."""
        dc = unwrapped(self.dc)
        if pointwise is None or not isinstance(dc, _Dice) or dc.mode != pointwise.mode or self._learns(y, pixel_weight):
            return None
        dice = dc.linear(x, mask is not None or pointwise.ignore_index is not None)
        if dice is not None:
            both = replace(dice, ignore_index=pointwise.ignore_index).scaled(weights[0])
            both = both.plus(pointwise.scaled(weights[1]))
            return None if both is None else both.run(x, y, mask, pixel_weight)
        terms = (*pointwise.terms, Term("tversky", batch=False, empty="score"))
        if any([term.reduction == "none" for term in terms]):
            return None
        sums, aux = plan(Spec(pointwise.mode, terms, pointwise.ignore_index)).sums(x, y, mask, pixel_weight)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        value = x.new_zeros((), dtype=wide)
        if weights[0]:
            columns = SumColumn.INTER, SumColumn.PRED, SumColumn.TARGET
            value = weights[0] * dc._finish(x, *[sums[..., column] for column in columns])
        for index, term in enumerate(pointwise.terms):
            total = sums[..., FIXED_SUMS + index].sum()
            if term.reduction == "mean":
                count = aux[index, AuxColumn.DENOMINATOR]
                total = total / torch.where(count == 0, torch.ones_like(count), count)
            value = value + weights[1] * term.weight * total.to(wide)
        return value


def dice_arguments(dc: Any) -> dict[str, Any]:
    """The arguments of a Dice but `apply_nonlin`, which the compounds give; of a foreign class, those that it keeps."""
    known = REGISTRY.get(_home(type(dc)))
    if known is not None or isinstance(dc, CompatLoss):
        found = (known or type(dc)).arguments(dc)
    else:
        found = {name: getattr(dc, name) for name in inspect.signature(type(dc)).parameters if hasattr(dc, name)}
    return {name: value for name, value in found.items() if name != "apply_nonlin"}


def own_class(dice_class: Any) -> Any:
    """Our class in place of nnU-Net's own."""
    return REGISTRY.get(_home(dice_class), dice_class)


def _home(owner: Any) -> str:
    return f"{getattr(owner, '__module__', '')}.{getattr(owner, '__qualname__', '')}"

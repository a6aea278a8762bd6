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
from .._linear import Call, Linear
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

    def as_call(self, net_output: Tensor, target: Tensor) -> Call | None:
        pointwise = self._pointwise_call(net_output, target)
        return None if pointwise is None else self._joined((self.weight_dice, self.weight_ce), pointwise)

    def _scaled(self, scale: float, net_output: Tensor, target: Tensor) -> Tensor:
        weights = (scale * self.weight_dice, scale * self.weight_ce)
        pointwise = self._pointwise_call(net_output, target)
        if pointwise is not None:
            call = self._joined(weights, pointwise)
            if call is not None:
                return call.run(1.0)
            value = self._from_sums(weights, pointwise)
            if value is not None:
                return value
        return self._in_two(weights, net_output, target)

    def _pointwise_call(self, x: Tensor, target: Tensor) -> Call | None:
        """The pointwise loss of targets that the kernels read and Dice reads alike; None if there is no such call."""
        raise NotImplementedError

    def _in_two(self, weights: tuple[float, float], x: Tensor, target: Tensor) -> Tensor:
        """Dice and the pointwise loss, weighted, each by itself."""
        raise NotImplementedError

    def _dice_for(self, pointwise: Call) -> tuple[_Dice | None, Linear | None]:
        """Dice, if it has the activation of the pointwise call, and its term, if the kernels have it."""
        dc, (loss, x, y, mask, pixel_weight, _) = unwrapped(self.dc), pointwise
        if not isinstance(dc, _Dice) or dc.mode != loss.mode or self._learns(y, pixel_weight):
            return None, None
        dice = dc.linear(x, mask is not None or loss.ignore_index is not None)
        return dc, None if dice is None else replace(dice, ignore_index=loss.ignore_index)

    def _joined(self, weights: tuple[float, float], pointwise: Call) -> Call | None:
        """Dice and the pointwise loss, weighted, as one call."""
        _, dice = self._dice_for(pointwise)
        both = None if dice is None else dice.scaled(weights[0]).plus(pointwise.scaled(weights[1]).loss)
        return None if both is None else Call(both, *pointwise.inputs())

    def _from_sums(self, weights: tuple[float, float], pointwise: Call) -> Tensor | None:
        """The same by way of the sums of one pass, where Dice is no term of the kernels; None if it takes two."""
        (dc, dice), loss, x = self._dice_for(pointwise), pointwise.loss, pointwise.x
        terms = (*loss.terms, Term("tversky", batch=False, empty="score"))
        if dc is None or dice is not None or any([term.reduction == "none" for term in terms]):
            return None
        sums, aux = plan(Spec(loss.mode, terms, loss.ignore_index)).sums(*pointwise.inputs())
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        value = x.new_zeros((), dtype=wide)
        if weights[0]:
            columns = SumColumn.INTER, SumColumn.PRED, SumColumn.TARGET
            value = weights[0] * dc._finalize(x, *[sums[..., column] for column in columns])
        for index, term in enumerate(loss.terms):
            total = sums[..., FIXED_SUMS + index].sum()
            if term.reduction == "mean":
                count = aux[index, AuxColumn.DENOMINATOR]
                total = total / torch.where(count == 0, torch.ones_like(count), count)
            value = value + weights[1] * pointwise.factor * term.weight * total.to(wide)
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

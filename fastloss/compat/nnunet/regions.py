"""nnU-Net's Dice with BCE for regions, in one pass over logits and masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...deep import scaled
from ...spec import Term
from .._linear import Call, Linear
from ..torch import BCEWithLogitsLoss
from .base import Compound, dice_arguments, own_class, unwrapped
from .dice import MemoryEfficientSoftDiceLoss


class DC_and_BCE_loss(Compound):
    """nnU-Net's `DC_and_BCE_loss`: weight_ce * BCE - weight_dice * Dice over sigmoids, in one pass.

    The target is one-hot regions [N, C, *S]. With use_ignore_label it has one more channel, the last, that is 1 where
    nothing counts; there nnU-Net's BCE is the sum over the channels, C times that without ignored pixels.
    strict=False takes the mean over the channels in both cases.

    Args:
        bce_kwargs: arguments of `torch.nn.BCEWithLogitsLoss`. It is not written to.
        soft_dice_kwargs: arguments of `dice_class` but `apply_nonlin`.
        weight_ce: factor of BCE; at 0 it is not computed.
        weight_dice: factor of minus Dice.
        use_ignore_label: see above.
        dice_class: as in `DC_and_CE_loss`.
        strict: see above.

    Raises ValueError for a target that does not fit or lies outside [0, 1].
    """

    original = "nnunetv2.training.loss.compound_losses.DC_and_BCE_loss"

    def __init__(
        self,
        bce_kwargs: dict[str, Any],
        soft_dice_kwargs: dict[str, Any],
        weight_ce: float = 1,
        weight_dice: float = 1,
        use_ignore_label: bool = False,
        dice_class: Callable[..., nn.Module] = MemoryEfficientSoftDiceLoss,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(strict=strict)
        if use_ignore_label:
            bce_kwargs = {**bce_kwargs, "reduction": "none"}
        self.weight_ce, self.weight_dice, self.use_ignore_label = weight_ce, weight_dice, use_ignore_label
        self.ce = BCEWithLogitsLoss(**bce_kwargs, strict=strict)
        self.dc = own_class(dice_class)(apply_nonlin=torch.sigmoid, **soft_dice_kwargs)

    @classmethod
    def arguments(cls, loss: Any) -> dict[str, Any]:
        dc, ce = unwrapped(loss.dc), unwrapped(loss.ce)
        return {
            "bce_kwargs": BCEWithLogitsLoss.arguments(ce),
            "soft_dice_kwargs": dice_arguments(dc),
            **{name: getattr(loss, name) for name in ("weight_ce", "weight_dice", "use_ignore_label")},
            "dice_class": own_class(type(dc)),
        }

    def _pointwise_call(self, x: Tensor, target: Tensor) -> Call | None:
        (y, mask), ce = self._split(x, target), unwrapped(self.ce)
        known = isinstance(ce, BCEWithLogitsLoss) and not ce._learns(y, ce.weight)
        loss = ce.linear(x) if known else None
        if loss is None:
            return None
        if self.use_ignore_label:
            loss = Linear(loss.mode, tuple([_with_mean(term) for term in loss.terms]))
        return Call(loss, x, y, mask, None if ce.weight is None else ce.weight.expand(x.shape), self._times(x))

    def _times(self, x: Tensor) -> int:
        """What BCE is multiplied by: nnU-Net sums over the channels where it has an ignore label."""
        return x.shape[1] if self.use_ignore_label and self.strict else 1

    def _split(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """(regions, mask of what counts)."""
        y, mask = target, None
        if self.use_ignore_label:
            ignored = target[:, -1:]
            mask, y = ~ignored if ignored.dtype == torch.bool else ignored != 1, target[:, :-1]
        if y.shape != x.shape:
            extra = " and one channel more" if self.use_ignore_label else ""
            raise ValueError(
                f"target must have the shape {list(x.shape)}{extra} to fit net_output, got {list(target.shape)}."
            )
        return y, mask

    def _in_two(self, weights: tuple[float, float], x: Tensor, target: Tensor) -> Tensor:
        (y, mask), ce = self._split(x, target), unwrapped(self.ce)
        dice = scaled(self.dc, weights[0], x, y, loss_mask=mask)
        if mask is None:
            return scaled(ce, weights[1], x, y.float()) + dice
        entropy = (ce(x, y.float()) * mask).sum() / mask.sum().clamp_min(1e-8)
        return weights[1] * self._times(x) / x.shape[1] * entropy + dice


def _with_mean(term: Term) -> Term:
    return Term("bce", weight=term.weight, vector=term.vector)

"""nnU-Net's Dice with cross-entropy or top-k, in one pass over logits and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...deep import scaled
from .._linear import Call, Linear
from .activation import softmax_helper_dim1
from .base import Compound, dice_arguments, own_class, unwrapped
from .cross_entropy import RobustCrossEntropyLoss, TopKLoss
from .dice import SoftDiceLoss, for_kernels


class DC_and_CE_loss(Compound):
    """nnU-Net's `DC_and_CE_loss`: weight_ce * cross-entropy - weight_dice * Dice over softmax, in one pass.

    The target is labels [N, 1, *S] of any dtype. Pixels of `ignore_label` count in neither; where nothing else is left
    the cross-entropy is 0. A one-hot target of the logits' shape gives its Dice, but the cross-entropy of its channel 0
    as class indices, as in nnU-Net; strict=False takes the whole target.

    An `ignore_index` of `ce_kwargs` from 0 on without `ignore_label` (Dice counts those pixels, cross-entropy does
    not), reduction="none" and one-hot targets take two fused passes. `ce_kwargs` is not written to.

    Args:
        soft_dice_kwargs: arguments of `dice_class` but `apply_nonlin`.
        ce_kwargs: arguments of `RobustCrossEntropyLoss`.
        weight_ce: factor of the cross-entropy; at 0 it is not computed.
        weight_dice: factor of minus Dice; at 0 it is not computed.
        ignore_label: pixels that count in neither.
        dice_class: `SoftDiceLoss`, `MemoryEfficientSoftDiceLoss` or those of nnU-Net itself; any other class runs as it
            is, beside a fused cross-entropy.
        strict: see above.

    Raises ValueError for a target that does not fit.
    """

    original = "nnunetv2.training.loss.compound_losses.DC_and_CE_loss"
    _pointwise: type[RobustCrossEntropyLoss] = RobustCrossEntropyLoss

    def __init__(
        self,
        soft_dice_kwargs: dict[str, Any],
        ce_kwargs: dict[str, Any],
        weight_ce: float = 1,
        weight_dice: float = 1,
        ignore_label: int | None = None,
        dice_class: Callable[..., nn.Module] = SoftDiceLoss,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(strict=strict)
        if ignore_label is not None:
            ce_kwargs = {**ce_kwargs, "ignore_index": ignore_label}
        self.weight_ce, self.weight_dice, self.ignore_label = weight_ce, weight_dice, ignore_label
        self.ce = self._pointwise(**ce_kwargs, strict=strict)
        self.dc = own_class(dice_class)(apply_nonlin=softmax_helper_dim1, **soft_dice_kwargs)

    @classmethod
    def arguments(cls, loss: Any) -> dict[str, Any]:
        dc, ce = unwrapped(loss.dc), unwrapped(loss.ce)
        found = {
            "soft_dice_kwargs": dice_arguments(dc),
            "ce_kwargs": cls._pointwise.arguments(ce),
            **{name: getattr(loss, name) for name in ("weight_ce", "weight_dice", "ignore_label")},
        }
        return found if cls._pointwise is TopKLoss else {**found, "dice_class": own_class(type(dc))}

    def _pointwise_call(self, x: Tensor, target: Tensor) -> Call | None:
        ce = unwrapped(self.ce)
        self._check(x, target)
        whole = target.shape == x.shape and not self.strict
        known = isinstance(ce, RobustCrossEntropyLoss) and not ce._learns(target)
        if not known or x.shape[1] < 2 or not (whole or target.shape != x.shape):
            return None
        y = for_kernels("multiclass", x, target if target.ndim == x.ndim else target.unsqueeze(1))
        loss = Linear("multiclass", (), self.ignore_label) if self.weight_ce == 0 else self._linear(ce, x, y, whole)
        return None if loss is None else Call(loss, x, y)

    def _check(self, x: Tensor, target: Tensor) -> None:
        if self.ignore_label is not None and target.shape[1] != 1:
            raise ValueError(f"target must be labels [N, 1, *S] with ignore_label, got {list(target.shape)}.")
        if self.weight_ce != 0 and target.ndim != x.ndim:
            raise ValueError(f"target must be labels [N, 1, *S] to fit net_output, got {list(target.shape)}.")

    def _in_two(self, weights: tuple[float, float], x: Tensor, target: Tensor) -> Tensor:
        mask = None if self.ignore_label is None else target != self.ignore_label
        dice_target = target if mask is None else torch.where(mask, target, 0)
        value = scaled(self.dc, weights[0], x, dice_target, loss_mask=mask) if weights[0] != 0 else 0.0
        if weights[1] != 0:
            entropy = scaled(unwrapped(self.ce), weights[1], x, target[:, :1])
            if mask is not None:
                entropy = torch.where(mask.any(), entropy, torch.zeros_like(entropy))
            value = value + entropy
        return value if isinstance(value, Tensor) else x.sum() * 0.0

    def _linear(self, ce: RobustCrossEntropyLoss, x: Tensor, y: Tensor, whole: bool) -> Linear | None:
        """The cross-entropy over the pixels that Dice counts too, or None if it leaves out others."""
        loss = ce.top(x, y, self.ignore_label) if isinstance(ce, TopKLoss) else ce.linear(whole)
        alike = ce.ignore_index < 0 if self.ignore_label is None else ce.ignore_index == self.ignore_label
        if loss is None or not alike:
            return None
        # Negative labels without ignore_label: an error of Dice, as in nnU-Net.
        return replace(loss, ignore_index=self.ignore_label, undefined=False)


class DC_and_topk_loss(DC_and_CE_loss):
    """nnU-Net's `DC_and_topk_loss`: weight_ce * `TopKLoss` - weight_dice * `SoftDiceLoss` over softmax, in one pass
    unless `TopKLoss` needs `torch.topk` (see there). Arguments: see `DC_and_CE_loss`; `ce_kwargs` are of `TopKLoss`."""

    original = "nnunetv2.training.loss.compound_losses.DC_and_topk_loss"
    _pointwise = TopKLoss

    def __init__(
        self,
        soft_dice_kwargs: dict[str, Any],
        ce_kwargs: dict[str, Any],
        weight_ce: float = 1,
        weight_dice: float = 1,
        ignore_label: int | None = None,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(soft_dice_kwargs, ce_kwargs, weight_ce, weight_dice, ignore_label, strict=strict)

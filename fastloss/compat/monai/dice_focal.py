"""MONAI's Dice and generalised Dice with the sigmoid focal loss: one pass if Dice takes the sigmoid too, else two."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ...plan import Plan
from ...spec import FIXED_SUMS
from .. import _fused
from .._base import CompatLoss
from .._linear import Call, Linear
from ._compound import check_shapes, not_negative, paths
from ._declared import Activation, ClassWeighting, Smoothing, Squares
from ._focal import Weights
from ._inputs import plain_tensor
from .dice import DiceLoss
from .focal import FocalLoss
from .tversky import GeneralizedDiceLoss


class DiceFocalLoss(CompatLoss, Smoothing, Squares, Activation):
    """`monai.losses.DiceFocalLoss`: lambda_dice Dice + lambda_focal focal loss. The focal loss is that of sigmoids
    whatever the activation of Dice, in a pass of its own if that is the softmax. Arguments as there; `strict`: see the
    module."""

    original = "monai.losses.dice.DiceFocalLoss"
    library = "monai"
    _paths: ClassVar = {
        **paths("dice", Squares, weight="focal.weight", gamma="focal.gamma", alpha="focal.alpha"),
        "to_onehot_y": "to_onehot_y",
    }

    gamma: float = 2.0
    weight: Weights | None = None
    lambda_dice: float = 1.0
    lambda_focal: float = 1.0
    alpha: float | None = None

    def _set(
        self,
        *,
        gamma: float,
        weight: Weights | None,
        lambda_dice: float,
        lambda_focal: float,
        alpha: float | None,
        strict: bool,
        **overlap: Any,
    ) -> None:
        CompatLoss.__init__(self, strict=strict)
        self.dice = DiceLoss(**overlap, weight=weight, strict=strict)
        self.focal = FocalLoss(**focal_settings(overlap), gamma=gamma, alpha=alpha, weight=weight, strict=strict)
        self.lambda_dice = not_negative("lambda_dice", lambda_dice)
        self.lambda_focal = not_negative("lambda_focal", lambda_focal)

    @property
    def to_onehot_y(self) -> bool:
        return self.dice.to_onehot_y and self.focal.to_onehot_y

    @to_onehot_y.setter
    def to_onehot_y(self, value: bool) -> None:
        self.dice.to_onehot_y = self.focal.to_onehot_y = value

    @property
    def why_not_fused(self) -> str | None:
        reason = self.dice.why_not_fused
        return reason and f"Dice's {reason}"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """input [B, C, *S]; target of the same shape, or class indices [B, 1, *S] with to_onehot_y=True. A scalar; with
        reduction "none" [B, C, *S], Dice added to every voxel of its class."""
        call = self.as_call(input, target)
        if call is not None:
            return _fused.run(call)
        x, y = plain_tensor(input), plain_tensor(target)
        return self.lambda_dice * self.dice(x, y) + self.lambda_focal * self.focal(x, y)

    def as_call(self, input: Tensor, target: Tensor) -> Call | None:
        """Both in one pass, where they have one activation."""
        x, y = plain_tensor(input), plain_tensor(target)
        check_shapes(x, y)
        dice, focal = self.dice, self.focal
        fitted = focal._fit(x, y) if focal.fits_one_pass(dice) and dice._linear else None
        if fitted is None:
            return None
        key = (fitted.mode, fitted.x.shape[1], fitted.x[0, 0].numel(), dice._samples(x), fitted.soft)
        return Call(self._cached(key, self._prepare), fitted.x, fitted.y)

    def _prepare(self, key: tuple[str, int, int, int, bool]) -> Linear:
        mode, classes, voxels, samples, soft = key
        region = self.dice._region(classes, samples, (), self.lambda_dice, dropped=True)
        return _fused.make_linear(
            mode, region, self.focal._term(soft, self.lambda_focal * self.focal._factor(classes, voxels))
        )


class GeneralizedDiceFocalLoss(CompatLoss, Smoothing, ClassWeighting, Activation):
    """`monai.losses.GeneralizedDiceFocalLoss`: lambda_gdl generalised Dice + lambda_focal focal loss of sigmoids, in
    one pass if Dice takes the sigmoid too. Arguments as there; `strict`: see the module."""

    original = "monai.losses.dice.GeneralizedDiceFocalLoss"
    library = "monai"
    _paths = paths("generalized_dice", ClassWeighting, weight="focal.weight", gamma="focal.gamma")

    gamma: float = 2.0
    weight: Weights | None = None
    lambda_gdl: float = 1.0
    lambda_focal: float = 1.0

    def _set(
        self,
        *,
        gamma: float,
        weight: Weights | None,
        lambda_gdl: float,
        lambda_focal: float,
        strict: bool,
        **overlap: Any,
    ) -> None:
        CompatLoss.__init__(self, strict=strict)
        self.generalized_dice = GeneralizedDiceLoss(**overlap, strict=strict)
        self.focal = FocalLoss(**focal_settings(overlap), gamma=gamma, weight=weight, strict=strict)
        self.lambda_gdl = not_negative("lambda_gdl", lambda_gdl)
        self.lambda_focal = not_negative("lambda_focal", lambda_focal)

    @property
    def why_not_fused(self) -> str | None:
        reason = self.generalized_dice.why_not_fused
        return reason and f"generalised Dice's {reason}"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """As `DiceFocalLoss.forward`; with reduction "none" [B, C, *S]."""
        x, y = plain_tensor(input), plain_tensor(target)
        check_shapes(x, y)
        overlap, focal = self.generalized_dice, self.focal
        if focal.fits_one_pass(overlap):
            fitted = focal._fit(x, y)
            if fitted is not None:
                ready = self._cached((fitted.mode, fitted.soft), self._prepare)
                per = fitted.x.numel() if focal.reduction == "mean" else fitted.x[0, 0].numel()

                def finalize(table: Tensor) -> Tensor:
                    loss = overlap._reduced(overlap._parts(table, with_background=False), x.ndim)
                    both = self.lambda_gdl * loss + self.lambda_focal / per * table[..., FIXED_SUMS + 1].sum()
                    return both.float()

                return _fused.run_sums(ready, fitted.x, fitted.y, None, finalize)
        return self.lambda_gdl * overlap(x, y) + self.lambda_focal * focal(x, y)

    def _prepare(self, key: tuple[str, bool]) -> Plan:
        return _fused.make_plan(key[0], self.generalized_dice._term(), self.focal._term(key[1]))


def focal_settings(overlap: dict[str, Any]) -> dict[str, Any]:
    """The arguments that the focal loss shares with an overlap loss."""
    return {name: overlap[name] for name in ("include_background", "to_onehot_y", "reduction")}

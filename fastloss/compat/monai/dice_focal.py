"""MONAI's Dice and generalised Dice with the sigmoid focal loss: one pass if Dice takes the sigmoid too, else two."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from ...plan import Plan
from ...spec import FIXED_SUMS
from .. import _fused
from .._base import CompatLoss
from ._compound import check_shapes, not_negative, paths
from ._focal import Weights
from ._inputs import plain_tensor
from .dice import DiceLoss
from .focal import FocalLoss
from .tversky import GeneralizedDiceLoss


class DiceFocalLoss(CompatLoss):
    """`monai.losses.DiceFocalLoss`: lambda_dice Dice + lambda_focal focal loss. The focal loss is that of sigmoids
    whatever the activation of Dice, in a pass of its own if that is the softmax. Arguments as there; `strict`: see the
    module."""

    original = "monai.losses.dice.DiceFocalLoss"
    library = "monai"
    _paths: ClassVar = {
        **paths("dice", "squared_pred", "jaccard", weight="focal.weight", gamma="focal.gamma", alpha="focal.alpha"),
        "to_onehot_y": "to_onehot_y",
    }

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable | None = None,
        squared_pred: bool = False,
        jaccard: bool = False,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        gamma: float = 2.0,
        weight: Weights | None = None,
        lambda_dice: float = 1.0,
        lambda_focal: float = 1.0,
        alpha: float | None = None,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(strict=strict)
        self.dice = DiceLoss(
            include_background, to_onehot_y, sigmoid, softmax, other_act, squared_pred, jaccard, reduction, smooth_nr,
            smooth_dr, batch, weight, strict=strict,
        )  # fmt: skip
        self.focal = FocalLoss(include_background, to_onehot_y, gamma, alpha, weight, reduction, strict=strict)
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
        """input [B, C, *S]; target of the same shape, or class ids [B, 1, *S] with to_onehot_y=True. A scalar; with
        reduction "none" [B, C, *S], Dice added to every voxel of its class."""
        x, y = plain_tensor(input), plain_tensor(target)
        check_shapes(x, y)
        dice, focal = self.dice, self.focal
        if focal.fits_one_pass(dice) and dice._linear:
            fitted = focal._fit(x, y)
            if fitted is not None:
                shape = fitted.x.shape
                key = (fitted.mode, shape[1], fitted.x[0, 0].numel(), dice._samples(x), fitted.soft)
                return _fused.call(self._cached(key, self._prepare), fitted.x, fitted.y)
        return self.lambda_dice * dice(x, y) + self.lambda_focal * focal(x, y)

    def _prepare(self, key: tuple[str, int, int, int, bool]) -> Plan:
        mode, classes, voxels, samples, soft = key
        region = self.dice._region(classes, samples, (), self.lambda_dice, dropped=True)
        return _fused.prepared(
            mode, region, self.focal._term(soft, self.lambda_focal * self.focal._factor(classes, voxels))
        )


class GeneralizedDiceFocalLoss(CompatLoss):
    """`monai.losses.GeneralizedDiceFocalLoss`: lambda_gdl generalised Dice + lambda_focal focal loss of sigmoids, in
    one pass if Dice takes the sigmoid too. Arguments as there; `strict`: see the module."""

    original = "monai.losses.dice.GeneralizedDiceFocalLoss"
    library = "monai"
    _paths = paths("generalized_dice", "w_type", weight="focal.weight", gamma="focal.gamma")

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable | None = None,
        w_type: str = "square",
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        gamma: float = 2.0,
        weight: Weights | None = None,
        lambda_gdl: float = 1.0,
        lambda_focal: float = 1.0,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(strict=strict)
        self.generalized_dice = GeneralizedDiceLoss(
            include_background, to_onehot_y, sigmoid, softmax, other_act, w_type, reduction, smooth_nr, smooth_dr,
            batch, strict=strict,
        )  # fmt: skip
        self.focal = FocalLoss(include_background, to_onehot_y, gamma, None, weight, reduction, strict=strict)
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

                def finish(table: Tensor) -> Tensor:
                    loss = overlap._reduced(overlap._parts(table, with_background=False), x.ndim)
                    both = self.lambda_gdl * loss + self.lambda_focal / per * table[..., FIXED_SUMS + 1].sum()
                    return both.float()

                return _fused.finished(ready, fitted.x, fitted.y, None, finish)
        return self.lambda_gdl * overlap(x, y) + self.lambda_focal * focal(x, y)

    def _prepare(self, key: tuple[str, bool]) -> Plan:
        return _fused.prepared(key[0], self.generalized_dice._term(), self.focal._term(key[1]))

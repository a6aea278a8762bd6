"""MONAI's Dice with cross-entropy: one pass where both have the same activation, else two."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...plan import Plan
from ...spec import Term
from .. import _fused
from .._base import CompatLoss
from .._linear import Call, Linear
from ._compound import check_shapes, not_negative, paths
from ._declared import Activation, Smoothing, Squares
from ._inputs import class_indices, plain_tensor
from .dice import DiceLoss


class DiceCELoss(CompatLoss, Smoothing, Squares, Activation):
    """`monai.losses.DiceCELoss`: lambda_dice Dice + lambda_ce cross-entropy. With several channels the cross-entropy
    is that of the softmax whatever the activation of Dice, and two passes if that is the sigmoid; with one it is
    BCE, whose pos_weight is `weight`. include_background is Dice's alone. Arguments as there; `strict`: see the
    module."""

    original = "monai.losses.dice.DiceCELoss"
    library = "monai"
    _tensors = ("_weight", "_pos_weight")
    _paths = paths("dice", Squares, weight="cross_entropy.weight", label_smoothing="cross_entropy.label_smoothing")

    weight: Tensor | None = None
    lambda_dice: float = 1.0
    lambda_ce: float = 1.0
    label_smoothing: float = 0.0

    def _set(
        self,
        *,
        reduction: str,
        weight: Tensor | None,
        lambda_dice: float,
        lambda_ce: float,
        label_smoothing: float,
        strict: bool,
        **overlap: Any,
    ) -> None:
        CompatLoss.__init__(self, strict=strict)
        reduction = reduction.strip() if isinstance(reduction, str) else reduction
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}.")
        reduction = str(getattr(reduction, "value", reduction))
        foreground = weight[1:] if weight is not None and not overlap["include_background"] else weight
        self.dice = DiceLoss(**overlap, reduction=reduction, weight=foreground, strict=strict)
        self.cross_entropy = nn.CrossEntropyLoss(weight=weight, reduction=reduction, label_smoothing=label_smoothing)
        self.binary_cross_entropy = nn.BCEWithLogitsLoss(pos_weight=weight, reduction=reduction)
        self.lambda_dice = not_negative("lambda_dice", lambda_dice)
        self.lambda_ce = not_negative("lambda_ce", lambda_ce)
        self._read()

    @property
    def why_not_fused(self) -> str | None:
        reason = self.dice.why_not_fused
        return reason and f"Dice's {reason}"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """input [B, C, *S]; target of the same shape, or class indices [B, 1, *S] with to_onehot_y=True. A scalar."""
        call = self.as_call(input, target)
        if call is not None:
            return _fused.run(call)
        x, y = plain_tensor(input), plain_tensor(target)
        return self.lambda_dice * self.dice(x, y) + self.lambda_ce * self._entropy(x, y)

    def as_call(self, input: Tensor, target: Tensor) -> Call | None:
        """Both in one pass, where they have one activation."""
        x, y = plain_tensor(input), plain_tensor(target)
        check_shapes(x, y)
        dice, channels = self.dice, x.shape[1]
        if not (dice.sigmoid if channels == 1 else dice.softmax) or not dice._linear or dice.why_not_fused is not None:
            return None
        if dice.ignore_index is not None or not self._entropy_fits(x, y):
            return None
        fitted = dice._fit(x, y)
        if fitted is None:
            return None
        weights = dice._class_weights(channels)
        key = (*self._entropy_key(fitted.mode), channels, dice._samples(x), weights)
        return Call(self._cached(key, self._prepare), fitted.x, fitted.y)

    def _prepare(self, key: tuple) -> Linear:
        mode, *_, channels, samples, weights = key
        region = self.dice._region(channels, samples, weights, self.lambda_dice)
        return _fused.make_linear(mode, region, self._entropy_term(mode, self.lambda_ce))

    @property
    def _weight(self) -> Tensor | None:
        return self.cross_entropy.weight

    @property
    def _pos_weight(self) -> Tensor | None:
        return self.binary_cross_entropy.pos_weight

    def _entropy_key(self, mode: str) -> tuple:
        """The settings of the cross-entropy of this mode, which is torch's module: (mode, reduction, …)."""
        if mode == "binary":
            return mode, self.binary_cross_entropy.reduction, 0.0, self._floats("_pos_weight")
        return mode, self.cross_entropy.reduction, float(self.cross_entropy.label_smoothing), self._floats("_weight")

    def _entropy_term(self, mode: str, factor: float) -> Term:
        _, reduction, smoothing, vector = self._entropy_key(mode)
        kind = "bce" if mode == "binary" else "ce"
        return Term(kind, weight=float(factor), reduction=reduction, vector=vector, label_smoothing=smoothing)

    def _entropy_fits(self, x: Tensor, y: Tensor) -> bool:
        channels, entropy = x.shape[1], self.cross_entropy
        if channels == 1:
            entropy, weights, sizes = self.binary_cross_entropy, self._pos_weight, (1,)
            fits = entropy.weight is None
        else:
            weights, sizes = entropy.weight, (channels,)
            fits = entropy.ignore_index == -100
        fits = fits and entropy.reduction != "none" and (weights is None or weights.numel() in sizes)
        return fits and 3 <= x.ndim <= 5 and x.numel() > 0 and x.is_floating_point() and not y.requires_grad

    def _entropy(self, x: Tensor, y: Tensor) -> Tensor:
        indexed = x.shape[1] != y.shape[1]
        if x.shape[0] == y.shape[0] and x.shape[2:] == y.shape[2:] and self._entropy_fits(x, y):
            mode = "binary" if x.shape[1] == 1 else "multiclass"
            ready = self._cached(("entropy", *self._entropy_key(mode)), self._prepare_entropy)
            if indexed:
                y = class_indices(y)
            elif mode == "multiclass" and not y.is_floating_point():
                y = y.to(x.dtype)
            return _fused.run_plan(ready, x, y)
        if indexed:
            y = y.squeeze(1).long()
        elif not y.is_floating_point():
            y = y.to(x.dtype)
        return self.binary_cross_entropy(x, y) if x.shape[1] == 1 else self.cross_entropy(x, y)

    def _prepare_entropy(self, key: tuple) -> Plan:
        return _fused.make_plan(key[1], self._entropy_term(key[1], 1.0))

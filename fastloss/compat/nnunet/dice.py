"""nnU-Net's soft Dice losses: minus the mean of (2 I + smooth) / max(P + T + smooth, 1e-8), I = sum p t, P = sum p,
T = sum t."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from ... import distributed
from ...plan import plan
from ...spec import Spec, SumColumn, Term
from .._base import CompatLoss
from .._linear import Call, Linear
from .activation import mode_of

FLOOR = 1e-8  # smallest denominator


class _Dice(CompatLoss):
    """Either Dice; `clip_tp` stays None in the memory-efficient one, which lacks it."""

    library = "nnunet"
    clip_tp: float | None = None

    def _set(
        self, apply_nonlin: Callable | None, batch_dice: bool, do_bg: bool, smooth: float, ddp: bool, strict: bool
    ) -> None:
        super().__init__(strict=strict)
        self.apply_nonlin = apply_nonlin
        self.batch_dice, self.do_bg, self.smooth, self.ddp = batch_dice, do_bg, smooth, ddp

    @property
    def mode(self) -> str | None:
        """The mode of the kernels for `apply_nonlin`, or None."""
        return mode_of(self.apply_nonlin)

    @property
    def why_not_fused(self) -> str | None:
        if self.mode is not None:
            return None
        if self.apply_nonlin is None:
            return "apply_nonlin=None means that x holds probabilities"
        name = getattr(self.apply_nonlin, "__name__", None) or repr(self.apply_nonlin)
        return f"apply_nonlin={name} is neither softmax over dim 1 nor sigmoid"

    def linear(self, x: Tensor, masked: bool = False) -> Linear | None:
        """Minus Dice as 1 - Dice of the kernels, minus 1; None for what needs the sums themselves.

        I and the rest halved: (I + smooth/2) / max((P + T)/2 + smooth/2, 5e-9) is the same fraction.
        """
        return self._cached((self.mode, x.shape[1], masked), self._make)

    def _make(self, key: tuple[str | None, int, bool]) -> Linear | None:
        mode, channels, masked = key
        if mode is None or self.clip_tp is not None or (self.batch_dice and self.ddp):
            return None
        first = 0 if self.do_bg else 1
        if channels <= first or (masked and self.smooth == 0):  # no class; a sample without a valid pixel scores 0
            return None
        term = Term(
            "tversky",
            smooth=0.5 * self.smooth,
            eps=0.5 * FLOOR,
            batch=bool(self.batch_dice),
            empty="score",
            classes=tuple(range(1, channels)) if first else None,
        )
        return Linear(mode, (term,), constant=-1.0)

    def forward(self, x: Tensor, y: Tensor, loss_mask: Tensor | None = None) -> Tensor:
        """x: logits [N, C, *S]; y: labels [N, *S] or [N, 1, *S] of any dtype, or one-hot of x's shape; loss_mask: bool
        [N, 1, *S], True counts. Returns minus Dice, 0-d."""
        return self._scaled(1.0, x, y, loss_mask)

    def _scaled(self, scale: float, x: Tensor, y: Tensor, loss_mask: Tensor | None = None) -> Tensor:
        mode = self.mode
        call = self.as_call(x, y, loss_mask)
        if call is not None:
            return call.run(scale)
        y = with_channel(x, y)
        slow = self._why_not_these(mode, x, y, loss_mask)
        if mode is None or slow is not None:
            if mode is not None and slow is not None:
                self._slow(slow)
            return scale * self._finalize(x, *self._plain_sums(x, y, loss_mask))
        return scale * self._finalize(x, *self._sums(mode, x, for_kernels(mode, x, y), loss_mask))

    def as_call(self, x: Tensor, y: Tensor, loss_mask: Tensor | None = None) -> Call | None:
        """One pass, where that is all it takes."""
        mode = self.mode
        if mode is None or self._why_not_these(mode, x, y, loss_mask) is not None:
            return None
        loss = self.linear(x, loss_mask is not None)
        return None if loss is None else Call(loss, x, for_kernels(mode, x, with_channel(x, y)), loss_mask)

    def _why_not_these(self, mode: str | None, x: Tensor, y: Tensor, loss_mask: Tensor | None) -> str | None:
        """Why the kernels cannot take these inputs."""
        if self._learns(y, loss_mask):
            return "target requires a gradient"
        if mode == "multiclass" and x.shape[1] < 2:
            return "softmax over a single channel"
        if loss_mask is not None and loss_mask.dtype != torch.bool:
            return "loss_mask is not boolean, so it weighs instead of selecting"
        if loss_mask is not None and mode == "multiclass" and loss_mask.shape[1] != 1:
            return "loss_mask differs between channels"
        return None

    def _sums(self, mode: str, x: Tensor, y: Tensor, loss_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """I, P and T [N, C] from the kernels."""
        spec = Spec(mode, (Term("tversky", batch=False, empty="score"),))
        table, _ = plan(spec).sums(x, y, loss_mask)
        return table[..., SumColumn.INTER], table[..., SumColumn.PRED], table[..., SumColumn.TARGET]

    def _plain_sums(self, x: Tensor, y: Tensor, loss_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The same in plain PyTorch, after any `apply_nonlin`."""
        p = x if self.apply_nonlin is None else self.apply_nonlin(x)
        t = y.float() if y.shape == p.shape else y.new_zeros(p.shape, dtype=torch.float32).scatter_(1, y.long(), 1)
        axes = tuple(range(2, p.ndim))
        t = t if loss_mask is None else t * loss_mask
        inter = p * t
        p = p if loss_mask is None else p * loss_mask
        wide = torch.promote_types(p.dtype, torch.float32)
        return inter.sum(axes, dtype=wide), p.sum(axes, dtype=wide), t.sum(axes, dtype=wide)

    def _finalize(self, x: Tensor, inter: Tensor, pred: Tensor, target: Tensor) -> Tensor:
        """Minus Dice from I, P, T [N, C]."""
        if self.batch_dice:
            inter, pred, target = inter.sum(0), pred.sum(0), target.sum(0)
            if self.ddp:
                check_processes()
                inter, pred, target = distributed.total(torch.stack([inter, pred, target]), True).unbind()
        false = pred + target - 2 * inter
        if self.clip_tp is not None:
            inter = inter.clamp_min(self.clip_tp)
        score = (2 * inter + self.smooth) / (2 * inter + false + self.smooth).clamp_min(FLOOR)
        score = score if self.do_bg else score[..., 1:]
        return -score.mean().to(torch.float64 if x.dtype == torch.float64 else torch.float32)


class SoftDiceLoss(_Dice):
    """nnU-Net's `SoftDiceLoss`: minus the mean Dice of the classes (of each sample unless batch_dice).

    Args:
        apply_nonlin: softmax over dim 1 (`softmax_helper_dim1`, also nnU-Net's; `torch.nn.Softmax(1)`;
            `partial(torch.softmax, dim=1)`) or `torch.sigmoid` run fused; anything else as plain PyTorch.
        batch_dice: sums over the batch before the fraction.
        do_bg: whether channel 0 counts.
        smooth: added to 2 I and to P + T.
        ddp: with batch_dice, sums over the processes of the default group too.
        clip_tp: smallest I.
        strict: for a common signature; there is nothing to mend.
    """

    original = "nnunetv2.training.loss.dice.SoftDiceLoss"

    def __init__(
        self,
        apply_nonlin: Callable | None = None,
        batch_dice: bool = False,
        do_bg: bool = True,
        smooth: float = 1.0,
        ddp: bool = True,
        clip_tp: float | None = None,
        *,
        strict: bool = True,
    ) -> None:
        self._set(apply_nonlin, batch_dice, do_bg, smooth, ddp, strict)
        self.clip_tp = clip_tp


class MemoryEfficientSoftDiceLoss(_Dice):
    """nnU-Net's `MemoryEfficientSoftDiceLoss`: the value of `SoftDiceLoss`, without clip_tp. Arguments: see there."""

    original = "nnunetv2.training.loss.dice.MemoryEfficientSoftDiceLoss"

    def __init__(
        self,
        apply_nonlin: Callable | None = None,
        batch_dice: bool = False,
        do_bg: bool = True,
        smooth: float = 1.0,
        ddp: bool = True,
        *,
        strict: bool = True,
    ) -> None:
        self._set(apply_nonlin, batch_dice, do_bg, smooth, ddp, strict)


def check_processes() -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "ddp=True together with batch_dice=True needs torch.distributed.init_process_group() first, which was not "
            "called; pass ddp=False for a single process."
        )


def with_channel(x: Tensor, y: Tensor) -> Tensor:
    """y with a channel axis."""
    return y if y.ndim == x.ndim else y.reshape(y.shape[0], 1, *y.shape[1:])


def for_kernels(mode: str, x: Tensor, y: Tensor) -> Tensor:
    """y [N, 1 or C, *S] as the kernels read it in this mode."""
    if mode == "multiclass":
        return as_class_indices(y) if y.shape != x.shape else y if y.is_floating_point() else y.float()
    if y.shape == x.shape:
        return y
    one_hot = y.new_zeros(x.shape, dtype=torch.bool)
    return one_hot.scatter_(1, y.long(), True)


def as_class_indices(y: Tensor) -> Tensor:
    """Labels of any dtype as class indices; floats are cut to integers, as `.long()` does."""
    if y.is_floating_point():
        return y.to(torch.int32)  # what int32 cannot hold becomes its smallest number, no class
    return y.to(torch.uint8) if y.dtype == torch.bool else y

"""smp's Lovász and MCC losses: no pass of the kernels can make them, so they are plain PyTorch, arranged to do less."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ..._modes import hidden, transformed, unknown
from .._base import CompatLoss
from ._common import by_hand, check_mode


class MCCLoss(CompatLoss):
    """`segmentation_models_pytorch.losses.MCCLoss`: 1 - Matthews' correlation of probabilities with a binary target,
    over the whole batch, eps added to each of TP, TN, FP, FN (Abhishek & Hamarneh 2021). Arguments as there."""

    original = "segmentation_models_pytorch.losses.mcc.MCCLoss"
    library = "smp"

    def __init__(self, eps: float = 1e-5, *, strict: bool = True) -> None:
        super().__init__(strict=strict)
        self.eps = eps

    @property
    def why_not_fused(self) -> str | None:
        return "it takes probabilities: there is no activation"

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """y_pred (probabilities) and y_true [N, H, W] or [N, 1, H, W]; returns a scalar."""
        if y_true.dtype == torch.bool and self.strict:
            raise NotImplementedError("y_true must hold numbers, got bool.")
        if y_pred.device.type == "cpu" and y_pred.shape == y_true.shape and by_hand(y_pred, y_true):
            return _MCC.apply(y_pred, y_true, float(self.eps))
        rows = (y_true.shape[0], 1, -1)
        return _mcc(y_pred.reshape(rows), y_true.reshape(rows), self.eps)


def _mcc(p: Tensor, y: Tensor, e: float) -> Tensor:
    product = p * y
    kind = torch.float64 if p.device.type == "cpu" and not torch.compiler.is_compiling() else torch.float32
    above, below = _margins(product.sum(dtype=kind), p.sum(dtype=kind), y.sum(dtype=kind), product.numel(), e)
    return (1.0 - above / below.sqrt()).to(product.dtype)


def _margins(inter: Any, pred: Any, target: Any, n: int, e: float) -> tuple[Any, Any]:
    """TP TN - FP FN and the product of the four margins, from sum p y, sum p and sum y."""
    above = inter * (n + 4 * e) - pred * (target + 2 * e) + e * (n - 2 * target)
    return above, (pred + 2 * e) * (n + 2 * e - pred) * ((target + 2 * e) * (n + 2 * e - target))


class _MCC(torch.autograd.Function):
    """The same, and its gradient from the derivatives by the sums: one pass over y instead of one for each sum."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, y: Tensor, e: float) -> Tensor:
        ctx.save_for_backward(p, y)
        ctx.e, product, n = e, p * y, p.numel()
        wide = torch.promote_types(product.dtype, torch.float32)
        inter, pred, target = [t.sum(dtype=wide).item() for t in (product, p, y)]
        above, below = _margins(inter, pred, target, n, e)
        ctx.grads = None
        if not 0.0 < below < math.inf:  # left to tensors, which divide by 0
            return _mcc(p, y, e)
        root = math.sqrt(below)
        by_below = 0.5 * above / (below * root)
        by_pred = (target + 2 * e) / root + by_below * (n - 2 * pred) * (target + 2 * e) * (n + 2 * e - target)
        ctx.grads = -(n + 4 * e) / root, by_pred
        return torch.full((), 1.0 - above / root, dtype=product.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        p, y = ctx.saved_tensors
        again = torch.is_grad_enabled()  # create_graph: by autograd, which differentiates again
        if again or ctx.grads is None:
            with torch.enable_grad():
                p = p if again else p.detach().requires_grad_()
                loss = _mcc(p, y, ctx.e)
            return torch.autograd.grad(loss, p, grad_output, create_graph=again)[0], None, None
        several = hidden(grad_output)  # one of many
        scale = 1.0 if several else grad_output.item()
        grad = torch.rsub(y.to(p.dtype), scale * ctx.grads[1], alpha=-scale * ctx.grads[0])
        return grad * grad_output if several else grad, None, None


class LovaszLoss(CompatLoss):
    """`segmentation_models_pytorch.losses.LovaszLoss`: the Lovász hinge of everything flattened (binary, multilabel),
    or the Lovász softmax averaged over the classes present (multiclass); Berman et al. 2018, algorithm 1.

    `from_logits` is not read, as there. `strict`: see the module.
    """

    original = "segmentation_models_pytorch.losses.lovasz.LovaszLoss"
    library = "smp"

    def __init__(
        self,
        mode: str,
        per_image: bool = False,
        ignore_index: int | None = None,
        from_logits: bool = True,
        *,
        strict: bool = True,
    ) -> None:
        check_mode(mode)
        super().__init__(strict=strict)
        self.mode = mode
        self.per_image = per_image
        self.ignore_index = ignore_index
        self.from_logits = from_logits

    @classmethod
    def arguments(cls, loss: Any) -> dict[str, Any]:
        own = {name: getattr(loss, name) for name in ("mode", "per_image", "ignore_index")}
        return own | {"from_logits": getattr(loss, "from_logits", True)}  # the original forgets it

    @property
    def why_not_fused(self) -> str | None:
        return "it sorts all pixels"

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """y_pred [N, C, H, W]; y_true of as many elements, or class indices [N, H, W] (multiclass). A scalar."""
        one = self._hinge if self.mode != "multiclass" else self._softmax
        x = y_pred if self.mode != "multiclass" else y_pred.softmax(1)
        if not self.per_image:
            return one(x, y_true)
        return _mean([one(image[None], labels[None]) for image, labels in zip(x, y_true)])

    def _hinge(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = x.reshape(-1), y.reshape(-1)
        if self.ignore_index is not None:
            valid = y != self.ignore_index
            x, y = x[valid], y[valid]
        if len(y) == 0:
            return x.sum() * 0.0
        if y.dtype == torch.bool:
            raise NotImplementedError("y_true must hold numbers, got bool.")
        y = y.float()
        return _lovasz(1.0 - x * (2.0 * y - 1.0), y, True)

    def _softmax(self, p: Tensor, y: Tensor) -> Any:
        p = p[:, None] if p.ndim == 3 else p
        channels = p.size(1)
        y = y.reshape(-1)
        valid = None if self.ignore_index is None else y != self.ignore_index
        y = y if valid is None else y[valid]
        if y.numel() == 0:
            empty = p.movedim(1, -1).reshape(-1, channels)
            empty = empty if valid is None else empty[valid]
            return empty * 0.0 if self.strict else empty.sum() * 0.0
        losses, present = [], []
        for c in range(channels):
            found = y == c
            if unknown(y):
                present.append(found.any())
            elif not found.any():
                continue
            if channels == 1:
                raise ValueError("y_pred must have at least 2 channels in mode 'multiclass', got 1.")
            class_p = p[:, c].reshape(-1)
            class_p = class_p if valid is None else class_p[valid]
            truth = found.to(class_p.dtype)
            losses.append(_lovasz((truth - class_p).abs(), truth, False))
        if not present:
            return _mean(losses)
        counts = torch.stack(present).to(p.dtype)
        return (torch.stack(losses) * counts).sum() / counts.sum().clamp_min(1)


def _mean(losses: list[Tensor]) -> Any:
    return sum(losses[1:], losses[0]) / len(losses) if losses else 0


def _lovasz(errors: Tensor, truth: Tensor, hinge: bool) -> Tensor:
    """sum_i relu(e_i) g_i, where g is the gradient of the Jaccard index along the errors in falling order."""
    if torch.compiler.is_compiling() or not (transformed(errors, truth) or hidden(errors)):
        return _Lovasz.apply(errors, truth, hinge)
    falling, place = errors.sort(dim=0, descending=True)
    grad = _jaccard_grad(truth.gather(0, place), truth.sum()).to(errors.dtype)
    return ((falling.clamp_min(0.0) if hinge else falling) * grad.detach()).sum()


def _jaccard_grad(truth: Tensor, total: Tensor) -> Tensor:
    """g of labels in falling order of their errors."""
    hits = truth.cumsum(0)
    seen = torch.arange(1, len(hits) + 1, dtype=hits.dtype, device=hits.device)
    jaccard = (hits - total) / (seen - hits).add_(total) + 1.0
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])


class _Lovasz(torch.autograd.Function):
    """`_lovasz`. Piecewise linear in the errors, so their gradient is known with the value: one row is all that
    backward needs."""

    @staticmethod
    def forward(ctx: FunctionCtx, errors: Tensor, truth: Tensor, hinge: bool) -> Tensor:
        total = truth.sum()
        order, kept = errors, None
        if hinge and errors.device.type == "cpu" and not torch.compiler.is_compiling():
            # errors up to 0 come last and weigh nothing: only the others need sorting
            kept = (errors > 0).nonzero().squeeze(1)
            order, truth = errors.index_select(0, kept), truth.index_select(0, kept)
        order, place = order.sort(dim=0, descending=True)
        grad = _jaccard_grad(truth.index_select(0, place), total).to(errors.dtype)
        if hinge and kept is None:
            grad = torch.where(order > 0, grad, torch.zeros_like(grad))
        place = place if kept is None else kept.index_select(0, place)
        ctx.save_for_backward(torch.zeros_like(errors).scatter_(0, place, grad))
        return torch.dot(order, grad)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        return grad_output * ctx.saved_tensors[0], None, None

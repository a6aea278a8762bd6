"""smp's region losses of probabilities: what `_RegionLoss` computes where there is no activation to fuse."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._modes import hidden
from ._common import by_hand


class Score(NamedTuple):
    """The settings of (I + smooth) / max(I + alpha (P - I) + beta (T - I) + smooth, eps), I = sum min(p, t), P = sum p,
    T = sum t, and what the loss of each class, 1 - score or -log(score), is multiplied by (numbers)."""

    alpha: float
    beta: float
    smooth: float
    eps: float
    log_loss: bool
    shares: tuple[float, ...]

    def __call__(self, p: Tensor, y: Tensor) -> Tensor:
        """The loss of p and y [N, C, L], 0-d."""
        total_y = y.sum((0, 2))
        if p.device.type == "cpu" and self.eps > 0 and by_hand(p, y):
            return _Scored.apply(p, y, total_y, self)
        return self.composite(p, y, total_y)

    def composite(self, p: Tensor, y: Tensor, total_y: Tensor) -> Tensor:
        total_p = p.sum((0, 2))
        inter = (total_p + total_y - torch.linalg.vector_norm(p - y, ord=1, dim=(0, 2))) / 2
        below = inter + self.alpha * (total_p - inter) + self.beta * (total_y - inter) + self.smooth
        score = (inter + self.smooth) / below.clamp_min(self.eps)
        loss = -torch.log(score.clamp_min(self.eps)) if self.log_loss else 1.0 - score
        loss = loss * (total_y > 0)
        if len(set(self.shares)) == 1:
            return loss.sum() * self.shares[0]
        return (loss * loss.new_tensor(self.shares)).sum()

    def of_class(self, share: float, inter: float, pred: float, target: float) -> tuple[float, float, float]:
        """The same of one class in numbers, and its derivatives by I and P."""
        if not target > 0:
            return 0.0 * (inter + pred), 0.0, 0.0
        own = 1.0 - self.alpha - self.beta
        below = own * inter + self.alpha * pred + self.beta * target + self.smooth
        floor = max(below, self.eps)
        score = (inter + self.smooth) / floor
        loss, by_score = 1.0 - score, -share
        if self.log_loss:
            floored = max(score, self.eps)
            loss, by_score = -math.log(floored), -share / floored if score >= self.eps else 0.0
        by_below = -by_score * score / floor if below >= self.eps else 0.0
        return share * loss, by_score / floor + own * by_below, self.alpha * by_below


class _Scored(torch.autograd.Function):
    """A `Score` with the gradient that follows from the derivatives by the sums: I + |p - t| / 2 = (p + t) / 2 of each
    element, so that of I is (1 - sign(p - t)) / 2. A graph of tiny tensors would cost more than a small image."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, y: Tensor, total_y: Tensor, score: Score) -> Tensor:
        ctx.save_for_backward(p, y, total_y)
        sums = [t.tolist() for t in (torch.minimum(p, y).sum((0, 2)), p.sum((0, 2)), total_y)]
        classes = [score.of_class(*numbers) for numbers in zip(score.shares, *sums, strict=True)]
        ctx.score, ctx.grads = score, [(-0.5 * by_inter, by_pred + 0.5 * by_inter) for _, by_inter, by_pred in classes]
        return torch.full((), sum([loss for loss, *_ in classes]), dtype=p.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        p, y, total_y = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: by autograd, which differentiates again
            loss = ctx.score.composite(p, y, total_y)
            return torch.autograd.grad(loss, p, grad_output, create_graph=True)[0], None, None, None
        several = hidden(grad_output)  # one of many
        grad, scale = (p - y).sign_(), 1.0 if several else grad_output.item()
        for row, (by_sign, constant) in zip(grad.unbind(1), ctx.grads, strict=True):
            torch.add(row.new_full((), scale * constant), row, alpha=scale * by_sign, out=row)  # a single pass
        return grad * grad_output if several else grad, None, None, None

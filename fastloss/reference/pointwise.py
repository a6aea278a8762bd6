"""Per-pixel terms, unreduced: mirrors csrc/math/pointwise.h.

Shapes: x, y, log_p [N, C, P]; class indices [N, 1, P]. A product with a factor 0 is selected away before it is formed,
so that 0 * inf appears neither in the value nor in the gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bce(x: Tensor, y: Tensor, pos_weight: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
    """-[w y log p + (1 - y) log(1 - p)] with p = sigmoid(x) and y <- y(1 - e) + e/2."""
    if label_smoothing:
        y = y * (1.0 - label_smoothing) + 0.5 * label_smoothing
    positive = -F.logsigmoid(x)
    negative = -F.logsigmoid(-x)
    weight = y if pos_weight is None else y * pos_weight
    return _product(weight, positive) + _product(1.0 - y, negative)


def ce(log_p: Tensor, y: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
    """torch's cross-entropy for class indices (y [N, 1, P], int64) or probabilities (y [N, C, P]): [N, 1, P]."""
    channels = log_p.shape[1]
    e = label_smoothing
    if y.is_floating_point():
        target = y * (1.0 - e) + e / channels if e else y
        target = target if class_weights is None else target * class_weights
        return _product(target, -log_p).sum(1, keepdim=True)
    value = -log_p.gather(1, y)
    if class_weights is not None:
        value = _product(class_weights.expand_as(log_p).gather(1, y), value)
    if e:
        weights = torch.ones_like(log_p) if class_weights is None else class_weights.expand_as(log_p)
        spread = (e / channels) * _product(weights, -log_p).sum(1, keepdim=True)
        value = (1.0 - e) * value + spread if e < 1.0 else spread
    return value


def focal_binary(x: Tensor, y: Tensor, gamma: float, alpha: Tensor | None = None) -> Tensor:
    """alpha_t (1 - exp(-b))^gamma b with b = BCE(x, y) and alpha_t = alpha y + (1 - alpha)(1 - y)."""
    value = _focal(bce(x, y), gamma)
    return value if alpha is None else _product(alpha * y + (1.0 - alpha) * (1.0 - y), value)


def focal_margin(x: Tensor, y: Tensor, gamma: float, alpha: Tensor | None = None) -> Tensor:
    """As `focal_binary` with 1 - p_t = sigmoid(-x (2 y - 1)): another reading of soft labels (MONAI's)."""
    value = torch.exp(gamma * F.logsigmoid(x * (1.0 - 2.0 * y))) * bce(x, y) if gamma else bce(x, y)
    return value if alpha is None else _product(alpha * y + (1.0 - alpha) * (1.0 - y), value)


def focal_multiclass(log_p: Tensor, y: Tensor, gamma: float, alpha: Tensor | None = None) -> Tensor:
    """alpha_y (1 - p_y)^gamma (-log p_y) for class indices, or its mean under the probabilities y: [N, 1, P]."""
    if not y.is_floating_point():
        value = _focal(-log_p.gather(1, y), gamma)
        return value if alpha is None else _product(alpha.expand_as(log_p).gather(1, y), value)
    weight = y if alpha is None else y * alpha
    used = weight != 0
    b = torch.where(used, -log_p, torch.zeros_like(log_p))
    return torch.where(used, weight * _focal(b, gamma), torch.zeros_like(b)).sum(1, keepdim=True)


def poly_binary(
    x: Tensor, y: Tensor, eps: float, pos_weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """`bce` + eps [w y (1 - p) + (1 - y) p]."""
    value = bce(x, y, pos_weight, label_smoothing)
    if label_smoothing:
        y = y * (1.0 - label_smoothing) + 0.5 * label_smoothing
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    return value + eps * ((y if pos_weight is None else y * pos_weight) * q + (1.0 - y) * p)


def poly_multiclass(
    log_p: Tensor, y: Tensor, eps: float, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """`ce` + eps times the mean of w (1 - p) under the smoothed target: [N, 1, P]."""
    miss = -torch.expm1(log_p)
    if not y.is_floating_point():
        y = _one_hot(y, log_p)
    target = y * (1.0 - label_smoothing) + label_smoothing / log_p.shape[1] if label_smoothing else y
    target = target if class_weights is None else target * class_weights
    return (_product(target, -log_p) + eps * target * miss).sum(1, keepdim=True)


def log_power_binary(x: Tensor, y: Tensor, gamma: float, pos_weight: Tensor | None = None) -> Tensor:
    """w y (-log p)^gamma + (1 - y) (-log(1 - p))^gamma."""
    positive, negative = [_power(-F.logsigmoid(z), gamma) for z in (x, -x)]
    return _product(y if pos_weight is None else y * pos_weight, positive) + _product(1.0 - y, negative)


def log_power_multiclass(log_p: Tensor, y: Tensor, gamma: float, class_weights: Tensor | None = None) -> Tensor:
    """w_y (-log p_y)^gamma for class indices, or its mean under the probabilities y: [N, 1, P]."""
    if y.is_floating_point():
        target = y if class_weights is None else y * class_weights
        return _product(target, _power(-log_p, gamma)).sum(1, keepdim=True)
    value = _power(-log_p.gather(1, y), gamma)
    return value if class_weights is None else _product(class_weights.expand_as(log_p).gather(1, y), value)


def linear_binary(p: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """w y p for targets y of any size."""
    return y * p if weight is None else weight * y * p


def linear_multiclass(p: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """The sum over classes of w_c y_c p_c for targets y of any size; of class indices, y is the row of the matrix w
    [1, C C, 1] that the index names: [N, 1, P]."""
    if y.is_floating_point():
        return linear_binary(p, y, weight).sum(1, keepdim=True)
    assert weight is not None
    rows = weight.reshape(p.shape[1], p.shape[1])[y[:, 0]]  # [N, P, C]
    return (rows.movedim(-1, 1) * p).sum(1, keepdim=True)


def _one_hot(indices: Tensor, like: Tensor) -> Tensor:
    channels = torch.arange(like.shape[1], device=like.device).reshape(1, -1, 1)
    return (indices == channels).to(like.dtype)


def _power(n: Tensor, gamma: float) -> Tensor:
    """n^gamma for n >= 0; its derivative takes n from 1e-7 to 1e7, since for gamma < 1 it is infinite at 0."""
    given = n.detach()
    near = given.clamp(1e-7, 1e7)
    inside = near == given
    power = torch.where(inside, n, near).pow(gamma)
    change = n - torch.where(torch.isinf(given), torch.zeros_like(given), given)  # 0, with the derivative of n
    return torch.where(inside, power, given.pow(gamma) + gamma * near.pow(gamma - 1.0) * change)


def _focal(b: Tensor, gamma: float) -> Tensor:
    """u^gamma b with u = 1 - exp(-b), as u^(gamma+1) (b/u): for gamma < 1 u^gamma has an infinite derivative at 0."""
    if gamma == 0:
        return b
    u = -torch.expm1(-b.clamp_max(1e3))  # the clamp keeps inf * exp(-inf) out of the gradient; u is 1 there
    small = b.detach() < 1e-4
    tiny = torch.where(small, b, torch.zeros_like(b))
    ratio = torch.where(small, 1.0 + tiny * (0.5 + tiny / 12.0), b / torch.where(small, torch.ones_like(u), u))
    return u.pow(gamma + 1.0) * ratio


def _product(weight: Tensor, value: Tensor) -> Tensor:
    """weight * value, and 0 where the weight is 0 whatever the value."""
    zero = weight.detach() == 0
    return weight * torch.where(zero, torch.zeros_like(value), value)

"""Per-pixel terms, each value next to its derivative with respect to the logit: mirrors csrc/math/pointwise.h.

POWER says how (1 - p_t)^gamma is taken: 0, 1 and 2 are exponents that cost no logarithm, 3 is any other.
"""

import triton
import triton.language as tl

from .elementary import exp_minus, pow_positive, pow_unit, relu, sigmoid


@triton.jit
def product(w, v):
    """w v, and 0 where the weight is 0, whatever v: 0 * inf would be NaN."""
    return tl.where(w != 0, w * v, 0.0)


@triton.jit
def bce(neg_log_p, neg_log_1mp, y, pos_weight):
    return product(pos_weight * y, neg_log_p) + product(1.0 - y, neg_log_1mp)


@triton.jit
def bce_grad(p, q, y, pos_weight):
    return tl.fma(1.0 - y, p, -(pos_weight * y * q))


@triton.jit
def smooth_label(y, smoothing):
    return tl.fma(smoothing.to(y.dtype), 0.5 - y, y)


@triton.jit
def focal_power(u, gamma, POWER: tl.constexpr):
    if POWER == 0:
        return tl.full(u.shape, 1.0, u.dtype)
    elif POWER == 1:
        return u
    elif POWER == 2:
        return u * u
    else:
        return pow_unit(u, gamma)


@triton.jit
def focal_miss(p, q, y, b):
    """1 - p_t. For a hard label it is the other class's probability, which keeps its relative accuracy."""
    soft = relu(1.0 - exp_minus(tl.abs(b)))
    return tl.where(y == 1, q, tl.where(y == 0, p, soft))


@triton.jit
def focal_binary(b, u, y, alpha_on, alpha_off, gamma, POWER: tl.constexpr):
    return product((alpha_on * y + alpha_off * (1.0 - y)) * focal_power(u, gamma, POWER), b)


@triton.jit
def focal_factor(b, u, pt, gamma, POWER: tl.constexpr):
    """u^gamma (1 + gamma p_t b / u), the derivative of u^gamma b by b. b / u -> 1 as u -> 0, so no negative power of u
    is ever taken."""
    if POWER == 0:
        return tl.full(u.shape, 1.0, u.dtype)
    elif POWER == 1:
        return u + tl.where(pt > 0, pt * b, 0.0)
    elif POWER == 2:
        return u * (u + tl.where(pt > 0, (pt + pt) * b, 0.0))
    else:
        ratio = tl.where(u > 0, b / u, 1.0)
        return focal_power(u, gamma, POWER) * (1.0 + tl.where(pt > 0, gamma * pt * ratio, 0.0))


@triton.jit
def focal_binary_grad(b, u, y, alpha_on, alpha_off, gamma, b_grad, POWER: tl.constexpr):
    """b_grad = d BCE / dx"""
    return (alpha_on * y + alpha_off * (1.0 - y)) * b_grad * focal_factor(b, u, 1.0 - u, gamma, POWER)


@triton.jit
def margin_miss(p, q, neg_log_p, neg_log_1mp, y):
    """1 - p_t as sigmoid(-x (2y - 1)): what soft labels are to MONAI. x is the difference of the two logarithms."""
    soft = sigmoid((neg_log_1mp - neg_log_p) * (1.0 - (y + y)))[0]
    return tl.where(y == 1, q, tl.where(y == 0, p, soft))


@triton.jit
def focal_margin(b, u, y, alpha_on, alpha_off, gamma, POWER: tl.constexpr):
    return focal_binary(b, u, y, alpha_on, alpha_off, gamma, POWER)


@triton.jit
def focal_margin_grad(b, u, y, alpha_on, alpha_off, gamma, b_grad, POWER: tl.constexpr):
    """u^gamma (b' - gamma (2y - 1) p_t b), since du/dx = -(2y - 1) u p_t"""
    pt = 1.0 - u
    pull = tl.where(pt > 0, gamma * (1.0 - (y + y)) * pt * b, 0.0)
    return (alpha_on * y + alpha_off * (1.0 - y)) * focal_power(u, gamma, POWER) * (b_grad + pull)


@triton.jit
def poly_binary(p, q, neg_log_p, neg_log_1mp, y, pos_weight, eps):
    return bce(tl.fma(eps, q, neg_log_p), tl.fma(eps, p, neg_log_1mp), y, pos_weight)


@triton.jit
def poly_binary_grad(p, q, y, pos_weight, eps):
    return tl.fma((1.0 - y) * p, tl.fma(eps, q, 1.0), -(pos_weight * y * q * tl.fma(eps, p, 1.0)))


@triton.jit
def log_rate(n, gamma):
    """gamma n^(gamma - 1) with n from 1e-7 to 1e7: the derivative of n^gamma, which may be infinite at 0."""
    low = tl.where(n < 1e-7, 1e-7, n)
    return gamma * pow_positive(tl.where(low > 1e7, 1e7, low).to(n.dtype), gamma - 1.0)


@triton.jit
def log_power_binary(neg_log_p, neg_log_1mp, y, pos_weight, gamma):
    return bce(pow_positive(neg_log_p, gamma), pow_positive(neg_log_1mp, gamma), y, pos_weight)


@triton.jit
def log_power_binary_grad(p, q, neg_log_p, neg_log_1mp, y, pos_weight, gamma):
    return (1.0 - y) * p * log_rate(neg_log_1mp, gamma) - pos_weight * y * q * log_rate(neg_log_p, gamma)


@triton.jit
def linear_binary(p, y, weight):
    return weight * y * p


@triton.jit
def linear_binary_grad(p, q, y, weight):
    return linear_binary(p, y, weight) * q


@triton.jit
def poly_multiclass(nll, u, weight, eps):
    return product(weight, tl.fma(eps, u, nll))


@triton.jit
def poly_multiclass_grad(nll, weight, eps):
    return -weight * tl.fma(eps, exp_minus(tl.abs(nll)), 1.0)


@triton.jit
def log_power_multiclass(nll, weight, gamma):
    return product(weight, pow_positive(nll, gamma))


@triton.jit
def log_power_multiclass_grad(nll, weight, gamma):
    return -weight * log_rate(nll, gamma)


@triton.jit
def linear_multiclass(nll, weight):
    return weight * exp_minus(tl.abs(nll))


@triton.jit
def linear_multiclass_grad(nll, weight):
    return linear_multiclass(nll, weight)


@triton.jit
def ce(nll, weight):
    return product(weight, nll)


@triton.jit
def ce_grad(weight):
    """h = p_t dL/dp_t of the target class, so that dL/dz_c = h (y_c - p_c)."""
    return -weight


@triton.jit
def focal_multiclass(nll, u, alpha, gamma, POWER: tl.constexpr):
    return product(alpha * focal_power(u, gamma, POWER), nll)


@triton.jit
def focal_multiclass_grad(nll, u, alpha, gamma, POWER: tl.constexpr):
    """h, as of ce_grad."""
    return -alpha * focal_factor(nll, u, exp_minus(tl.abs(nll)), gamma, POWER)  # 1 - u would lose a small p_t

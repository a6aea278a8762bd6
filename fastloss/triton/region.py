"""Region terms as functions of a class's sums: mirrors csrc/math/region.h, over tiles [groups, classes] of float64.

`terms` are `KernelTerm`s, `columns` is a `Columns`; s is the tuple of a tile's sums in that order.
"""

import triton
import triton.language as tl


@triton.jit
def effective_weight(terms: tl.constexpr, t: tl.constexpr, numbers, weights):
    """The number of the spec times the weight tensor, if there is one."""
    weight = tl.load(numbers + terms[t].weight_at)
    if terms[t].weight_index >= 0:
        weight = weight * tl.load(weights[terms[t].weight_index]).to(tl.float64)
    return weight


@triton.jit
def region_vector(terms: tl.constexpr, t: tl.constexpr, numbers, c, channels):
    """Class weights, 0 beyond the last class."""
    if terms[t].vector == 0:
        return tl.where(c < channels, 1.0, 0.0).to(tl.float64)
    elif terms[t].vector == 1:
        return tl.where(c < channels, tl.load(numbers + terms[t].vector_at), 0.0)
    else:
        return tl.load(numbers + terms[t].vector_at + c, mask=c < channels, other=0.0)


@triton.jit
def tversky_score(terms: tl.constexpr, t: tl.constexpr, numbers, s, columns: tl.constexpr):
    """(score, its derivatives by the sums inter, pred, pred_sq, abs_diff)."""
    alpha, beta = tl.load(numbers + terms[t].alpha_at), tl.load(numbers + terms[t].beta_at)
    smooth, eps = tl.load(numbers + terms[t].smooth_at), tl.load(numbers + terms[t].eps_at)
    tp = 0.5 * (s[columns.pred] + s[columns.target] - s[columns.abs_diff]) if terms[t].l1 else s[columns.inter]
    pred = s[columns.pred_sq] if terms[t].squared else s[columns.pred]
    target = s[columns.target_sq] if terms[t].squared else s[columns.target]
    own = 1.0 - alpha - beta  # TP's share of its own denominator
    num = tp + smooth
    den = own * tp + alpha * pred + beta * target + smooth
    clamped = den < eps
    inv = 1.0 / tl.where(clamped, eps, den)
    score = num * inv
    d_den = tl.where(clamped, 0.0, -score * inv)
    d_tp = inv + own * d_den
    none = tl.zeros(d_tp.shape, tl.float64)
    d_inter = none if terms[t].l1 else d_tp
    d_abs = -0.5 * d_tp if terms[t].l1 else none
    d_pred = (0.5 * d_tp if terms[t].l1 else none) + (none if terms[t].squared else alpha * d_den)
    d_pred_sq = alpha * d_den if terms[t].squared else none
    return score, d_inter, d_pred, d_pred_sq, d_abs


@triton.jit
def region_power(base, gamma):
    """(max(base, 0)^gamma, its derivative), both 0 where base is 0."""
    some = base > 0.0
    log = tl.log(tl.where(some, base, 1.0))
    return tl.where(some, tl.exp(gamma * log), 0.0), tl.where(some, gamma * tl.exp((gamma - 1.0) * log), 0.0)


@triton.jit
def region_loss(terms: tl.constexpr, t: tl.constexpr, numbers, s, columns: tl.constexpr):
    """(loss, d_inter, d_pred, d_pred_sq, d_abs) of each group and class."""
    score, d_inter, d_pred, d_pred_sq, d_abs = tversky_score(terms, t, numbers, s, columns)
    gamma, eps = tl.load(numbers + terms[t].gamma_at), tl.load(numbers + terms[t].eps_at)
    known, plain = score == score, gamma == 1.0
    kept = tl.where(score < eps, eps, score)
    if terms[t].log_cosh:
        miss = tl.abs(1.0 - score)
        power = tl.exp(-2.0 * miss)
        loss = miss + tl.log(0.5 + 0.5 * power)
        grad = tl.where(score > 1.0, 1.0, -1.0) * (1.0 - power) / (1.0 + power)
    elif terms[t].log:
        log = -tl.log(kept)
        value, slope = region_power(log, gamma)
        loss = tl.where(plain, log, value)
        grad = tl.where(score > eps, -tl.where(plain, 1.0, slope) / kept, 0.0)
    elif terms[t].root:
        value, slope = region_power(kept, gamma)
        loss = 1.0 - value
        grad = tl.where(score > eps, -slope, 0.0)
    else:
        value, slope = region_power(1.0 - score, gamma)
        loss = tl.where(plain, 1.0 - score, value)
        grad = tl.where(plain, -1.0, -slope)
    loss, grad = tl.where(known, loss, score), tl.where(known, grad, score)
    return loss, d_inter * grad, d_pred * grad, d_pred_sq * grad, d_abs * grad


@triton.jit
def class_role(terms: tl.constexpr, t: tl.constexpr, s, columns: tl.constexpr):
    """(counted, scored): whether a class enters the loss of its group, and whether with its own loss or with zero."""
    valid, target = s[columns.valid], s[columns.target]
    present = (target > 0.0) | (target != target)
    counted = present if terms[t].skip else present | (target == target)
    scored = (valid > 0.0) & (present | (target == target) if terms[t].score else present)
    return counted, scored


@triton.jit
def counted_weight(terms: tl.constexpr, t: tl.constexpr, numbers, s, columns: tl.constexpr, c, channels):
    """Sum of the weights of the classes that count, by group."""
    counted, _ = class_role(terms, t, s, columns)
    return tl.sum(tl.where(counted, region_vector(terms, t, numbers, c, channels), 0.0), 1)


@triton.jit
def region_group(terms: tl.constexpr, t: tl.constexpr, numbers, s, columns: tl.constexpr, c, channels, scale):
    """(class-weighted mean of each group, d_inter, d_pred, d_pred_sq, d_abs times scale)."""
    total = counted_weight(terms, t, numbers, s, columns, c, channels)
    some = total > 0.0
    counted, scored = class_role(terms, t, s, columns)
    w = region_vector(terms, t, numbers, c, channels) / tl.where(some, total, 1.0)[:, None]
    used = (w != 0.0) & counted & scored & some[:, None]
    loss, d_inter, d_pred, d_pred_sq, d_abs = region_loss(terms, t, numbers, s, columns)
    value = tl.sum(tl.where(used, w * loss, 0.0), 1)
    w = w * scale
    return (
        value,
        tl.where(used, w * d_inter, 0.0),
        tl.where(used, w * d_pred, 0.0),
        tl.where(used, w * d_pred_sq, 0.0),
        tl.where(used, w * d_abs, 0.0),
    )

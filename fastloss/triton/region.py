"""Region terms as functions of a class's sums: mirrors csrc/math/region.h, over tiles [groups, classes] of float64.

A term is (index, kind, whether it is a mean, log_loss, squared, l1, empty, batch, length class of its vector, where it
starts, index of its weight tensor). Settings are read from `numbers`, eight numbers a term.
"""

import triton
import triton.language as tl

SKIP, SCORE = tl.constexpr(1), tl.constexpr(2)  # of `empty`


@triton.jit
def setting(terms: tl.constexpr, t: tl.constexpr, field: tl.constexpr, numbers):
    """1 gamma, 2 alpha, 3 beta, 4 smooth, 5 eps"""
    return tl.load(numbers + 8 * terms[t][0] + field)


@triton.jit
def effective_weight(index: tl.constexpr, weight_index: tl.constexpr, numbers, weights):
    weight = tl.load(numbers + 8 * index)
    if weight_index >= 0:
        weight = weight * tl.load(weights[weight_index]).to(tl.float64)
    return weight


@triton.jit
def region_vector(terms: tl.constexpr, t: tl.constexpr, numbers, c, channels):
    """Class weights, 0 beyond the last class."""
    if terms[t][8] == 0:
        return tl.where(c < channels, 1.0, 0.0).to(tl.float64)
    elif terms[t][8] == 1:
        return tl.where(c < channels, tl.load(numbers + terms[t][9]), 0.0)
    else:
        return tl.load(numbers + terms[t][9] + c, mask=c < channels, other=0.0)


@triton.jit
def tversky_score(terms: tl.constexpr, t: tl.constexpr, numbers, s):
    """(score, its derivatives by the sums inter, pred, pred_sq, abs_diff); s = (valid, inter, pred, target, …)."""
    alpha, beta = setting(terms, t, 2, numbers), setting(terms, t, 3, numbers)
    smooth, eps = setting(terms, t, 4, numbers), setting(terms, t, 5, numbers)
    tp = 0.5 * (s[2] + s[3] - s[6]) if terms[t][5] else s[1]
    pred = s[4] if terms[t][4] else s[2]
    target = s[5] if terms[t][4] else s[3]
    own = 1.0 - alpha - beta  # TP's share of its own denominator
    num = tp + smooth
    den = own * tp + alpha * pred + beta * target + smooth
    clamped = den < eps
    inv = 1.0 / tl.where(clamped, eps, den)
    score = num * inv
    d_den = tl.where(clamped, 0.0, -score * inv)
    d_tp = inv + own * d_den
    none = tl.zeros(d_tp.shape, tl.float64)
    d_inter = none if terms[t][5] else d_tp
    d_abs = -0.5 * d_tp if terms[t][5] else none
    d_pred = (0.5 * d_tp if terms[t][5] else none) + (none if terms[t][4] else alpha * d_den)
    d_pred_sq = alpha * d_den if terms[t][4] else none
    return score, d_inter, d_pred, d_pred_sq, d_abs


@triton.jit
def region_loss(terms: tl.constexpr, t: tl.constexpr, numbers, s):
    """(loss, d_inter, d_pred, d_pred_sq, d_abs) of each group and class."""
    score, d_inter, d_pred, d_pred_sq, d_abs = tversky_score(terms, t, numbers, s)
    gamma, eps = setting(terms, t, 1, numbers), setting(terms, t, 5, numbers)
    known = score == score
    if terms[t][3]:
        loss = -tl.log(tl.where(score > eps, score, tl.where(known, eps, float("nan"))))
        slope = tl.where(score > eps, -1.0 / score, 0.0)
    else:
        base = 1.0 - score
        base = tl.where(base < 0.0, 0.0, base)
        some = base > 0.0
        log = tl.log(tl.where(some, base, 1.0))
        plain = gamma == 1.0
        loss = tl.where(plain, 1.0 - score, tl.where(some, tl.exp(gamma * log), base))
        slope = tl.where(plain, -1.0, tl.where(some, -gamma * tl.exp((gamma - 1.0) * log), 0.0))
    slope = tl.where(known, slope, score)
    return loss, d_inter * slope, d_pred * slope, d_pred_sq * slope, d_abs * slope


@triton.jit
def class_role(terms: tl.constexpr, t: tl.constexpr, s):
    """(counted, scored): whether a class enters the loss of its group, and whether with its own loss or with zero."""
    present = (s[3] > 0.0) | (s[3] != s[3])
    counted = present if terms[t][6] == SKIP else present | (s[3] == s[3])
    scored = (s[0] > 0.0) & (present | (s[3] == s[3]) if terms[t][6] == SCORE else present)
    return counted, scored


@triton.jit
def counted_weight(terms: tl.constexpr, t: tl.constexpr, numbers, s, c, channels):
    """Sum of the weights of the classes that count, by group."""
    counted, _ = class_role(terms, t, s)
    return tl.sum(tl.where(counted, region_vector(terms, t, numbers, c, channels), 0.0), 1)


@triton.jit
def region_group(terms: tl.constexpr, t: tl.constexpr, numbers, s, c, channels, scale):
    """(class-weighted mean of each group, d_inter, d_pred, d_pred_sq, d_abs times scale)."""
    total = counted_weight(terms, t, numbers, s, c, channels)
    some = total > 0.0
    counted, scored = class_role(terms, t, s)
    w = region_vector(terms, t, numbers, c, channels) / tl.where(some, total, 1.0)[:, None]
    used = (w != 0.0) & counted & scored & some[:, None]
    loss, d_inter, d_pred, d_pred_sq, d_abs = region_loss(terms, t, numbers, s)
    value = tl.sum(tl.where(used, w * loss, 0.0), 1)
    w = w * scale
    return (
        value,
        tl.where(used, w * d_inter, 0.0),
        tl.where(used, w * d_pred, 0.0),
        tl.where(used, w * d_pred_sq, 0.0),
        tl.where(used, w * d_abs, 0.0),
    )

"""Multiclass, the steps of the kernels in softmax.py. One program owns a tile of pixels of one sample and walks over
the classes, as often as needed: the first walk finds the maximum and the sum of exponentials on line, later ones find
the logits in cache. Nothing is padded to a power of two but the tile. `keep` is (inside the image, valid).

Two forms: class indices, where only the target class has a pointwise gradient of its own, and dense (probabilities,
label smoothing), where every class has a label. `terms` are the pointwise `KernelTerm`s, `columns` is a `Columns`.
"""

import triton
import triton.language as tl

from .elementary import exp_minus, log_, relu, sign_, softmax_shift
from .inputs import (
    class_indices,
    logits,
    masked_in,
    probability,
    store_rounded,
    vector_at,
    with_column,
)  # fmt: skip
from .pointwise import (
    ce,
    ce_grad,
    focal_multiclass,
    focal_multiclass_grad,
    linear_multiclass,
    linear_multiclass_grad,
    log_power_multiclass,
    log_power_multiclass_grad,
    poly_multiclass,
    poly_multiclass_grad,
)
from .topk import topk_key


@triton.jit
def softmax_labels(
    y, mask, n, place, inside, channels, ignore, INDICES: tl.constexpr, IGNORE: tl.constexpr, T: tl.constexpr
):
    """(class index, valid, bad); probabilities have no index, and as in torch any number is one."""
    if INDICES:
        return class_indices(y, mask, n, place, inside, channels, ignore, IGNORE, T)
    else:
        valid = masked_in(mask, n, 0, place, inside)
        return valid.to(tl.int32), valid, valid & (valid == 0)


@triton.jit
def label_of(terms: tl.constexpr, y, label, n, c, place, keep, INDICES: tl.constexpr, T: tl.constexpr):
    """The label of channel c: whether the class index is c, the probability, or the distance."""
    if INDICES:
        return (label == c).to(T)
    elif len(terms) > 0:
        if terms[0].boundary:
            return logits(y, n, c, place, keep, T)
        else:
            return probability(y, n, c, place, keep, T)
    else:
        return probability(y, n, c, place, keep, T)


@triton.jit
def softmax_walk(x, n, place, keep, label, channels, T: tl.constexpr):
    """(maximum, sum of exponentials below it, logit of the target class, first class that holds the maximum)."""
    top = tl.full(keep[1].shape, float("-inf"), T)
    total, own = tl.zeros(keep[1].shape, T), tl.zeros(keep[1].shape, T)
    arg = tl.zeros(keep[1].shape, tl.int32)
    for c in range(channels):
        v = logits(x, n, c, place, keep, T)
        e = exp_minus(tl.abs(softmax_shift(v, top)))
        higher = v > top
        total = tl.where(higher, total * e + 1.0, total + e)
        own = tl.where(label == c, v, own)
        arg = tl.where(higher, c, arg).to(tl.int32)
        top = tl.where(higher, v, top)
    return top, total, own, arg


@triton.jit
def activation(x, n, place, keep, label, channels, T: tl.constexpr):
    """(maximum, 1 / sum of exponentials, its logarithm, nll and 1 - p of the target class)."""
    top, total, own, _ = softmax_walk(x, n, place, keep, label, channels, T)
    lse = log_(total)
    nll = lse - softmax_shift(own, top)
    return top, 1.0 / total, lse, nll, relu(1.0 - exp_minus(tl.abs(nll)))


@triton.jit
def softmax_value(terms: tl.constexpr, t: tl.constexpr, numbers, nll, u, w, T: tl.constexpr):
    if terms[t].focal:
        return focal_multiclass(nll, u, w, tl.load(numbers + terms[t].gamma_at).to(T), terms[t].power)
    elif terms[t].poly:
        return poly_multiclass(nll, u, w, tl.load(numbers + terms[t].eps_at).to(T))
    elif terms[t].log_power:
        return log_power_multiclass(nll, w, tl.load(numbers + terms[t].gamma_at).to(T))
    elif terms[t].boundary or terms[t].matrix:
        return linear_multiclass(nll, w)
    else:
        return ce(nll, w)


@triton.jit
def softmax_grad(terms: tl.constexpr, t: tl.constexpr, numbers, nll, u, w, T: tl.constexpr):
    if terms[t].focal:
        return focal_multiclass_grad(nll, u, w, tl.load(numbers + terms[t].gamma_at).to(T), terms[t].power)
    elif terms[t].poly:
        return poly_multiclass_grad(nll, w, tl.load(numbers + terms[t].eps_at).to(T))
    elif terms[t].log_power:
        return log_power_multiclass_grad(nll, w, tl.load(numbers + terms[t].gamma_at).to(T))
    elif terms[t].boundary or terms[t].matrix:
        return linear_multiclass_grad(nll, w)
    else:
        return ce_grad(w)


@triton.jit
def class_weight(terms: tl.constexpr, t: tl.constexpr, numbers, label, T: tl.constexpr):
    """The target class's weight or alpha."""
    return tl.where(label < 0, 0.0, vector_at(terms, t, numbers, tl.maximum(label, 0), T))


@triton.jit
def dense_label(terms: tl.constexpr, t: tl.constexpr, numbers, y, label, c, channels, T: tl.constexpr):
    """The label of class c in a term: smoothed, or of the row of a matrix that the class index names."""
    if terms[t].matrix:
        row = tl.load(numbers + terms[t].vector_at + tl.maximum(label, 0) * channels + c).to(T)
        return tl.where(label < 0, 0.0, row)
    else:
        e = tl.load(numbers + terms[t].smoothing_at)
        return tl.fma(y, (1.0 - e).to(T), (e / channels).to(T))


@triton.jit
def dense_weight(terms: tl.constexpr, t: tl.constexpr, numbers, c, T: tl.constexpr):
    if terms[t].matrix:
        return tl.full([], 1.0, T)
    else:
        return vector_at(terms, t, numbers, c, T)


@triton.jit
def element_values(
    terms: tl.constexpr, numbers, x, y, n, place, keep, label, w, a, channels, INDICES: tl.constexpr,
    DENSE: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """The element of each pointwise term, times the pixel weight: one tile for each. a is that of `activation`."""
    values = ()
    for t in tl.static_range(len(terms)):
        if DENSE:
            values = values + (tl.zeros(keep[1].shape, T),)
        else:
            cw = class_weight(terms, t, numbers, label, T)
            values = values + (tl.where(keep[1], w * softmax_value(terms, t, numbers, a[3], a[4], cw, T), 0.0),)
    if DENSE and len(terms) > 0:
        for c in range(channels):
            z = softmax_shift(logits(x, n, c, place, keep, T), a[0])
            yc = label_of(terms, y, label, n, c, place, keep, INDICES, T)
            u = relu(1.0 - exp_minus(tl.abs(z)) * a[1])
            more = ()
            for t in tl.static_range(len(terms)):
                share = dense_label(terms, t, numbers, yc, label, c, channels, T)
                cw = dense_weight(terms, t, numbers, c, T)
                value = share * softmax_value(terms, t, numbers, a[2] - z, u, cw, T) * w
                more = more + (values[t] + tl.where(keep[1] & (share != 0), value, 0.0),)
            values = more
    return values


@triton.jit
def softmax_share(terms: tl.constexpr, t: tl.constexpr, aux, value, w, valid, T: tl.constexpr):
    """What multiplies the element of a term: its pixel weight, and in a top-k term its share."""
    if terms[t].topk:
        key = topk_key(value)
        threshold = topk_key(tl.load(aux + terms[t].threshold_at).to(T))
        tie = tl.load(aux + terms[t].tie_at).to(T)
        return tl.where(valid, tl.where(key > threshold, 1.0, tl.where(key == threshold, tie, 0.0)).to(T) * w, 0.0)
    else:
        return w


@triton.jit
def region_grad(
    d, loss_grad, c, p, yc, columns: tl.constexpr, COLUMNS: tl.constexpr, EXTRA: tl.constexpr, T: tl.constexpr
):
    """dL/dp_c of the region terms; d points to the gradients of the sums of class 0."""
    d += c * COLUMNS
    grad = tl.fma((loss_grad * tl.load(d + columns.inter)).to(T), yc, (loss_grad * tl.load(d + columns.pred)).to(T))
    if EXTRA:
        square = (2.0 * loss_grad * tl.load(d + columns.pred_sq)).to(T)
        cross = (2.0 * loss_grad * tl.load(d + columns.pred_sq_target)).to(T)
        grad = tl.fma(tl.fma(cross, yc, square), p, grad)
        grad += (loss_grad * tl.load(d + columns.abs_diff)).to(T) * sign_(p - yc)
    return grad


@triton.jit
def dense_grads(
    terms: tl.constexpr, numbers, scales, y, n, c, place, keep, label, a, z, channels, INDICES: tl.constexpr,
    T: tl.constexpr,
):  # fmt: skip
    """h_c = y_c p_c dL/dp_c of the pointwise terms; scales holds a tile for each."""
    yc = label_of(terms, y, label, n, c, place, keep, INDICES, T)
    u = relu(1.0 - exp_minus(tl.abs(z)) * a[1])
    h = tl.zeros(keep[1].shape, T)
    for t in tl.static_range(len(terms)):
        share = dense_label(terms, t, numbers, yc, label, c, channels, T)
        grad = softmax_grad(terms, t, numbers, a[2] - z, u, dense_weight(terms, t, numbers, c, T), T)
        h += share * grad * scales[t]
    return h


@triton.jit
def softmax_gradient(
    x, y, out, n, place, keep, label, a, numbers, scales, d, loss_grad, channels, terms: tl.constexpr,
    columns: tl.constexpr, REGION: tl.constexpr, EXTRA: tl.constexpr, INDICES: tl.constexpr, DENSE: tl.constexpr,
    COLUMNS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """g_c = p_c (dL/dp_c - dot - total) + h_c with dot the sum of p_c dL/dp_c and total that of h_c."""
    total, dot = tl.zeros(keep[1].shape, T), tl.zeros(keep[1].shape, T)
    if not DENSE:
        for t in tl.static_range(len(terms)):
            cw = class_weight(terms, t, numbers, label, T)
            total = tl.fma(scales[t], softmax_grad(terms, t, numbers, a[3], a[4], cw, T), total)
    if REGION or (DENSE and len(terms) > 0):
        for c in range(channels):
            z = softmax_shift(logits(x, n, c, place, keep, T), a[0])
            if REGION:
                p = exp_minus(tl.abs(z)) * a[1]
                yc = label_of(terms, y, label, n, c, place, keep, INDICES, T)
                dot = tl.fma(p, region_grad(d, loss_grad, c, p, yc, columns, COLUMNS, EXTRA, T), dot)
            if DENSE:
                total += dense_grads(terms, numbers, scales, y, n, c, place, keep, label, a, z, channels, INDICES, T)
    for c in range(channels):
        z = softmax_shift(logits(x, n, c, place, keep, T), a[0])
        p = exp_minus(tl.abs(z)) * a[1]
        yc = label_of(terms, y, label, n, c, place, keep, INDICES, T)
        inner = -total
        if REGION:
            by_p = region_grad(d, loss_grad, c, p, yc, columns, COLUMNS, EXTRA, T)
            inner += tl.where(keep[1], by_p - dot, 0.0)
        if DENSE:
            h = dense_grads(terms, numbers, scales, y, n, c, place, keep, label, a, z, channels, INDICES, T)
        else:
            h = tl.where(yc != 0, total, 0.0)
        store_rounded(out, n, c, place, tl.where(keep[1], tl.fma(p, inner, h), 0.0), keep[0])


@triton.jit
def softmax_sums(
    x, y, n, place, keep, bad, label, a, values, partial, channels, terms: tl.constexpr,
    columns: tl.constexpr, REGION: tl.constexpr, EXTRA: tl.constexpr, TARGETS: tl.constexpr, INDICES: tl.constexpr,
    COLUMNS: tl.constexpr, WIDTH: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """One row for each class; those of the pointwise terms stand with class 0."""
    lane = tl.arange(0, WIDTH)
    poison = tl.sum(tl.where(bad, float("nan"), 0.0)).to(tl.float64)
    fixed = with_column(tl.zeros([WIDTH], tl.float64), columns.valid, tl.sum(keep[1].to(T)))
    totals = tl.zeros([WIDTH], tl.float64)
    for t in tl.static_range(len(terms)):
        totals = with_column(totals, terms[t].sum_at, tl.sum(values[t]) + poison)
    for c in range(channels):
        row = tl.where(lane < columns.first_term, fixed, tl.where(c == 0, totals, 0.0))
        if REGION:
            z = softmax_shift(logits(x, n, c, place, keep, T), a[0])
            p = tl.where(keep[1], exp_minus(tl.abs(z)) * a[1], 0.0)
            yc = label_of(terms, y, label, n, c, place, keep, INDICES, T)
            row = with_column(row, columns.inter, tl.sum(p * yc) + poison)
            row = with_column(row, columns.pred, tl.sum(p))
            row = with_column(row, columns.target, tl.sum(yc) + poison)
            if EXTRA:
                row = with_column(row, columns.pred_sq, tl.sum(p * p))
                row = with_column(row, columns.target_sq, tl.sum(yc * yc) + poison)
                row = with_column(row, columns.abs_diff, tl.sum(tl.abs(p - yc)) + poison)
                row = with_column(row, columns.pred_sq_target, tl.sum(p * p * yc) + poison)
        elif TARGETS:
            row = with_column(row, columns.target, tl.sum((label == c).to(T)) + poison)
        tl.store(partial + c * COLUMNS + lane, row, mask=lane < COLUMNS)

"""Binary and multilabel kernels. One program walks over `loops` tiles of one plane (a sample's channel), so that every
tile reads its logits and labels once, whatever the number of terms.

`terms` are the pointwise `KernelTerm`s, `columns` is a `Columns`.
"""

import triton
import triton.language as tl

from .elementary import sigmoid, sign_
from .inputs import ANYWHERE, coordinates, labels, logits, pixel_weights, store_rounded, vector_at, with_column
from .pointwise import (
    bce,
    bce_grad,
    focal_binary,
    focal_binary_grad,
    focal_margin,
    focal_margin_grad,
    focal_miss,
    linear_binary,
    linear_binary_grad,
    log_power_binary,
    log_power_binary_grad,
    margin_miss,
    poly_binary,
    poly_binary_grad,
    smooth_label,
)
from .region import effective_weight
from .topk import add_digits, topk_key, topk_margin


@triton.jit
def sigmoid_settings(terms: tl.constexpr, t: tl.constexpr, numbers, c, aux, T: tl.constexpr):
    """What a term needs in each tile: (on, off, gamma or eps, smoothing, threshold key, weight of a tie)."""
    on = vector_at(terms, t, numbers, c, T)
    off = on if terms[t].vector == 0 else 1.0 - on
    gamma = tl.load(numbers + (terms[t].eps_at if terms[t].poly else terms[t].gamma_at)).to(T)
    smoothing = tl.load(numbers + terms[t].smoothing_at).to(T)
    if terms[t].topk:
        key = topk_key(tl.load(aux + terms[t].threshold_at).to(T))
        return on, off, gamma, smoothing, key, tl.load(aux + terms[t].tie_at).to(T)
    else:
        return on, off, gamma, smoothing, gamma, gamma


@triton.jit
def sigmoid_value(terms: tl.constexpr, t: tl.constexpr, s, a, y, HARD: tl.constexpr):
    """The element of a term; a = (p, q, -log p, -log q)."""
    if terms[t].margin:
        b, u = bce(a[2], a[3], y, 1.0), margin_miss(a[0], a[1], a[2], a[3], y)
        return focal_margin(b, u, y, s[0], s[1], s[2], terms[t].power)
    elif terms[t].focal:
        b, u = sigmoid_cost(a, y, HARD)
        return focal_binary(b, u, y, s[0], s[1], s[2], terms[t].power)
    elif terms[t].poly:
        return poly_binary(a[0], a[1], a[2], a[3], smooth_label(y, s[3]), s[0], s[2])
    elif terms[t].log_power:
        return log_power_binary(a[2], a[3], y, s[0], s[2])
    elif terms[t].boundary:
        return linear_binary(a[0], y, s[0])
    else:
        return bce(a[2], a[3], smooth_label(y, s[3]), s[0])


@triton.jit
def sigmoid_grad(terms: tl.constexpr, t: tl.constexpr, s, a, y, HARD: tl.constexpr):
    """Its derivative with respect to the logit."""
    if terms[t].margin:
        b, u = bce(a[2], a[3], y, 1.0), margin_miss(a[0], a[1], a[2], a[3], y)
        return focal_margin_grad(b, u, y, s[0], s[1], s[2], bce_grad(a[0], a[1], y, 1.0), terms[t].power)
    elif terms[t].focal:
        b, u = sigmoid_cost(a, y, HARD)
        return focal_binary_grad(b, u, y, s[0], s[1], s[2], bce_grad(a[0], a[1], y, 1.0), terms[t].power)
    elif terms[t].poly:
        return poly_binary_grad(a[0], a[1], smooth_label(y, s[3]), s[0], s[2])
    elif terms[t].log_power:
        return log_power_binary_grad(a[0], a[1], a[2], a[3], y, s[0], s[2])
    elif terms[t].boundary:
        return linear_binary_grad(a[0], a[1], y, s[0])
    else:
        return bce_grad(a[0], a[1], smooth_label(y, s[3]), s[0])


@triton.jit
def sigmoid_cost(a, y, HARD: tl.constexpr):
    """(BCE, 1 - p_t)"""
    if HARD:
        return tl.where(y > 0, a[2], a[3]), tl.where(y > 0, a[1], a[0])
    else:
        b = bce(a[2], a[3], y, 1.0)
        return b, focal_miss(a[0], a[1], y, b)


@triton.jit
def sigmoid_key(terms: tl.constexpr, t: tl.constexpr, s, x, a, y, w, HARD: tl.constexpr, MARGIN: tl.constexpr):
    if MARGIN:
        return topk_key(topk_margin(x, y))
    else:
        return topk_key(w * sigmoid_value(terms, t, s, a, y, HARD))


@triton.jit
def sigmoid_share(terms: tl.constexpr, t: tl.constexpr, s, x, a, y, w, valid, HARD: tl.constexpr, MARGIN: tl.constexpr):
    """What multiplies the element: its pixel weight, and in a top-k term its share."""
    if terms[t].topk:
        key = sigmoid_key(terms, t, s, x, a, y, w, HARD, MARGIN)
        share = tl.where(key > s[4], 1.0, tl.where(key == s[4], s[5], 0.0)).to(w.dtype)
        return tl.where(valid, share * w, 0.0)
    else:
        return w


@triton.jit
def sigmoid_plane(programs, channels, blocks, REVERSED: tl.constexpr):
    """(sample, channel, block of the plane) of this program. Divided as 32-bit numbers: a 64-bit division is a call."""
    task = tl.program_id(0)
    if REVERSED:  # the end of the pass before is still in cache
        task = programs - 1 - task
    row = task // blocks
    return (row // channels).to(tl.int64), (row % channels).to(tl.int64), (task % blocks).to(tl.int64)


@triton.jit(
    do_not_specialize=["blocks", "loops", "ignore", "aux_at", "grad_sums_at", "elements", "turn_at"],
    do_not_specialize_on_alignment=ANYWHERE,
)
def sigmoid_pass(
    x, y, mask, weight, out, space, channels, blocks, loops, ignore, numbers, weights, state, aux_at, grad_sums_at,
    grad_output, before, predicted, elements, partial, turn_at,
    terms: tl.constexpr, columns: tl.constexpr, SUMS: tl.constexpr, GRAD: tl.constexpr, REGION: tl.constexpr,
    EXTRA: tl.constexpr, HARD: tl.constexpr, MARGIN: tl.constexpr, IGNORE: tl.constexpr, PER_SAMPLE: tl.constexpr,
    UNBOUNDED: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums of the tiles into `partial` (and 0 into partial[turn_at], for `finish`), or the gradient into `out`, or
    (where the denominators are known) both.

    The gradient is times `grad_output`. With `before` nothing is done if that has the same value; `predicted` then
    takes the value over.
    """
    n, c, block = sigmoid_plane(tl.num_programs(0), channels, blocks, GRAD and not SUMS)
    start = block * loops * BLOCK
    d = state + grad_sums_at + (n * PER_SAMPLE * channels + c) * COLUMNS
    aux = state + aux_at
    loss_grad = tl.full([], 1.0, tl.float64)
    if grad_output is not None:
        loss_grad = tl.load(grad_output).to(tl.float64)
    if before is not None:
        loops = tl.where(loss_grad == tl.load(before), 0, loops)
        if predicted is not None:
            tl.store(predicted, loss_grad)
    settings = ()
    scales = ()
    for t in tl.static_range(len(terms)):
        settings = settings + (sigmoid_settings(terms, t, numbers, c, aux, T),)
        if GRAD and SUMS:
            scale = loss_grad * effective_weight(terms, t, numbers, weights)
            scales = scales + ((scale / elements.to(tl.float64) if terms[t].mean else scale).to(T),)
        elif GRAD:
            scales = scales + ((loss_grad * tl.load(d + terms[t].sum_at)).to(T),)
    if GRAD and REGION:
        inter, pred = (loss_grad * tl.load(d + columns.inter)).to(T), (loss_grad * tl.load(d + columns.pred)).to(T)
        if EXTRA:
            square = (2.0 * loss_grad * tl.load(d + columns.pred_sq)).to(T)
            cross = (2.0 * loss_grad * tl.load(d + columns.pred_sq_target)).to(T)
            diff = (loss_grad * tl.load(d + columns.abs_diff)).to(T)

    zero = tl.zeros([BLOCK], T)
    counted: tl.constexpr = IGNORE or mask[0] is not None
    region: tl.constexpr = 3 * REGION + 4 * EXTRA  # sums from inter on, in the order of the columns
    sums = (zero,) * (counted + region + len(terms) if SUMS else 0)
    for i in range(loops):
        pixel = start + i * BLOCK + tl.arange(0, BLOCK)
        inside = pixel < space[0]
        place = coordinates(pixel, space)
        label, valid, bad = labels(y, mask, n, c, place, inside, ignore, IGNORE, T, UNBOUNDED)
        v = logits(x, n, c, place, (inside, valid), T)
        w = pixel_weights(weight, n, c, place, (inside, valid), T)
        a = sigmoid(v)
        fault = tl.where(bad, float("nan"), 0.0).to(T)
        new = ()
        if SUMS:
            if REGION:
                p = tl.where(valid, a[0], 0.0)
                new = (sums[0] + p * label, sums[1] + p, sums[2] + (label + fault))
                if EXTRA:
                    new = new + (sums[3] + p * p, sums[4] + (label * label + fault), sums[5] + tl.abs(p - label))
                    new = new + (sums[6] + p * p * label,)
        g = zero
        for t in tl.static_range(len(terms)):
            share = sigmoid_share(terms, t, settings[t], v, a, label, w, valid, HARD, MARGIN)
            if SUMS:
                value = share * sigmoid_value(terms, t, settings[t], a, label, HARD)
                new = new + (sums[region + t] + (tl.where(share != 0, value, 0.0) + fault),)
            if GRAD:
                g = tl.fma(share * scales[t], sigmoid_grad(terms, t, settings[t], a, label, HARD), g)
        if GRAD:
            if REGION:
                by_p = tl.fma(inter, label, pred)
                if EXTRA:
                    by_p = tl.fma(tl.fma(cross, label, square), a[0], by_p) + diff * sign_(a[0] - label)
                g = tl.fma(a[0] * a[1], tl.where(valid, by_p, 0.0), g)
            store_rounded(out, n, c, place, g, inside)
        if SUMS and counted:
            new = new + (sums[region + len(terms)] + valid.to(T),)
        sums = new
    if SUMS:
        if tl.program_id(0) == 0:
            tl.store(partial + turn_at, 0.0)
        row = tl.zeros([WIDTH], tl.float64)
        if counted:
            row = with_column(row, columns.valid, tl.sum(sums[region + len(terms)]))
        else:
            row = with_column(row, columns.valid, tl.minimum(space[0] - start, loops * BLOCK))
        for k in tl.static_range(region):
            row = with_column(row, columns.inter + k, tl.sum(sums[k]))
        for t in tl.static_range(len(terms)):
            row = with_column(row, terms[t].sum_at, tl.sum(sums[region + t]))
        lane = tl.arange(0, WIDTH)
        tl.store(partial + tl.program_id(0).to(tl.int64) * COLUMNS + lane, row, mask=lane < COLUMNS)


@triton.jit(do_not_specialize=["blocks", "loops", "ignore"], do_not_specialize_on_alignment=ANYWHERE)
def sigmoid_elements(
    x, y, mask, weight, out, space, channels, blocks, loops, ignore, numbers, keys, histogram,
    terms: tl.constexpr, HARD: tl.constexpr, MARGIN: tl.constexpr, IGNORE: tl.constexpr, T: tl.constexpr,
    UNBOUNDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each element of a term: its value into `out`, or its key for top-k into `keys`, the top digit counted."""
    n, c, block = sigmoid_plane(tl.num_programs(0), channels, blocks, False)
    settings = sigmoid_settings(terms, 0, numbers, c, numbers, T)
    for i in range(loops):
        pixel = (block * loops + i) * BLOCK + tl.arange(0, BLOCK)
        inside = pixel < space[0]
        place = coordinates(pixel, space)
        label, valid, bad = labels(y, mask, n, c, place, inside, ignore, IGNORE, T, UNBOUNDED)
        v = logits(x, n, c, place, (inside, valid), T)
        w = pixel_weights(weight, n, c, place, (inside, valid), T)
        a = sigmoid(v)
        if keys is None:
            value = w * sigmoid_value(terms, 0, settings, a, label, HARD)
            store_rounded(out, n, c, place, tl.where(bad, float("nan"), tl.where(valid, value, 0.0)).to(T), inside)
        else:
            key = sigmoid_key(terms, 0, settings, v, a, label, w, HARD, MARGIN)
            key = tl.where(valid, key, key ^ key)
            stored = keys + (n * channels + c) * space[0] + pixel
            tl.store(stored, key.to(stored.dtype.element_ty, bitcast=True), mask=inside)
            add_digits(histogram, key, valid, 8 * (key.dtype.primitive_bitwidth // 8 - 1))


@triton.jit(do_not_specialize=["blocks", "loops", "ignore"], do_not_specialize_on_alignment=ANYWHERE)
def sigmoid_counts(
    x, y, mask, space, channels, blocks, loops, ignore, logit_threshold, partial,
    IGNORE: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """tp, fp, fn, tn of the plane's tiles; `logit_threshold` is the smallest logit that counts as positive."""
    n, c, block = sigmoid_plane(tl.num_programs(0), channels, blocks, False)
    limit = tl.load(logit_threshold).to(T)
    row = tl.zeros([4], tl.float64)
    for i in range(loops):
        pixel = (block * loops + i) * BLOCK + tl.arange(0, BLOCK)
        inside = pixel < space[0]
        place = coordinates(pixel, space)
        label, valid, _ = labels(y, mask, n, c, place, inside, ignore, IGNORE, T)
        on = logits(x, n, c, place, (inside, valid), T) >= limit
        truth = label >= 0.5
        cell = tl.where(on, tl.where(truth, 0, 1), tl.where(truth, 2, 3))
        for k in tl.static_range(4):
            row += with_column(tl.zeros([4], tl.float64), k, tl.sum((valid & (cell == k)).to(tl.int32)))
    tl.store(partial + tl.program_id(0).to(tl.int64) * 4 + tl.arange(0, 4), row)

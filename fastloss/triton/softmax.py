"""Multiclass kernels, made of softmax_steps.py."""

import triton
import triton.language as tl

from .inputs import ANYWHERE, coordinates, pixel_weights, store_rounded, with_column
from .region import effective_weight
from .softmax_steps import (
    activation,
    element_values,
    softmax_gradient,
    softmax_labels,
    softmax_share,
    softmax_sums,
    softmax_walk,
)  # fmt: skip
from .topk import add_digits, topk_key


@triton.jit
def softmax_tile(blocks, REVERSED: tl.constexpr):
    """(sample, block of its pixels, row of the partition) of this program; 32-bit divisions, as in sigmoid_plane."""
    task = tl.program_id(0)
    if REVERSED:  # the end of the pass before is still in cache
        task = tl.num_programs(0) - 1 - task
    return (task // blocks).to(tl.int64), (task % blocks).to(tl.int64), task.to(tl.int64)


@triton.jit(
    do_not_specialize=["blocks", "loops", "ignore", "aux_at", "grad_sums_at", "elements", "turn_at"],
    do_not_specialize_on_alignment=ANYWHERE,
)
def softmax_pass(
    x, y, mask, weight, out, space, channels, blocks, loops, ignore, numbers, weights, state, aux_at, grad_sums_at,
    grad_output, before, predicted, elements, partial, turn_at,
    terms: tl.constexpr, columns: tl.constexpr, SUMS: tl.constexpr, GRAD: tl.constexpr, REGION: tl.constexpr,
    EXTRA: tl.constexpr, INDICES: tl.constexpr, DENSE: tl.constexpr, TARGETS: tl.constexpr, VALUES: tl.constexpr,
    IGNORE: tl.constexpr, PER_SAMPLE: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, T: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """sigmoid_pass, for tiles of pixels with all their classes."""
    n, block, task = softmax_tile(blocks, GRAD and not SUMS)
    d = state + grad_sums_at + n * PER_SAMPLE * channels * COLUMNS
    loss_grad = tl.full([], 1.0, tl.float64)
    if grad_output is not None:
        loss_grad = tl.load(grad_output).to(tl.float64)
    if before is not None:
        loops = tl.where(loss_grad == tl.load(before), 0, loops)
        if predicted is not None:
            tl.store(predicted, loss_grad)
    if SUMS and task == 0:
        tl.store(partial + turn_at, 0.0)
    for i in range(loops):
        pixel = (block + i) * BLOCK + tl.arange(0, BLOCK)
        inside = pixel < space[0]
        place = coordinates(pixel, space)
        label, valid, bad = softmax_labels(y, mask, n, place, inside, channels, ignore, INDICES, IGNORE, T)
        keep = (inside, valid)
        w = pixel_weights(weight, n, 0, place, keep, T)
        a = activation(x, n, place, keep, label, channels, T)
        values = (w,) * len(terms)
        if VALUES:
            values = element_values(terms, numbers, x, y, n, place, keep, label, w, a, channels, INDICES, DENSE, T)
        scales = ()
        weighted = ()
        for t in tl.static_range(len(terms)):
            share = softmax_share(terms, t, state + aux_at, values[t], w, valid, T)
            if SUMS:
                value = values[t]
                if terms[t].topk:  # the pixel weight is in there already
                    part = softmax_share(terms, t, state + aux_at, values[t], valid.to(T), valid, T)
                    value = tl.where(part != 0, part * values[t], 0.0)
                weighted = weighted + (value,)
            if GRAD and SUMS:
                scale = loss_grad * effective_weight(terms, t, numbers, weights)
                scale = (scale / elements.to(tl.float64) if terms[t].mean else scale).to(T)
                scales = scales + (share * scale,)
            elif GRAD:
                scales = scales + (share * (loss_grad * tl.load(d + terms[t].sum_at)).to(T),)
        if SUMS:
            rows = partial + task * channels * COLUMNS
            softmax_sums(
                x, y, n, place, keep, bad, label, a, weighted, rows, channels, terms, columns, REGION, EXTRA,
                TARGETS, INDICES, COLUMNS, WIDTH, T,
            )  # fmt: skip
        if GRAD:
            softmax_gradient(
                x, y, out, n, place, keep, label, a, numbers, scales, d, loss_grad, channels, terms, columns, REGION,
                EXTRA, INDICES, DENSE, COLUMNS, T,
            )  # fmt: skip


@triton.jit(do_not_specialize=["blocks", "ignore"], do_not_specialize_on_alignment=ANYWHERE)
def softmax_elements(
    x, y, mask, weight, out, space, channels, blocks, ignore, numbers, keys, histogram,
    terms: tl.constexpr, INDICES: tl.constexpr, DENSE: tl.constexpr, IGNORE: tl.constexpr, T: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """sigmoid_elements, for pixels."""
    n, block, _ = softmax_tile(blocks, False)
    pixel = block * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < space[0]
    place = coordinates(pixel, space)
    label, valid, bad = softmax_labels(y, mask, n, place, inside, channels, ignore, INDICES, IGNORE, T)
    keep = (inside, valid)
    w = pixel_weights(weight, n, 0, place, keep, T)
    a = activation(x, n, place, keep, label, channels, T)
    value = element_values(terms, numbers, x, y, n, place, keep, label, w, a, channels, INDICES, DENSE, T)[0]
    if keys is None:
        store_rounded(out, n, 0, place, tl.where(bad, float("nan"), value), inside)
    else:
        key = topk_key(value)
        key = tl.where(valid, key, key ^ key)
        stored = keys + n * space[0] + pixel
        tl.store(stored, key.to(stored.dtype.element_ty, bitcast=True), mask=inside)
        add_digits(histogram, key, valid, key.dtype.primitive_bitwidth - 8)


@triton.jit(do_not_specialize=["blocks", "ignore"], do_not_specialize_on_alignment=ANYWHERE)
def softmax_counts(
    x, y, mask, space, channels, blocks, ignore, partial, INDICES: tl.constexpr, IGNORE: tl.constexpr, T: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """tp, fp, fn, tn of each class by argmax; of probabilities the largest is the truth."""
    n, block, task = softmax_tile(blocks, False)
    pixel = block * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < space[0]
    place = coordinates(pixel, space)
    label, valid, _ = softmax_labels(y, mask, n, place, inside, channels, ignore, INDICES, IGNORE, T)
    keep = (inside, valid)
    _, _, _, said = softmax_walk(x, n, place, keep, label, channels, T)
    truth = label if INDICES else softmax_walk(y, n, place, keep, label, channels, T)[3]
    for c in range(channels):
        cell = tl.where(said == c, tl.where(truth == c, 0, 1), tl.where(truth == c, 2, 3))
        row = tl.zeros([4], tl.float64)
        for k in tl.static_range(4):
            row = with_column(row, k, tl.sum((valid & (cell == k)).to(tl.int32)))
        tl.store(partial + (task * channels + c) * 4 + tl.arange(0, 4), row)

"""sums -> loss, the value of each term, and the cotangents of the sums: mirrors csrc/math/finalize.h.

Programs leave one row of sums each; `combine` adds them in the order of the partition, `finalize`, a single program,
puts the terms together, groups and classes side by side.
"""

import triton
import triton.language as tl

from .region import counted_weight, effective_weight, region_group

TVERSKY, TOPK, CE, FIXED_SUMS = tl.constexpr(4), tl.constexpr(3), tl.constexpr(1), tl.constexpr(7)


@triton.jit
def combine_row(
    partial, first, count, blocks, step_sample, step_block, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """The sum of `count` rows: blocks of sample `first`, then of the next."""
    lane = tl.arange(0, WIDTH)[None, :]
    total = tl.zeros([TILE, WIDTH], tl.float64)
    for begin in range(0, count, TILE):
        j = begin + tl.arange(0, TILE)[:, None]
        row = (first + j // blocks) * step_sample + (j % blocks).to(tl.int64) * step_block
        total += tl.load(partial + row + lane, mask=(j < count) & (lane < COLUMNS), other=0.0)
    return tl.sum(total, 0)


@triton.jit(do_not_specialize=["samples", "blocks", "out_at"])
def combine(
    partial, out, out_at, samples, channels, blocks, step_sample, step_channel, step_block,
    COLUMNS: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """out[group, channel] of rows of `samples` samples each; one program for each."""
    row = tl.program_id(0)
    group, c = (row // channels).to(tl.int64), (row % channels).to(tl.int64)
    rows = combine_row(
        partial + c * step_channel, group * samples, samples * blocks, blocks, step_sample, step_block,
        COLUMNS, WIDTH, TILE,
    )  # fmt: skip
    lane = tl.arange(0, WIDTH)
    tl.store(out + out_at + row.to(tl.int64) * COLUMNS + lane, rows, mask=lane < COLUMNS)


@triton.jit
def sums_tile(sums, g, c, groups, channels, COLUMNS: tl.constexpr):
    """The columns of a tile of groups and classes."""
    at = sums + (g[:, None] * channels + c[None, :]) * COLUMNS
    inside = (g[:, None] < groups) & (c[None, :] < channels)
    tile = ()
    for k in tl.static_range(COLUMNS):
        tile = tile + (tl.load(at + k, mask=inside, other=0.0),)
    return tile


@triton.jit
def pooled(tile, COLUMNS: tl.constexpr):
    """Summed over the groups of a tile: [1, classes] each."""
    total = ()
    for k in tl.static_range(COLUMNS):
        total = total + (tl.sum(tile[k], 0)[None, :],)
    return total


@triton.jit
def kept_groups(
    terms: tl.constexpr,
    t: tl.constexpr,
    numbers,
    sums,
    c,
    groups,
    channels,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """How many samples have a class that counts."""
    kept = tl.zeros([], tl.float64)
    for begin in range(0, groups, GROUPS):
        g = begin + tl.arange(0, GROUPS)
        tile = sums_tile(sums, g, c, groups, channels, COLUMNS)
        some = (counted_weight(terms, t, numbers, tile, c[None, :], channels) > 0.0) & (g < groups)
        kept += tl.sum(some.to(tl.float64))
    return kept


@triton.jit
def pointwise_denominator(
    terms: tl.constexpr, t: tl.constexpr, numbers, total, c, channels, WEIGHTED: tl.constexpr, SOFTMAX: tl.constexpr
):
    """Valid elements; for cross-entropy on ids with class weights the weights of the classes of the valid pixels."""
    if WEIGHTED and terms[t][1] == CE and terms[t][8] != 0:
        w = tl.load(numbers + terms[t][9] + (c if terms[t][8] == 2 else c * 0), mask=c < channels, other=0.0)
        return tl.sum(tl.where(c < channels, w * total[3], 0.0))
    elif SOFTMAX:
        return tl.sum(tl.where(c == 0, total[0], 0.0))
    else:
        return tl.sum(total[0])


@triton.jit(do_not_specialize=["groups", "aux_at", "dsums_at", "scale_at"])
def finalize(
    sums, numbers, weights, state, aux, aux_at, dsums_at, scale_at, loss, upstream, groups, channels,
    terms: tl.constexpr, WEIGHTED: tl.constexpr, SOFTMAX: tl.constexpr, COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """One program. Without `loss` only aux is written; state = [values | aux | dsums | counts | scale]."""
    c = tl.arange(0, CHANNELS)
    zero = tl.zeros([1, CHANNELS], tl.float64)
    total = (zero,) * COLUMNS
    for begin in range(0, groups, GROUPS):
        tile = pooled(sums_tile(sums, begin + tl.arange(0, GROUPS), c, groups, channels, COLUMNS), COLUMNS)
        more = ()
        for k in tl.static_range(COLUMNS):
            more = more + (total[k] + tile[k],)
        total = more
    for t in tl.static_range(len(terms)):
        if terms[t][1] != TOPK:  # those are written by topk_select
            row = aux + aux_at + 4 * t
            tl.store(row, 0.0)
            if terms[t][1] != TVERSKY:
                tl.store(row, pointwise_denominator(terms, t, numbers, total, c[None, :], channels, WEIGHTED, SOFTMAX))
            for k in tl.static_range(1, 4):
                tl.store(row + k, 0.0)
    if loss is not None:
        tl.debug_barrier()
        scale = tl.full([], 1.0, tl.float64)
        if upstream is not None:
            scale = tl.load(upstream).to(tl.float64)
        tl.store(state + scale_at, scale)

        # Terms over the whole batch; the slopes of pointwise terms
        values, shares, slopes = (), (), ()
        d_batch = (zero,) * 4
        for t in tl.static_range(len(terms)):
            weight = effective_weight(terms[t][0], terms[t][10], numbers, weights)
            value, share, slope = weight * 0.0, weight * 0.0, weight * 0.0
            if terms[t][1] != TVERSKY:
                slope = weight
                if terms[t][2]:
                    below = tl.load(aux + aux_at + 4 * t)
                    some = (below > 0.0) | (below < 0.0)
                    slope = tl.where(some, 1.0 / tl.where(some, below, 1.0), 0.0)
                    value = tl.sum(total[FIXED_SUMS + t]) * slope
                    slope = weight * slope
                else:
                    value = tl.sum(total[FIXED_SUMS + t])
            elif terms[t][7]:
                group = region_group(terms, t, numbers, total, c[None, :], channels, weight)
                value = tl.sum(group[0])
                d_batch = (d_batch[0] + group[1], d_batch[1] + group[2], d_batch[2] + group[3], d_batch[3] + group[4])
            else:
                kept = kept_groups(terms, t, numbers, sums, c, groups, channels, COLUMNS, GROUPS)
                share = tl.where(kept > 0.0, 1.0 / tl.where(kept > 0.0, kept, 1.0), 0.0)
            values, shares, slopes = values + (value,), shares + (share,), slopes + (slope,)

        # Terms over samples; cotangents
        for begin in range(0, groups, GROUPS):
            g = begin + tl.arange(0, GROUPS)
            tile = sums_tile(sums, g, c, groups, channels, COLUMNS)
            d = d_batch
            more = ()
            for t in tl.static_range(len(terms)):
                if terms[t][1] == TVERSKY and not terms[t][7]:
                    weight = effective_weight(terms[t][0], terms[t][10], numbers, weights)
                    # Not the name of the term over the batch: the loop would carry that, in another shape.
                    rows = region_group(terms, t, numbers, tile, c[None, :], channels, weight * shares[t])
                    d = (d[0] + rows[1], d[1] + rows[2], d[2] + rows[3], d[3] + rows[4])
                    more = more + (values[t] + tl.sum(tl.where(g < groups, rows[0], 0.0)) * shares[t],)
                else:
                    more = more + (values[t],)
            values = more
            at = state + dsums_at + (g[:, None] * channels + c[None, :]) * COLUMNS
            inside = (g[:, None] < groups) & (c[None, :] < channels)
            none = tl.zeros([GROUPS, CHANNELS], tl.float64)
            tl.store(at, none, mask=inside)
            tl.store(at + 1, none + d[0], mask=inside)
            tl.store(at + 2, none + d[1], mask=inside)
            tl.store(at + 3, none, mask=inside)
            tl.store(at + 4, none + d[2], mask=inside)
            tl.store(at + 5, none, mask=inside)
            tl.store(at + 6, none + d[3], mask=inside)
            for t in tl.static_range(len(terms)):
                tl.store(at + FIXED_SUMS + t, none + slopes[t], mask=inside)

        result = tl.full([], 0.0, tl.float64)
        for t in tl.static_range(len(terms)):
            weight = effective_weight(terms[t][0], terms[t][10], numbers, weights)
            tl.store(state + t, values[t])
            result += tl.where(weight != 0.0, weight * values[t], 0.0)
        tl.store(loss, result.to(loss.dtype.element_ty))

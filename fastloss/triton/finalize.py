"""From the sums to the loss, the value of each term, and the gradients of the sums: mirrors csrc/math/finalize.h.

Programs leave one row of sums each; `finish` adds them in the order of the partition, a program for each group and
channel, and the last of these to be done puts the terms together, groups and classes side by side.
"""

import triton
import triton.language as tl

from .inputs import ANYWHERE
from .region import counted_weight, effective_weight, region_group


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


@triton.jit(do_not_specialize=["samples", "blocks", "out_at"], do_not_specialize_on_alignment=[*ANYWHERE, "out"])
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
    columns: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """How many samples have a class that counts."""
    kept = tl.zeros([], tl.float64)
    for begin in range(0, groups, GROUPS):
        g = begin + tl.arange(0, GROUPS)
        tile = sums_tile(sums, g, c, groups, channels, COLUMNS)
        some = (counted_weight(terms, t, numbers, tile, columns, c[None, :], channels) > 0.0) & (g < groups)
        kept += tl.sum(some.to(tl.float64))
    return kept


@triton.jit
def pointwise_denominator(
    terms: tl.constexpr, t: tl.constexpr, numbers, total, columns: tl.constexpr, c, channels, WEIGHTED: tl.constexpr,
    SOFTMAX: tl.constexpr,
):  # fmt: skip
    """Number of valid elements; for cross-entropy on class indices with class weights the sum of the weights of the
    classes of the valid pixels."""
    if WEIGHTED and terms[t].weighted_mean:
        own = numbers + terms[t].vector_at + (c if terms[t].vector == 2 else c * 0)
        w = tl.load(own, mask=c < channels, other=0.0)
        return tl.sum(tl.where(c < channels, w * total[columns.target], 0.0))
    elif SOFTMAX:
        return tl.sum(tl.where(c == 0, total[columns.valid], 0.0))
    else:
        return tl.sum(total[columns.valid])


@triton.jit(
    do_not_specialize=["sums_at", "aux_at", "grad_sums_at", "scale_at", "samples", "groups", "blocks", "turn_at"],
    do_not_specialize_on_alignment=ANYWHERE,
)
def finish(
    partial, sums, sums_at, numbers, weights, state, aux, aux_at, grad_sums_at, scale_at, loss, grad_output, samples,
    groups, channels, blocks, step_sample, step_channel, step_block, turn_at,
    terms: tl.constexpr, columns: tl.constexpr, WEIGHTED: tl.constexpr, SOFTMAX: tl.constexpr, COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr, TILE: tl.constexpr, ALONE: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """`combine`, and by the program that is done last `finalize`: how many are done is counted in partial[turn_at],
    which the pass before has set to 0."""
    sums += sums_at
    row = tl.program_id(0)
    group, c = (row // channels).to(tl.int64), (row % channels).to(tl.int64)
    rows = combine_row(
        partial + c * step_channel, group * samples, samples * blocks, blocks, step_sample, step_block,
        COLUMNS, WIDTH, TILE,
    )  # fmt: skip
    lane = tl.arange(0, WIDTH)
    tl.store(sums + row.to(tl.int64) * COLUMNS + lane, rows, mask=lane < COLUMNS)
    tl.debug_barrier()  # the whole program has stored, before one of its threads says so
    if ALONE:
        finalize(
            sums, numbers, weights, state, aux, aux_at, grad_sums_at, scale_at, loss, grad_output, groups, channels,
            terms, columns, WEIGHTED, SOFTMAX, COLUMNS, CHANNELS, GROUPS,
        )  # fmt: skip
    else:
        done = tl.atomic_add(partial + turn_at, 1.0, sem="acq_rel", scope="gpu")
        if done == tl.num_programs(0) - 1:
            finalize(
                sums, numbers, weights, state, aux, aux_at, grad_sums_at, scale_at, loss, grad_output, groups, channels,
                terms, columns, WEIGHTED, SOFTMAX, COLUMNS, CHANNELS, GROUPS,
            )  # fmt: skip


@triton.jit
def finalize(
    sums, numbers, weights, state, aux, aux_at, grad_sums_at, scale_at, loss, grad_output, groups, channels,
    terms: tl.constexpr, columns: tl.constexpr, WEIGHTED: tl.constexpr, SOFTMAX: tl.constexpr, COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """One program. Without `loss` only aux is written; the parts of `state`: fastloss.spec.Layout."""
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
        if terms[t].topk == 0:  # those are written by topk_select
            row = aux + aux_at
            tl.store(row + terms[t].denominator_at, 0.0)
            if terms[t].region == 0:
                denominator = pointwise_denominator(
                    terms, t, numbers, total, columns, c[None, :], channels, WEIGHTED, SOFTMAX
                )
                tl.store(row + terms[t].denominator_at, denominator)
            tl.store(row + terms[t].threshold_at, 0.0)
            tl.store(row + terms[t].tie_at, 0.0)
            tl.store(row + terms[t].top_count_at, 0.0)
    if loss is not None:
        tl.debug_barrier()
        scale = tl.full([], 1.0, tl.float64)
        if grad_output is not None:
            scale = tl.load(grad_output).to(tl.float64)
        tl.store(state + scale_at, scale)

        # Terms over the whole batch; the gradients of the sums of pointwise terms
        values, shares, pointwise = (), (), ()
        d_batch = (zero,) * 4
        for t in tl.static_range(len(terms)):
            weight = effective_weight(terms, t, numbers, weights)
            value, share, grad = weight * 0.0, weight * 0.0, weight * 0.0
            if terms[t].region == 0:
                grad = weight
                if terms[t].mean:
                    below = tl.load(aux + aux_at + terms[t].denominator_at)
                    some = (below > 0.0) | (below < 0.0)
                    grad = tl.where(some, 1.0 / tl.where(some, below, 1.0), 0.0)
                    value = tl.sum(total[terms[t].sum_at]) * grad
                    grad = weight * grad
                else:
                    value = tl.sum(total[terms[t].sum_at])
            elif terms[t].batch:
                group = region_group(terms, t, numbers, total, columns, c[None, :], channels, weight)
                value = tl.sum(group[0])
                d_batch = (d_batch[0] + group[1], d_batch[1] + group[2], d_batch[2] + group[3], d_batch[3] + group[4])
            else:
                kept = kept_groups(terms, t, numbers, sums, c, groups, channels, columns, COLUMNS, GROUPS)
                share = tl.where(kept > 0.0, 1.0 / tl.where(kept > 0.0, kept, 1.0), 0.0)
            values, shares, pointwise = values + (value,), shares + (share,), pointwise + (grad,)

        # Terms over samples; the gradients of the sums
        for begin in range(0, groups, GROUPS):
            g = begin + tl.arange(0, GROUPS)
            tile = sums_tile(sums, g, c, groups, channels, COLUMNS)
            d = d_batch
            more = ()
            for t in tl.static_range(len(terms)):
                if terms[t].region and not terms[t].batch:
                    weight = effective_weight(terms, t, numbers, weights)
                    # Not the name of the term over the batch: the loop would carry that, in another shape.
                    rows = region_group(terms, t, numbers, tile, columns, c[None, :], channels, weight * shares[t])
                    d = (d[0] + rows[1], d[1] + rows[2], d[2] + rows[3], d[3] + rows[4])
                    more = more + (values[t] + tl.sum(tl.where(g < groups, rows[0], 0.0)) * shares[t],)
                else:
                    more = more + (values[t],)
            values = more
            at = state + grad_sums_at + (g[:, None] * channels + c[None, :]) * COLUMNS
            inside = (g[:, None] < groups) & (c[None, :] < channels)
            none = tl.zeros([GROUPS, CHANNELS], tl.float64)
            tl.store(at + columns.valid, none, mask=inside)
            tl.store(at + columns.inter, none + d[0], mask=inside)
            tl.store(at + columns.pred, none + d[1], mask=inside)
            tl.store(at + columns.target, none, mask=inside)
            tl.store(at + columns.pred_sq, none + d[2], mask=inside)
            tl.store(at + columns.target_sq, none, mask=inside)
            tl.store(at + columns.abs_diff, none + d[3], mask=inside)
            tl.store(at + columns.pred_sq_target, none, mask=inside)
            for t in tl.static_range(len(terms)):
                tl.store(at + terms[t].sum_at, none + pointwise[t], mask=inside)

        result = tl.full([], 0.0, tl.float64)
        for t in tl.static_range(len(terms)):
            weight = effective_weight(terms, t, numbers, weights)
            tl.store(state + t, values[t])
            result += tl.where(weight != 0.0, weight * values[t], 0.0)
        tl.store(loss, result.to(loss.dtype.element_ty))

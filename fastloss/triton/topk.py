"""Exact top-k by radix selection over order-preserving integer keys: mirrors csrc/math/topk.h, in digits of 8 bits.

A first kernel (sigmoid.py, softmax.py) leaves a key for each element and counts the top digit. `topk_select`, one
program, finds the digit of the threshold; `topk_histogram` counts the next one among the keys that share those found.
Counts are added as integers, in whatever order.
"""

import triton
import triton.language as tl

from .inputs import ANYWHERE

BINS = tl.constexpr(256)


@triton.jit
def topk_key(value):
    """Larger value, larger key. Key 0 is free for elements that do not take part; NaN is the largest."""
    if value.dtype == tl.float64:
        bits = (value + 0.0).to(tl.uint64, bitcast=True)  # + 0: -0 and 0 are one value
        sign, every = tl.full([], 1 << 63, tl.uint64), tl.full([], (1 << 64) - 1, tl.uint64)
    else:
        bits = (value + 0.0).to(tl.uint32, bitcast=True)
        sign, every = tl.full([], 1 << 31, tl.uint32), tl.full([], (1 << 32) - 1, tl.uint32)
    key = tl.where((bits & sign) != 0, bits ^ every, bits | sign)
    return tl.where(value == value, key, every)


@triton.jit
def topk_value(key, T: tl.constexpr):
    if T == tl.float64:
        bits = key.to(tl.uint64)
        sign, every = tl.full([], 1 << 63, tl.uint64), tl.full([], (1 << 64) - 1, tl.uint64)
    else:
        bits = key.to(tl.uint32)
        sign, every = tl.full([], 1 << 31, tl.uint32), tl.full([], (1 << 32) - 1, tl.uint32)
    return tl.where((bits & sign) != 0, bits ^ sign, bits ^ every).to(T, bitcast=True)


@triton.jit
def topk_margin(x, y):
    """Hard labels without pixel weights: BCE falls with the margin, so -margin orders the elements exactly."""
    return tl.where(y > 0.5, -x, x)


@triton.jit
def add_digits(histogram, key, counted, SHIFT: tl.constexpr):
    """Adds the digits at SHIFT of the keys that are counted to the histogram."""
    digit = tl.where(counted, ((key >> SHIFT) & 255).to(tl.int32), 0)
    bins = tl.arange(0, BINS)
    left_out = tl.sum((counted == 0).to(tl.int32))
    found = tl.histogram(digit, BINS) - tl.where(bins == 0, left_out, 0)
    tl.atomic_add(histogram + bins, found.to(tl.int64), mask=found > 0, sem="relaxed")


@triton.jit(do_not_specialize=["size", "loops"], do_not_specialize_on_alignment=ANYWHERE)
def topk_histogram(keys, cursor, histogram, size, loops, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    """The digit at SHIFT of the keys whose higher digits are cursor[0]."""
    prefix = tl.load(cursor)
    start = tl.program_id(0).to(tl.int64) * loops * BLOCK
    for i in range(loops):
        at = start + i * BLOCK + tl.arange(0, BLOCK)
        stored = tl.load(keys + at, mask=at < size, other=0)
        if stored.dtype == tl.int64:
            key, prefix_key = stored.to(tl.uint64, bitcast=True), prefix.to(tl.uint64, bitcast=True)
        else:
            key, prefix_key = stored.to(tl.uint32, bitcast=True), prefix.to(tl.uint32)
        add_digits(histogram, key, (key != 0) & ((key >> (SHIFT + 8)) == prefix_key), SHIFT)


@triton.jit
def topk_count(n, k_num, k_den):
    """max(1, floor(k n)), exact: long multiplication, since the plain product overflows 64 bits."""
    whole, part = n // k_den, n % k_den
    quotient = n * 0
    rest = n * 0
    for i in range(63):
        bit = (k_num >> (62 - i)) & 1
        rest = 2 * rest
        quotient = 2 * quotient + (rest >= k_den).to(tl.int64)
        rest = rest % k_den + bit * part
        quotient = quotient + bit * whole + (rest >= k_den).to(tl.int64)
        rest = rest % k_den
    return tl.minimum(tl.maximum(quotient, 1), n)


@triton.jit(do_not_specialize=["k_num", "k_den"], do_not_specialize_on_alignment=["histogram", "cursor", "row"])
def topk_select(
    histogram, cursor, row, k_num, k_den, aux: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, T: tl.constexpr
):
    """One program. cursor = (digits found so far, elements still to take); the term's row of aux, in the order of the
    `AuxColumns` aux, is written with the first and the last digit."""
    bins = tl.arange(0, BINS)
    found = tl.load(histogram + bins)
    total = tl.sum(found)
    if FIRST:
        left = topk_count(total, k_num.to(tl.int64), k_den.to(tl.int64))
        prefix = left * 0
        tl.store(row + aux.denominator, left.to(tl.float64))
        tl.store(row + aux.top_count, left.to(tl.float64))
    else:
        prefix = tl.load(cursor)
        left = tl.load(cursor + 1)
    above = total - tl.cumsum(found)  # elements of higher digits
    hit = (above < left) & (above + found >= left)
    digit = tl.sum(tl.where(hit, bins, 0))
    left -= tl.sum(tl.where(hit, above, 0))
    prefix = (prefix << 8) | digit
    if LAST:
        some = total > 0  # no valid element, no threshold
        ties = tl.sum(tl.where(hit, found, 0))
        tie_weight = left.to(tl.float64) / tl.maximum(ties, 1).to(tl.float64)
        tl.store(row + aux.threshold, tl.where(some, topk_value(prefix, T).to(tl.float64), 0.0))
        tl.store(row + aux.tie_weight, tl.where(some, tie_weight, 0.0))
    else:
        tl.store(cursor, prefix)
        tl.store(cursor + 1, left)

"""How kernels read their inputs: addresses by stride, labels, masks, pixel weights. Nothing is read out of bounds.

An array is a tuple (pointer or None, sample stride, channel stride, one stride for each spatial axis); `space` is
(number of pixels, sizes of all axes but the first). Where every array can be walked with one step there is one axis.
"""

import triton
import triton.language as tl

# Pointers for which kernels are not compiled by alignment: numbers of the caller, and places within a buffer.
ANYWHERE = ["partial", "sums", "numbers", "state", "aux", "loss", "grad_output", "before", "predicted", "histogram"]
ANYWHERE += ["cursor", "row", "logit_threshold"]
# The interpreter cuts bits off where a GPU rounds to the nearest bfloat16.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def coordinates(pixel, space):
    """The place of each pixel along the spatial axes."""
    if len(space) == 1:
        return (pixel,)
    else:
        rest = pixel // space[2]
        return rest // space[1], rest % space[1], pixel % space[2]


@triton.jit
def address(array, n, c, place):
    start = array[0] + n * array[1] + c * array[2]
    if len(place) == 1:
        return start + place[0] * array[3]
    else:
        return start + place[0] * array[3] + place[1] * array[4] + place[2] * array[5]


@triton.jit
def whole(value):
    """Integers (bool too) as int32, or int64 where that is too narrow."""
    if value.dtype.primitive_bitwidth < 32 or value.dtype == tl.int32:
        return value.to(tl.int32)
    else:
        return value.to(tl.int64)


@triton.jit
def not_ignored(raw, ignore, T: tl.constexpr):
    if raw.dtype.is_floating():
        return raw.to(T) != ignore.to(T)
    else:
        value = whole(raw)
        return value != ignore.to(value.dtype)


@triton.jit
def label_tolerance(raw):
    """How far outside [0, 1] rounding may leave labels of this type: its own eps, 1e-5 for the wider ones."""
    if raw.dtype == tl.float16:
        return 0.0009765625
    elif raw.dtype == tl.bfloat16:
        return 0.0078125
    else:
        return 1e-5


@triton.jit
def clamp_label(y, tolerance):
    """Labels within the tolerance of [0, 1] lie in it; anything else, NaN too, stays as it is."""
    low = tl.where((y < 0) & (y >= -tolerance), 0.0, y)
    return tl.where((low > 1) & (low <= 1 + tolerance), 1.0, low)


@triton.jit
def masked_in(mask, n, c, place, inside):
    """Which elements the mask keeps, if there is one."""
    if mask[0] is not None:
        return inside & (tl.load(address(mask, n, c, place), mask=inside, other=0) != 0)
    else:
        return inside


@triton.jit
def labels(
    y, mask, n, c, place, inside, ignore, IGNORE: tl.constexpr, T: tl.constexpr, UNBOUNDED: tl.constexpr = False
):
    """(label, valid, bad) of one plane: labels in [0, 1], 0 where not valid; bad is valid, but no such label (if not
    any number is one)."""
    raw = tl.load(address(y, n, c, place), mask=inside, other=0)
    valid = masked_in(mask, n, c, place, inside)
    if IGNORE:
        valid = valid & not_ignored(raw, ignore, T)
    label = raw.to(T)
    if UNBOUNDED:
        return tl.where(valid, label, 0.0), valid, valid & (valid == 0)
    if raw.dtype.is_floating():
        label = clamp_label(label, label_tolerance(raw))
    good = (label >= 0) & (label <= 1)
    return tl.where(valid, label, 0.0), valid, valid & (good == 0)


@triton.jit
def class_indices(y, mask, n, place, inside, channels, ignore, IGNORE: tl.constexpr, T: tl.constexpr):
    """(class index, valid, bad): indices are -1 where not valid or out of range."""
    raw = tl.load(address(y, n, 0, place), mask=inside, other=0)
    valid = masked_in(mask, n, 0, place, inside)
    if IGNORE:
        valid = valid & not_ignored(raw, ignore, T)
    label = whole(raw)
    fits = (label >= 0) & (label < channels)
    return tl.where(valid & fits, label, -1).to(tl.int32), valid & fits, valid & (fits == 0)


@triton.jit
def pixel_weights(weight, n, c, place, keep, T: tl.constexpr):
    """Pixel weights, 0 where not valid."""
    if weight[0] is not None:
        return logits(weight, n, c, place, keep, T)
    else:
        return keep[1].to(T)


@triton.jit
def logits(x, n, c, place, keep, T: tl.constexpr):
    """0 where not valid, so that an ignored NaN or infinity never enters the arithmetic. keep = (inside the plane,
    valid): a load whose mask hangs on data would not be a wide one."""
    return tl.where(keep[1], tl.load(address(x, n, c, place), mask=keep[0], other=0.0).to(T), 0.0)


@triton.jit
def probability(y, n, c, place, keep, T: tl.constexpr):
    """As `logits`, of a target."""
    raw = tl.load(address(y, n, c, place), mask=keep[0], other=0.0)
    return tl.where(keep[1], clamp_label(raw.to(T), label_tolerance(raw)), 0.0)


@triton.jit
def store_rounded(array, n, c, place, value, inside):
    """Into the dtype of the array, to nearest even."""
    pointer = address(array, n, c, place)
    if INTERPRETED and pointer.dtype.element_ty == tl.bfloat16:
        bits = value.to(tl.float32).to(tl.uint32, bitcast=True)
        even = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        value = tl.where(value == value, even.to(tl.float32, bitcast=True), value.to(tl.float32))
    tl.store(pointer, value.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def vector_at(terms: tl.constexpr, t: tl.constexpr, numbers, c, T: tl.constexpr):
    """The entry of a term's vector for channel c (a number or a tile): pos_weight, class weight or alpha; 1 if none."""
    if terms[t].vector == 0:
        return tl.full([], 1.0, T)
    elif terms[t].vector == 1:
        return tl.load(numbers + terms[t].vector_at).to(T)
    else:
        return tl.load(numbers + terms[t].vector_at + c).to(T)


@triton.jit
def with_column(row, k: tl.constexpr, value):
    """`row` with column k set: rows of sums are written as one small vector."""
    return tl.where(tl.arange(0, row.shape[0]) == k, value.to(tl.float64), row)

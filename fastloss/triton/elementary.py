"""exp, log, log1p, pow and the activations: mirrors csrc/math/elementary.h and activation.h.

Values are float32 or float64 tensors. Fused multiply-adds stand only where they are asked for (the kernels are compiled
with enable_fp_fusion=False), so that the same arithmetic gives the same bits in every kernel. float32 exponentials are
the hardware's; its logarithm loses the digits near 1 that a small loss is made of, so those are polynomials.
"""

import triton
import triton.language as tl


@triton.jit
def relu(x):
    return tl.where(x < 0, 0.0, x)


@triton.jit
def sign_(x):
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)


@triton.jit
def exp_minus(a):
    return tl.exp(-a)


@triton.jit
def log_(x):
    """log of a positive normal number."""
    if x.dtype == tl.float64:
        return tl.log(x)
    else:
        bits = x.to(tl.uint32, bitcast=True)
        shifted = bits - 0x3F3504F3  # exponent of x / sqrt(1/2)
        n = (shifted.to(tl.int32, bitcast=True) >> 23).to(tl.float32)
        m = ((shifted & 0x007FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
        p = tl.fma(m, 7.0376836292e-2, -1.1514610310e-1)
        p = tl.fma(p, m, 1.1676998740e-1)
        p = tl.fma(p, m, -1.2420140846e-1)
        p = tl.fma(p, m, 1.4249322787e-1)
        p = tl.fma(p, m, -1.6668057665e-1)
        p = tl.fma(p, m, 2.0000714765e-1)
        p = tl.fma(p, m, -2.4999993993e-1)
        p = tl.fma(p, m, 3.3333331174e-1)
        m2 = m * m
        y = tl.fma(p * m, m2, tl.fma(n, -2.12194440e-4, -0.5 * m2))
        return tl.fma(n, 0.693359375, m + y) + (x - x)  # the last term keeps a NaN, which the bits would hide


@triton.jit
def log1p_unit(e):
    """log(1 + e) for e in [0, 1], with full relative accuracy at 0."""
    if e.dtype == tl.float64:
        u = 1.0 + e
        return tl.log(u) + (e - (u - 1.0)) / u
    else:
        p = tl.fma(e, 0.005232692696154118, -0.029505232349038124)
        p = tl.fma(p, e, 0.07822594046592712)
        p = tl.fma(p, e, -0.13663244247436523)
        p = tl.fma(p, e, 0.19106006622314453)
        p = tl.fma(p, e, -0.2484298199415207)
        p = tl.fma(p, e, 0.3331909775733948)
        p = tl.fma(p, e, -0.4999949336051941)
        p = tl.fma(p, e, 0.9999999403953552)
        return p * e


@triton.jit
def pow_unit(u, gamma):
    """u^gamma for u in [0, 1], gamma > 0 (0 at 0)."""
    tiny = 2.2250738585072014e-308 if u.dtype == tl.float64 else 1.1754943508222875e-38
    power = exp_minus(tl.abs(gamma * log_(tl.where(u < tiny, tiny, u).to(u.dtype))))
    return tl.where(u > 0, power, u)


@triton.jit
def pow_positive(n, gamma):
    """n^gamma for n >= 0, and any gamma where n > 0 (0 at 0; what is near the largest float, or NaN, stays)."""
    tiny = 2.2250738585072014e-308 if n.dtype == tl.float64 else 1.1754943508222875e-38
    a = gamma * log_(tl.where(n < tiny, tiny, n).to(n.dtype))
    e = exp_minus(tl.abs(a))
    return tl.where((n > 0) & (n < 1e38), tl.where(a > 0, 1.0 / e, e), n)


@triton.jit
def sigmoid(x):
    """(p, q, neg_log_p, neg_log_1mp): sigmoid(x), 1 - sigmoid(x), fully accurate, and minus their logarithms."""
    e = exp_minus(tl.abs(x))
    r = 1.0 / (1.0 + e)
    s = e * r
    positive = x >= 0
    log = log1p_unit(e)
    return tl.where(positive, r, s), tl.where(positive, s, r), log + relu(-x), log + relu(x)


@triton.jit
def softmax_shift(x, top):
    """x - max, and 0 where x equals an infinite maximum: the class that holds it gets probability 1, not NaN."""
    return tl.where(x == top, 0.0, x - top)

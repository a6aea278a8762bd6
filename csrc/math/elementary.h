// exp, log, log1p, pow for the kernels: branch-free in float so that the compiler vectorises them on the CPU, the
// device's instructions on CUDA, libm in double. Relative error of the float versions on the CPU: at most 2 ulp.
//
// Where a bound is needed it is taken on the bits, not by a comparison: gcc follows the constant branch of a comparison
// through everything after it and doubles the loop.
#pragma once
#include "hd.h"

FL_NAMESPACE_BEGIN

// The code is compiled with -ffp-contract=off, so that the same arithmetic gives the same bits in whatever loop it
// stands; where a fused multiply-add is wanted it is asked for. Processors without one round twice.
FL_HD double fma_(double a, double b, double c) {
#if defined(__FMA__) || defined(__CUDA_ARCH__) || defined(__aarch64__)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}
FL_HD float fma_(float a, float b, float c) {
#if defined(__FMA__) || defined(__CUDA_ARCH__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// What the mathematics says about numbers and, on the CPU, about vectors of them (csrc/cpu/vec.h).
template <class T>
FL_HD T add_where(bool c, T sum, T a) {
  return c ? sum + a : sum;
}
template <class T>
FL_HD bool negative(T x) {
  return x < T(0);
}

FL_HD double abs_(double x) { return ::fabs(x); }
FL_HD float abs_(float x) { return ::fabsf(x); }
FL_HD double relu(double x) { return at_least(0.0, x); }
FL_HD double exp_minus(double a) { return ::exp(-a); }
FL_HD double log_(double x) { return ::log(x); }
FL_HD double log1p_unit(double e) { return ::log1p(e); }

// max(0, x). A NaN may become 0: callers add it to a term that has the NaN too.
FL_HD float relu(float x) {
#ifdef __CUDA_ARCH__
  return ::fmaxf(x, 0.0f);
#else
  const int32_t bits = bit_cast<int32_t>(x);
  return bit_cast<float>(bits & ~(bits >> 31));
#endif
}

// 1 / x for x from 2^-100 to 2^100. The device's division costs a call for the sake of other x, and its approximate one
// four instructions for the sake of subnormal x.
FL_HD double inverse(double x) { return 1.0 / x; }
FL_HD float inverse(float x) {
#ifdef __CUDA_ARCH__
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
#else
  return 1.0f / x;
#endif
}

// a / b for b from 2^-100 to 2^100.
FL_HD double quotient(double a, double b) { return a / b; }
FL_HD float quotient(float a, float b) {
#ifdef __CUDA_ARCH__
  return a * inverse(b);
#else
  return a / b;
#endif
}

#ifdef __CUDA_ARCH__
// Two instructions, not the eight of expf: they are what the loops over pixels are made of. Relative error 2^-22 and
// the rounding of the product, up to 3e-7 for a below 5 and 1e-6 below 22.
FL_HD float exp_minus(float a) {
  float e;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(a * -1.44269504f));
  return e;
}
FL_HD float log_(float x) { return ::logf(x); }
FL_HD float exp2_(float a) {
  float e;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(a));
  return e;
}
#elif defined(FASTLOSS_EMULATED)
inline float exp_minus(float a) {  // rounds where the device does
  const float e = ::exp2f(a * -1.44269504f);
  return e < 1.17549435e-38f ? 0.0f : e;
}
inline float log_(float x) { return ::logf(x); }
inline float exp2_(float a) {
  const float e = ::exp2f(a);
  return e < 1.17549435e-38f ? 0.0f : e;
}
#else
FL_HD float exp2_(float a) { return ::exp2f(a); }

constexpr float kExpMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer

// p 2^n, n the lowest bits of t = kExpMagic - a / ln2; 0 where that is below the smallest normal float.
FL_HD float scale_exponent(float p, float t, float) {
  const uint32_t bits = bit_cast<uint32_t>(t);
  const uint32_t normal = bit_cast<uint32_t>(p) + (bits << 23);
  const int32_t above = static_cast<int32_t>(bits - bit_cast<uint32_t>(kExpMagic - 126.0f));  // < 0: below 2^-126
  return bit_cast<float>(normal & ~static_cast<uint32_t>(above >> 31));
}

// exp(-a) for a >= 0, the result of abs_ (a NaN must have its sign cleared).
// -a = n ln2 + r, a minimax polynomial in r (1e-7 relative), then n added to the exponent bits.
template <class F>
FL_HD F exp_minus(F a) {
  const F t = fma_(a, F(-1.44269504f), F(kExpMagic));
  const F n = t - F(kExpMagic);
#if defined(__FMA__) || defined(__aarch64__)
  const F r = fma_(n, F(-0.693147180f), -a);  // the product is not rounded
#else
  const F r = (n * F(-0.693359375f) - a) + n * F(2.12194440e-4f);
#endif
  F p = F(0.008312520571053028f);
  p = fma_(p, r, F(0.04189015552401543f));
  p = fma_(p, r, F(0.16667114198207855f));
  p = fma_(p, r, F(0.499992311000824f));
  p = fma_(p, r, F(1.0f));
  p = fma_(p, r, F(1.0f));
  return scale_exponent(p, t, a);
}

// x = 2^n (1 + m), m around 0
FL_HD void split_exponent(float x, float* n, float* m) {
  const uint32_t shifted = bit_cast<uint32_t>(x) - 0x3f3504f3u;  // exponent of x / sqrt(1/2)
  *n = static_cast<float>(static_cast<int32_t>(shifted) >> 23);
  *m = bit_cast<float>((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
}

// log of a positive normal float; the last term keeps a NaN, which the bits would hide.
template <class F>
FL_HD F log_(F x) {
  F n, m;
  split_exponent(x, &n, &m);
  F p = F(7.0376836292e-2f);
  p = fma_(p, m, F(-1.1514610310e-1f));
  p = fma_(p, m, F(1.1676998740e-1f));
  p = fma_(p, m, F(-1.2420140846e-1f));
  p = fma_(p, m, F(1.4249322787e-1f));
  p = fma_(p, m, F(-1.6668057665e-1f));
  p = fma_(p, m, F(2.0000714765e-1f));
  p = fma_(p, m, F(-2.4999993993e-1f));
  p = fma_(p, m, F(3.3333331174e-1f));
  const F m2 = m * m;
  const F y = fma_(p * m, m2, fma_(n, F(-2.12194440e-4f), F(-0.5f) * m2));
  return fma_(n, F(0.693359375f), m + y) + (x - x);
}
#endif

// log(1 + e) for e in [0, 1], minimax in e with full relative accuracy at 0.
template <class F>
FL_HD F log1p_unit(F e) {
  F p = F(0.005232692696154118f);
  p = fma_(p, e, F(-0.029505232349038124f));
  p = fma_(p, e, F(0.07822594046592712f));
  p = fma_(p, e, F(-0.13663244247436523f));
  p = fma_(p, e, F(0.19106006622314453f));
  p = fma_(p, e, F(-0.2484298199415207f));
  p = fma_(p, e, F(0.3331909775733948f));
  p = fma_(p, e, F(-0.4999949336051941f));
  p = fma_(p, e, F(0.9999999403953552f));
  return p * e;
}

template <class T>
FL_HD T sign_(T x) {
  return select_(x > T(0), T(1), select_(x < T(0), T(-1), T(0)));
}

FL_HD float at_least_tiny(float u) {
  const int32_t bits = bit_cast<int32_t>(u), tiny = 0x00800000;
  return bit_cast<float>(bits < tiny ? tiny : bits);
}
FL_HD double at_least_tiny(double u) { return at_least(2.2250738585072014e-308, u); }

// u^gamma for u in [0, 1], gamma > 0 (0 at 0).
template <class T>
FL_HD T pow_unit(T u, T gamma) {
  const T power = exp_minus(abs_(gamma * log_(at_least_tiny(u))));
  return select_(u > T(0), power, u);  // 0, or NaN
}
#ifdef __CUDA_ARCH__
// Three instructions for forty. The error of the logarithm, 2^-22 of it, is what the product's rounding costs anyway.
FL_HD float pow_unit(float u, float gamma) {
  float log;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(log) : "f"(u));
  return exp2_(gamma * log);
}
#elif defined(FASTLOSS_EMULATED)
inline float pow_unit(float u, float gamma) { return exp2_(gamma * ::log2f(u)); }
#endif

// n^gamma for n >= 0, and any gamma where n > 0 (0 at 0; what is near the largest float, or NaN, stays).
template <class T>
FL_HD T pow_positive(T n, T gamma) {
  const T a = gamma * log_(at_least_tiny(n)), e = exp_minus(abs_(a));
  const T power = select_(a > T(0), T(1) / e, e);
  return select_(n > T(0), select_(n < T(1e38), power, n), n);
}

FL_NAMESPACE_END

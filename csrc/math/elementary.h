// exp, log, log1p, pow for the kernels: branch-free in float so that the compiler vectorises them on the CPU, the device
// library's versions on CUDA, libm in double. Relative error of the float versions: at most 2 ulp.
#pragma once
#include "hd.h"

FL_NAMESPACE_BEGIN

FL_HD double exp_(double x) { return ::exp(x); }
FL_HD double log_(double x) { return ::log(x); }
FL_HD double log1p_unit(double e) { return ::log1p(e); }

#ifdef __CUDA_ARCH__
FL_HD float exp_(float x) { return ::expf(x); }
FL_HD float log_(float x) { return ::logf(x); }
FL_HD float log1p_unit(float e) { return ::log1pf(e); }
#else
// Cephes' scheme: x = n ln2 + r, a polynomial in r, then n added to the exponent bits. Clamped to normal results, so
// exp_(-inf) is 1e-38, not 0.
FL_HD float exp_(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
  x = at_most(88.37f, at_least(-87.33f, x));
  const float t = x * 1.44269504f + kMagic;
  const float n = t - kMagic;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // unsigned: the shift drops the magic's bits and must be allowed to wrap
  return bit_cast<float>(bit_cast<uint32_t>(p) + (bit_cast<uint32_t>(t) << 23));
}

// log of a positive normal float.
FL_HD float log_(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t shifted = bits - 0x3f3504f3u;  // exponent of x / sqrt(1/2)
  const float n = static_cast<float>(static_cast<int32_t>(shifted) >> 23);
  const float m = bit_cast<float>((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const float m2 = m * m;
  const float y = p * m * m2 - 2.12194440e-4f * n - 0.5f * m2;
  return m + y + 0.693359375f * n;
}

// log(1 + e) for e in [0, 1], minimax in e with full relative accuracy at 0.
FL_HD float log1p_unit(float e) {
  float p = 0.005232692696154118f;
  p = p * e - 0.029505232349038124f;
  p = p * e + 0.07822594046592712f;
  p = p * e - 0.13663244247436523f;
  p = p * e + 0.19106006622314453f;
  p = p * e - 0.2484298199415207f;
  p = p * e + 0.3331909775733948f;
  p = p * e - 0.4999949336051941f;
  p = p * e + 0.9999999403953552f;
  return p * e;
}
#endif

template <class T>
FL_HD T abs_(T x) {
  return x < T(0) ? -x : x;
}
template <class T>
FL_HD T sign_(T x) {
  return x > T(0) ? T(1) : (x < T(0) ? T(-1) : T(0));
}

// u^gamma for u in [0, 1], gamma > 0 (0 at 0).
template <class T>
FL_HD T pow_unit(T u, T gamma) {
  constexpr T kTiny = T(1.17549435e-38);
  const T power = exp_(gamma * log_(at_least(kTiny, u)));
  return u > T(0) || u != u ? power : T(0);
}

FL_NAMESPACE_END

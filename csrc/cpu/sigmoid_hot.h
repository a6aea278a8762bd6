// The sums of unmasked region terms and at most one pointwise term in a single loop, nothing laid down in L1 between
// them: what most calls are. Labels are read as bytes where they are bytes. sigmoid.h has the general form of the same
// arithmetic.
#pragma once
#include "sigmoid.h"

FL_NAMESPACE_BEGIN

struct NoElement {};

struct HotSums {
  double inter = 0, pred = 0, target = 0, pointwise = 0;
};

// With kGrad writes scale * derivative of the pointwise term to g; without one p (1 - p), from which the region
// gradient follows by a factor.
template <bool kRegion, bool kGrad, class T, class Label, class Element>
inline HotSums hot_loop(const T* __restrict x, const Label* __restrict y, int64_t n, T* __restrict g, T scale,
                        const Element element) {
  constexpr bool kPointwise = !std::is_same<Element, NoElement>::value;
  T inter = 0, pred = 0, target = 0, total = 0;
#pragma omp simd reduction(+ : inter, pred, target, total)
  for (int64_t i = 0; i < n; ++i) {
    const Sigmoid<T> a = sigmoid<kPointwise>(x[i]);
    const T label = static_cast<T>(y[i]);
    if (kRegion) inter += a.p * label, pred += a.p, target += label;
    if constexpr (kPointwise) {
      total += element.value(a.p, a.q, a.nlp, a.nlq, label);
      if (kGrad) g[i] = scale * element.slope(a.p, a.q, a.nlp, a.nlq, label);
    } else if (kGrad) {
      g[i] = a.p * a.q;
    }
  }
  return {inter, pred, target, total};
}

// g holds p (1 - p): times dL/dp.
template <class T, class Label>
inline void scale_region(const Label* __restrict y, int64_t n, T* __restrict g, T pred, T inter) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) g[i] *= fma_(inter, static_cast<T>(y[i]), pred);
}

// g holds scale (p - y) of a hard-label BCE: |p - y| is u = 1 - p_t, and p (1 - p) = u (1 - u).
template <class T, class Label>
inline void add_region_from_bce(const Label* __restrict y, int64_t n, T* __restrict g, T inverse_scale, T pred,
                                T inter) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const T u = abs_(g[i] * inverse_scale);
    g[i] = fma_(u * (T(1) - u), fma_(inter, static_cast<T>(y[i]), pred), g[i]);
  }
}

// g += p (1 - p) dL/dp, from the logits: the bits of region_grad.
template <class T, class Label>
inline void add_region(const T* __restrict x, const Label* __restrict y, int64_t n, T* __restrict g, T pred, T inter) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const Sigmoid<T> a = sigmoid<false>(x[i]);
    g[i] = fma_(a.p * a.q, fma_(inter, static_cast<T>(y[i]), pred), g[i]);
  }
}

FL_NAMESPACE_END

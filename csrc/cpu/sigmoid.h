// Binary and multilabel: one plane at a time. A chunk is loaded, the sigmoid's parts are laid down in L1, and every
// term is one loop over them; so any sum of terms costs one pass over the logits.
#pragma once
#include "../math/elements.h"
#include "../math/topk.h"
#include "blocks.h"

FL_NAMESPACE_BEGIN

template <class T>
struct SigmoidScratch {
  alignas(64) T x[kChunk], y[kChunk], valid[kChunk], weight[kChunk], p[kChunk], q[kChunk], neg_log_p[kChunk],
      neg_log_1mp[kChunk], g[kChunk], pick[kChunk], value[kChunk];
};

// A loaded chunk. `valid` and `weight` (validity times pixel weight) are only filled where elements are masked.
template <class T>
struct SigmoidChunk {
  const T* x;
  SigmoidScratch<T>& s;
  T* g;  // the gradient, in the output itself where that is a run of T
  int64_t n, at;
  bool hard;
};

template <bool kLogs, class T>
inline void activate(const SigmoidChunk<T>& k) {
  const T* __restrict x = k.x;
  T* __restrict p = k.s.p, * __restrict q = k.s.q, * __restrict neg_log_p = k.s.neg_log_p, * __restrict neg_log_1mp = k.s.neg_log_1mp;
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) {
    const Sigmoid<T> a = sigmoid<kLogs>(x[i]);
    p[i] = a.p, q[i] = a.q;
    if (kLogs) neg_log_p[i] = a.neg_log_p, neg_log_1mp[i] = a.neg_log_1mp;
  }
}

// One function, so that a sum has the same bits whatever else the loop did that made its elements.
template <class T>
__attribute__((noinline)) T sum_of_row(const T* __restrict row, int64_t n) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < n; ++i) total += row[i];
  return total;
}

// One pointwise term over a chunk. With kGrads adds scale * slope to g, with kStore writes the values to pick.
template <int kMode, bool kMasked, class T, class Element>
inline T pointwise_loop(const SigmoidChunk<T>& k, const T* __restrict weight, T scale, const Element element) {
  const T* __restrict p = k.s.p, * __restrict q = k.s.q, * __restrict y = k.s.y;
  const T* __restrict neg_log_p = k.s.neg_log_p, * __restrict neg_log_1mp = k.s.neg_log_1mp;
  T* __restrict g = k.g, * __restrict out = kMode & kStore ? k.s.pick : k.s.value;
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) {
    const T w = kMasked ? weight[i] : T(1);
    if (kMode & (kValues | kStore)) out[i] = w * element.value(p[i], q[i], neg_log_p[i], neg_log_1mp[i], y[i]);
    if (kMode & kGrads) g[i] = fma_(w * scale, element.slope(p[i], q[i], neg_log_p[i], neg_log_1mp[i], y[i]), g[i]);
  }
  return kMode & kValues ? sum_of_row(out, k.n) : T(0);
}

template <int kMode, bool kMasked, FocalPower kPower, class T>
inline T focal_loop(const SigmoidChunk<T>& k, const T* weight, T scale, T gamma, T on, T off, bool margin) {
  if (margin && !k.hard)
    return pointwise_loop<kMode, kMasked>(k, weight, scale, MarginElement<kPower, T>{gamma, on, off});
  return k.hard ? pointwise_loop<kMode, kMasked>(k, weight, scale, FocalElement<kPower, true, T>{gamma, on, off})
                : pointwise_loop<kMode, kMasked>(k, weight, scale, FocalElement<kPower, false, T>{gamma, on, off});
}

// A pointwise term of any kind; `weight` selects (top-k) or masks. Returns the sum of its elements.
template <int kMode, bool kMasked, class T>
inline T pointwise_term_loop(const SigmoidChunk<T>& k, const Term& t, int64_t c, const T* weight, double coefficient) {
  const T scale = static_cast<T>(coefficient), on = static_cast<T>(t.kind == kTopk ? 1.0 : t.vector_at(c, 1.0));
  const T smoothing = static_cast<T>(t.label_smoothing), gamma = static_cast<T>(t.gamma);
  if (t.kind == kPoly)
    return pointwise_loop<kMode, kMasked>(k, weight, scale, PolyElement<T>{on, smoothing, static_cast<T>(t.eps)});
  if (t.kind == kLogPower) return pointwise_loop<kMode, kMasked>(k, weight, scale, LogPowerElement<T>{on, gamma});
  if (t.kind == kBoundary) return pointwise_loop<kMode, kMasked>(k, weight, scale, LinearElement<T>{on});
  if (t.kind != kFocal) return pointwise_loop<kMode, kMasked>(k, weight, scale, BceElement<T>{on, smoothing});
  const T off = t.vector ? T(1) - on : T(1);
  if (t.gamma == 2.0) return focal_loop<kMode, kMasked, kPower2>(k, weight, scale, gamma, on, off, t.margin);
  if (t.gamma == 1.0) return focal_loop<kMode, kMasked, kPower1>(k, weight, scale, gamma, on, off, t.margin);
  if (t.gamma == 0.0) return focal_loop<kMode, kMasked, kPower0>(k, weight, scale, gamma, on, off, t.margin);
  return focal_loop<kMode, kMasked, kPowerAny>(k, weight, scale, gamma, on, off, t.margin);
}

template <bool kMasked, bool kExtra, class T>
inline void region_sums(const SigmoidChunk<T>& k, double* sums) {
  const T* __restrict p = k.s.p, * __restrict y = k.s.y, * __restrict valid = k.s.valid;
  T inter = 0, pred = 0, target = 0, pred_sq = 0, target_sq = 0, diff = 0, cross = 0;
#pragma omp simd reduction(+ : inter, pred, target, pred_sq, target_sq, diff, cross)
  for (int64_t i = 0; i < k.n; ++i) {
    const T pi = kMasked ? valid[i] * p[i] : p[i];
    inter += pi * y[i], pred += pi, target += y[i];
    if (kExtra) pred_sq += pi * pi, target_sq += y[i] * y[i], diff += abs_(pi - y[i]), cross += pi * pi * y[i];
  }
  sums[kInter] += inter, sums[kPred] += pred, sums[kTarget] += target;
  if (!kExtra) return;
  sums[kPredSq] += pred_sq, sums[kTargetSq] += target_sq, sums[kAbsDiff] += diff, sums[kPredSqTarget] += cross;
}

// g += p (1 - p) dL/dp with dL/dp = pred + inter y + 2 (pred_sq + pred_sq_target y) p + diff sign(p - y)
template <bool kMasked, bool kExtra, class T>
inline void add_region_grad(const SigmoidChunk<T>& k, const double* d, double grad_output) {
  const T* __restrict p = k.s.p, * __restrict q = k.s.q, * __restrict y = k.s.y, * __restrict valid = k.s.valid;
  T* __restrict g = k.g;
  const T inter = static_cast<T>(grad_output * d[kInter]), pred = static_cast<T>(grad_output * d[kPred]),
          square = static_cast<T>(2.0 * grad_output * d[kPredSq]), diff = static_cast<T>(grad_output * d[kAbsDiff]),
          cross = static_cast<T>(2.0 * grad_output * d[kPredSqTarget]);
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) {
    const T grad = region_grad<kExtra>(p[i], y[i], inter, pred, square, cross, diff);
    g[i] = fma_(p[i] * q[i], kMasked ? grad * valid[i] : grad, g[i]);
  }
}

// The same where g holds p (1 - p).
template <class T>
inline void scale_region(const SigmoidChunk<T>& k, T pred, T inter) {
  const T* __restrict y = k.s.y;
  T* __restrict g = k.g;
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) g[i] *= fma_(inter, y[i], pred);
}

template <class T>
inline void count_chunk(const SigmoidChunk<T>& k, bool masked, T logit_threshold, double* counts) {
  int64_t tp = 0, fp = 0, fn = 0, all = 0;
  for (int64_t i = 0; i < k.n; ++i) {
    const int use = !masked || k.s.valid[i] != T(0), on = k.x[i] >= logit_threshold, truth = k.s.y[i] >= T(0.5);
    tp += use & on & truth, fp += use & on & !truth, fn += use & !on & truth, all += use;
  }
  counts[0] += tp, counts[1] += fp, counts[2] += fn, counts[3] += all - tp - fp - fn;
}

FL_NAMESPACE_END

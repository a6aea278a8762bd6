// Multiclass, one chunk of pixels with all its channels in L1. Two forms: class ids, where only the target class has a
// pointwise gradient of its own, and dense, where every class has a label (probabilities, label smoothing).
#pragma once
#include <limits>
#include <memory>

#include "../math/elements.h"
#include "../math/topk.h"
#include "blocks.h"

FL_NAMESPACE_BEGIN

// Rows of channels are `stride` apart; arrays per pixel have kLongRow elements.
template <class T>
struct SoftmaxScratch {
  int64_t stride;
  std::unique_ptr<T[]> storage;
  T *p, *z, *y, *h, *row;  // [C, stride]; z, y and h only in the dense form; row: one channel of output
  T *max, *inv, *lse, *nll, *miss, *valid, *weight, *slope, *dot, *pick, *class_weight;  // [kLongRow]
  alignas(64) int32_t id[kLongRow], arg[kLongRow];

  SoftmaxScratch(int64_t channels, bool dense) : stride(pixels(channels, dense)) {
    const int64_t plane = channels * stride;
    storage.reset(new T[(dense ? 4 : 1) * plane + 12 * kLongRow + 16]);  // not zeroed: of a chunk all is written first
    T* at = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(storage.get()) + 63) & ~uintptr_t(63));
    p = at, at += plane;
    z = y = h = p;
    if (dense) z = at, y = z + plane, h = y + plane, at = h + plane;
    for (T** a : {&row, &max, &inv, &lse, &nll, &miss, &valid, &weight, &slope, &dot, &pick, &class_weight})
      *a = at, at += kLongRow;
  }
  static int64_t pixels(int64_t channels, bool dense) {
    const int64_t fit = 131072 / static_cast<int64_t>(sizeof(T)) / (channels * (dense ? 4 : 1)) / 16 * 16;
    return fit < 128 ? 128 : (fit > kLongRow ? kLongRow : fit);
  }
};

template <class T>
struct SoftmaxChunk {
  SoftmaxScratch<T>& s;
  int64_t n, channels;
};

// Runs loop(begin, end) over the chunk and asks for the row that `next` points at (if any) a few lines at a time: rows
// lie in pages of their own, too short for the hardware to run ahead, and a burst of requests would fill its queue.
template <class T, class Loop>
inline void with_prefetch(int64_t n, const T* next, const Loop& loop) {
  constexpr int64_t kLine = 64 / sizeof(T), kStrip = 8 * kLine;
  if (!next) return loop(int64_t(0), n);
  for (int64_t i = 0; i < n; i += kStrip) {
    for (int64_t j = i; j < i + kStrip; j += kLine) __builtin_prefetch(next + j, 0, 2);
    loop(i, i + kStrip < n ? i + kStrip : n);
  }
}

// One channel's logits into its row, and the maximum (and, for counts, its channel) so far.
template <bool kArgmax, class T>
inline void take_row(const SoftmaxChunk<T>& k, const T* x, T* p, int64_t c) {
  T* __restrict max = k.s.max;
  int32_t* __restrict arg = k.s.arg;
  if (c == 0) {
    for (int64_t i = 0; i < k.n; ++i) p[i] = max[i] = x[i];
    if (kArgmax) memset(arg, 0, k.n * sizeof(int32_t));
    return;
  }
  if (kArgmax)
    for (int64_t i = 0; i < k.n; ++i) arg[i] = x[i] > max[i] ? static_cast<int32_t>(c) : arg[i];
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) {
    const T v = x[i];
    p[i] = v;
    max[i] = v <= max[i] ? max[i] : v;
  }
}

// Exponentials of one channel, in place.
template <bool kKeepShift, bool kInfinite, class T>
inline void exponentiate(const SoftmaxChunk<T>& k, int64_t c, const T* next) {
  const T* __restrict max = k.s.max;
  T* __restrict p = k.s.p + c * k.s.stride, * __restrict z = k.s.z + c * k.s.stride, * __restrict sum = k.s.inv;
  with_prefetch(k.n, next, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const T shifted = softmax_shift<kInfinite>(p[i], max[i]);
      const T e = exp_minus(abs_(shifted));
      p[i] = e;
      if (kKeepShift) z[i] = shifted;
      sum[i] += e;
    }
  });
}

// The end of a softmax: sums become their inverses, exponentials probabilities. Of the target class nll = -log p_t and,
// where a term asks for it, miss = 1 - p_t; nll holds its distance from the maximum before.
template <class T>
inline void normalize(const SoftmaxChunk<T>& k, bool misses) {
  SoftmaxScratch<T>& s = k.s;
  T* __restrict sum = s.inv, * __restrict lse = s.lse, * __restrict nll = s.nll, * __restrict miss = s.miss;
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) {
    lse[i] = log_(sum[i]);
    sum[i] = T(1) / sum[i];
    nll[i] += lse[i];
  }
#pragma omp simd
  for (int64_t i = 0; i < (misses ? k.n : 0); ++i) miss[i] = relu(T(1) - exp_minus(abs_(nll[i])));
  const T* __restrict inv = s.inv;
  for (int64_t c = 0; c < k.channels; ++c) {
    T* __restrict p = s.p + c * s.stride;
    for (int64_t i = 0; i < k.n; ++i) p[i] *= inv[i];
  }
}

// From the rows of logits and their maximum: p of all channels, lse, and for ids nll and miss. `next`, if not null, is
// the first row of the next chunk's logits.
template <bool kIds, class T>
inline void activate(const SoftmaxChunk<T>& k, const T* next, int64_t next_stride, bool misses) {
  SoftmaxScratch<T>& s = k.s;
  T* __restrict max = s.max, * __restrict sum = s.inv, * __restrict nll = s.nll;
  int finite = 1;
  for (int64_t i = 0; i < k.n; ++i) {
    finite &= abs_(max[i]) <= std::numeric_limits<T>::max();
    sum[i] = nll[i] = T(0);
  }
  if (kIds) {
    const T* __restrict p = s.p;
    const int32_t* __restrict id = s.id;
    const int32_t stride = static_cast<int32_t>(s.stride), n = static_cast<int32_t>(k.n);
    if (k.channels <= 8) {  // a comparison for each of a few channels costs less than a gather
      for (int32_t c = 0; c < k.channels; ++c) {
        const T* __restrict row = p + c * stride;
#pragma omp simd
        for (int32_t i = 0; i < n; ++i) {
          const T v = row[i];
          nll[i] = id[i] == c ? v : nll[i];
        }
      }
    } else {
#pragma omp simd
      for (int32_t i = 0; i < n; ++i) nll[i] = p[(id[i] < 0 ? 0 : id[i]) * stride + i];
    }
    for (int64_t i = 0; finite && i < k.n; ++i) nll[i] = max[i] - nll[i];
    for (int64_t i = 0; !finite && i < k.n; ++i) nll[i] = -softmax_shift<true>(nll[i], max[i]);
  }
  for (int64_t c = 0; c < k.channels; ++c) {
    const T* row = next ? next + c * next_stride : nullptr;
    if (finite)
      exponentiate<!kIds, false>(k, c, row);
    else
      exponentiate<!kIds, true>(k, c, row);
  }
  normalize(k, misses);
}

// One of them over a chunk. With kGrads adds scale * h to slope, with kStore writes the values to pick.
template <int kMode, class T, class Element>
inline T target_loop(const SoftmaxChunk<T>& k, const T* __restrict weight, T scale, const Element element) {
  const T* __restrict nll = k.s.nll, * __restrict miss = k.s.miss, * __restrict cw = k.s.class_weight;
  T* __restrict slope = k.s.slope, * __restrict pick = k.s.pick;
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < k.n; ++i) {
    if (kMode & kValues) total += weight[i] * element.value(nll[i], miss[i], cw[i]);
    if (kMode & kStore) pick[i] = weight[i] * element.value(nll[i], miss[i], cw[i]);
    if (kMode & kGrads) slope[i] = fma_(weight[i] * scale, element.slope(nll[i], miss[i], cw[i]), slope[i]);
  }
  return total;
}

// Any pointwise term on class ids; class_weight holds the target class's weight or alpha.
template <int kMode, class T>
inline T target_term(const SoftmaxChunk<T>& k, const Term& t, const T* weight, double coefficient) {
  const T scale = static_cast<T>(coefficient), gamma = static_cast<T>(t.gamma);
  if (t.kind != kFocal) return target_loop<kMode>(k, weight, scale, CeElement());
  if (t.gamma == 2.0) return target_loop<kMode>(k, weight, scale, FocalTargetElement<kPower2, T>{gamma});
  if (t.gamma == 1.0) return target_loop<kMode>(k, weight, scale, FocalTargetElement<kPower1, T>{gamma});
  if (t.gamma == 0.0) return target_loop<kMode>(k, weight, scale, FocalTargetElement<kPower0, T>{gamma});
  return target_loop<kMode>(k, weight, scale, FocalTargetElement<kPowerAny, T>{gamma});
}

// The same in the dense form, where every class has a label: h_c = y_c p_c dL/dp_c goes to h[c] and its sum over c to
// slope; the element's value, summed over channels, to total.
template <int kMode, class T, class Element>
inline void dense_loop(const SoftmaxChunk<T>& k, const Term& t, const T* __restrict weight, T scale,
                       const Element element, T* __restrict total) {
  const T keep = static_cast<T>(1.0 - t.label_smoothing), spread = static_cast<T>(t.label_smoothing / k.channels);
  const T* __restrict lse = k.s.lse;
  T* __restrict slope = k.s.slope;
  for (int64_t c = 0; c < k.channels; ++c) {
    const T* __restrict p = k.s.p + c * k.s.stride, * __restrict z = k.s.z + c * k.s.stride, * __restrict y = k.s.y + c * k.s.stride;
    T* __restrict h = k.s.h + c * k.s.stride;
    const T cw = static_cast<T>(t.vector_at(c, 1.0));
#pragma omp simd
    for (int64_t i = 0; i < k.n; ++i) {
      const T nll = lse[i] - z[i], u = relu(T(1) - p[i]), label = fma_(y[i], keep, spread);
      if (kMode & (kValues | kStore)) {
        const T value = label * element.value(nll, u, cw) * weight[i];
        total[i] += label != T(0) ? value : T(0);
      }
      if (kMode & kGrads) {
        const T add = label * element.slope(nll, u, cw) * weight[i] * scale;
        h[i] += add;
        slope[i] += add;
      }
    }
  }
}

template <int kMode, class T>
inline void dense_term(const SoftmaxChunk<T>& k, const Term& t, const T* weight, double coefficient, T* total) {
  const T scale = static_cast<T>(coefficient), gamma = static_cast<T>(t.gamma);
  if (t.kind != kFocal)
    dense_loop<kMode>(k, t, weight, scale, CeElement(), total);
  else if (t.gamma == 2.0)
    dense_loop<kMode>(k, t, weight, scale, FocalTargetElement<kPower2, T>{gamma}, total);
  else if (t.gamma == 1.0)
    dense_loop<kMode>(k, t, weight, scale, FocalTargetElement<kPower1, T>{gamma}, total);
  else if (t.gamma == 0.0)
    dense_loop<kMode>(k, t, weight, scale, FocalTargetElement<kPower0, T>{gamma}, total);
  else
    dense_loop<kMode>(k, t, weight, scale, FocalTargetElement<kPowerAny, T>{gamma}, total);
}

// The label of channel c: an id compared, or the probability.
template <bool kDense, class T>
FL_HD T label_of(const int32_t* id, const T* y, int64_t i, int32_t c) {
  return kDense ? y[i] : (id[i] == c ? T(1) : T(0));
}

template <bool kDense, bool kMasked, bool kExtra, class T>
inline void class_sums(const SoftmaxChunk<T>& k, int32_t c, double* sums) {
  const T* __restrict p = k.s.p + c * k.s.stride, * __restrict y = k.s.y + c * k.s.stride, * __restrict valid = k.s.valid;
  const int32_t* __restrict id = k.s.id;
  T inter = 0, pred = 0, target = 0, pred_sq = 0, target_sq = 0, diff = 0;
#pragma omp simd reduction(+ : inter, pred, target, pred_sq, target_sq, diff)
  for (int64_t i = 0; i < k.n; ++i) {
    const T pi = kMasked ? p[i] * valid[i] : p[i], yi = label_of<kDense>(id, y, i, c);
    inter += kDense ? pi * yi : (id[i] == c ? pi : T(0));
    pred += pi, target += yi;
    if (kExtra) pred_sq += pi * pi, target_sq += yi * yi, diff += abs_(pi - yi);
  }
  sums[kInter] += inter, sums[kPred] += pred, sums[kTarget] += target;
  if (kExtra) sums[kPredSq] += pred_sq, sums[kTargetSq] += target_sq, sums[kAbsDiff] += diff;
}

// dot += sum over channels of p_c dL/dp_c
template <bool kDense, bool kExtra, class T>
inline void region_dot(const SoftmaxChunk<T>& k, int32_t c, const double* d, double upstream, const T* next) {
  const T* __restrict p = k.s.p + c * k.s.stride, * __restrict y = k.s.y + c * k.s.stride;
  const int32_t* __restrict id = k.s.id;
  T* __restrict dot = k.s.dot;
  const T inter = static_cast<T>(upstream * d[kInter]), pred = static_cast<T>(upstream * d[kPred]),
          square = static_cast<T>(2.0 * upstream * d[kPredSq]), diff = static_cast<T>(upstream * d[kAbsDiff]);
  with_prefetch(k.n, next, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i)
      dot[i] = fma_(p[i], region_slope<kDense, kExtra>(p[i], label_of<kDense>(id, y, i, c), inter, pred, square, diff),
                    dot[i]);
  });
}

// g_c = p_c (dL/dp_c - dot - slope) + h_c, with h_c = y_c slope for ids
template <bool kDense, bool kMasked, bool kExtra, class T>
inline void class_grad(const SoftmaxChunk<T>& k, int32_t c, const double* d, double upstream, T* __restrict g) {
  const T* __restrict p = k.s.p + c * k.s.stride, * __restrict y = k.s.y + c * k.s.stride, * __restrict h = k.s.h + c * k.s.stride, * __restrict dot = k.s.dot, * __restrict slope = k.s.slope, * __restrict valid = k.s.valid;
  const int32_t* __restrict id = k.s.id;
  const T inter = static_cast<T>(upstream * d[kInter]), pred = static_cast<T>(upstream * d[kPred]),
          square = static_cast<T>(2.0 * upstream * d[kPredSq]), diff = static_cast<T>(upstream * d[kAbsDiff]);
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) {
    const T yi = label_of<kDense>(id, y, i, c);
    const T region = region_slope<kDense, kExtra>(p[i], yi, inter, pred, square, diff) - dot[i];
    const T own = kDense ? h[i] : yi * slope[i];
    const T regional = kMasked ? region * valid[i] : region;
    g[i] = fma_(p[i], regional - slope[i], own);
  }
}

// The same without region terms.
template <bool kDense, class T>
inline void target_grad(const SoftmaxChunk<T>& k, int32_t c, T* __restrict g) {
  const T* __restrict p = k.s.p + c * k.s.stride, * __restrict h = k.s.h + c * k.s.stride, * __restrict slope = k.s.slope;
  const int32_t* __restrict id = k.s.id;
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) {
    const T own = kDense ? h[i] : (id[i] == c ? slope[i] : T(0));
    g[i] = fma_(-p[i], slope[i], own);
  }
}

FL_NAMESPACE_END

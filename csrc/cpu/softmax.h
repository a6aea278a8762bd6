// Multiclass, one chunk of pixels: what happens once for each pixel, and the dense form, in which every class has a
// label (probabilities, label smoothing). softmax_fast.h has the form for class ids, where only the target class has a
// pointwise gradient of its own.
#pragma once
#include <limits>
#include <memory>

#include "../math/elements.h"
#include "../math/topk.h"
#include "blocks.h"

FL_NAMESPACE_BEGIN

constexpr int kStripSums = 6;  // inter, pred, target; pred squared, |p - y|, pred squared of the target

// What region terms' gradient needs of a class: dL/dp = pred + inter y + (square + cross y) p + diff sign(p - y).
template <class T>
struct ClassLine {
  T pred, inter, both, square, cross, diff;
  ClassLine() = default;
  ClassLine(const double* d, double grad_output)
      : pred(static_cast<T>(grad_output * d[kPred])),
        inter(static_cast<T>(grad_output * d[kInter])),
        both(pred + inter),
        square(static_cast<T>(2.0 * grad_output * d[kPredSq])),
        cross(static_cast<T>(2.0 * grad_output * d[kPredSqTarget])),
        diff(static_cast<T>(grad_output * d[kAbsDiff])) {}
};

// Rows of channels are `stride` apart and hold `length` pixels; arrays per pixel have kLongRow elements.
template <class T>
struct SoftmaxScratch {
  int64_t length, stride, block_pixels;
  std::unique_ptr<T[]> storage;
  std::unique_ptr<ClassLine<T>[]> lines;  // [C]
  T *p, *z, *y, *h, *row;                 // [C, stride]; z, y and h only in the dense form; row: one channel of output
  T *block, *sums;                        // of class ids: [C, block_pixels], and vectors of sums [C, kStripSums]
  T *max, *inv, *lse, *nll, *miss, *valid, *weight, *slope, *dot, *pick, *class_weight;  // [kLongRow]
  alignas(64) int32_t id[kLongRow], arg[kLongRow];

  // rows: all channels of a chunk lie in `p` between two loops, so that they must fit the L2 cache.
  SoftmaxScratch(int64_t channels, bool dense, bool rows)
      : length(rows ? fitting(131072, channels * (dense ? 4 : 1)) : kLongRow),
        stride(length + kStrip),  // not a power of two: rows would share the sets of a cache
        block_pixels(channels <= 32 ? 2 * kStrip : 4 * kStrip),  // as measured: fewer pages or longer runs
        lines(new ClassLine<T>[channels]) {
    const int64_t plane = channels * stride, blocks = channels * (block_pixels + kStripSums * LanesOf<T>::kCount);
    // Not zeroed: of a chunk all is written first, and what is not written takes no memory.
    storage.reset(new T[(dense ? 4 : 1) * plane + 12 * kLongRow + blocks + 16]);
    T* at = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(storage.get()) + 63) & ~uintptr_t(63));
    for (T** a : {&row, &max, &inv, &lse, &nll, &miss, &valid, &weight, &slope, &dot, &pick, &class_weight})
      *a = at, at += kLongRow;
    block = at, at += channels * block_pixels;
    sums = at, at += channels * kStripSums * LanesOf<T>::kCount;
    p = at, at += plane;
    z = y = h = p;
    if (dense) z = at, y = z + plane, h = y + plane;
  }
  static int64_t fitting(int64_t bytes, int64_t rows) {
    const int64_t fit = bytes / static_cast<int64_t>(sizeof(T)) / rows / kStrip * kStrip;
    return fit < 2 * kStrip ? 2 * kStrip : (fit > kLongRow ? kLongRow : fit);
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

// Exponentials of one channel, in place, and its distances from the maximum.
template <bool kInfinite, class T>
inline void exponentiate(const SoftmaxChunk<T>& k, int64_t c, const T* next) {
  const T* __restrict max = k.s.max;
  T* __restrict p = k.s.p + c * k.s.stride, * __restrict z = k.s.z + c * k.s.stride, * __restrict sum = k.s.inv;
  with_prefetch(k.n, next, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const T shifted = softmax_shift<kInfinite>(p[i], max[i]);
      const T e = exp_minus(abs_(shifted));
      p[i] = e;
      z[i] = shifted;
      sum[i] += e;
    }
  });
}

// From the rows of logits and their maximum: p of all channels and lse. `next`, if not null, is the first row of the
// next chunk's logits.
template <class T>
inline void activate(const SoftmaxChunk<T>& k, const T* next, int64_t next_stride) {
  SoftmaxScratch<T>& s = k.s;
  T* __restrict max = s.max, * __restrict sum = s.inv, * __restrict lse = s.lse;
  int finite = 1;
  for (int64_t i = 0; i < k.n; ++i) {
    finite &= abs_(max[i]) <= std::numeric_limits<T>::max();
    sum[i] = T(0);
  }
  for (int64_t c = 0; c < k.channels; ++c) {
    const T* row = next ? next + c * next_stride : nullptr;
    if (finite)
      exponentiate<false>(k, c, row);
    else
      exponentiate<true>(k, c, row);
  }
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) {
    lse[i] = log_(sum[i]);
    sum[i] = T(1) / sum[i];
  }
  const T* __restrict inv = s.inv;
  for (int64_t c = 0; c < k.channels; ++c) {
    T* __restrict p = s.p + c * s.stride;
    for (int64_t i = 0; i < k.n; ++i) p[i] *= inv[i];
  }
}

// 1 - p of the target class of class ids.
template <class T>
inline void misses(const SoftmaxChunk<T>& k) {
  const T* __restrict nll = k.s.nll;
  T* __restrict miss = k.s.miss;
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) miss[i] = relu(T(1) - exp_minus(abs_(nll[i])));
}

// A pointwise term over a chunk of class ids. With kGrads adds scale * h to slope, with kStore writes the values to
// pick.
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
  if (t.kind == kPoly) return target_loop<kMode>(k, weight, scale, PolyTargetElement<T>{static_cast<T>(t.eps)});
  if (t.kind == kLogPower) return target_loop<kMode>(k, weight, scale, LogPowerTargetElement<T>{gamma});
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
    const T* __restrict p = k.s.p + c * k.s.stride, * __restrict z = k.s.z + c * k.s.stride;
    const T* __restrict y = k.s.y + c * k.s.stride;
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

// Of class ids and a matrix of label rows, [C, C]: the element is the sum of matrix[id, c] p_c.
template <int kMode, class T>
inline void matrix_loop(const SoftmaxChunk<T>& k, const Term& t, const T* __restrict weight, T scale,
                        T* __restrict total) {
  const int32_t* __restrict id = k.s.id;
  T* __restrict slope = k.s.slope;
  for (int64_t c = 0; c < k.channels; ++c) {
    const T* __restrict p = k.s.p + c * k.s.stride;
    T* __restrict h = k.s.h + c * k.s.stride;
    for (int64_t i = 0; i < k.n; ++i) {
      if (id[i] < 0) continue;
      const T value = static_cast<T>(t.vector[id[i] * k.channels + c]) * p[i] * weight[i];
      if (kMode & (kValues | kStore)) total[i] += value;
      if (kMode & kGrads) h[i] += value * scale, slope[i] += value * scale;
    }
  }
}

template <int kMode, class T>
inline void dense_term(const SoftmaxChunk<T>& k, const Term& t, const T* weight, double coefficient, T* total) {
  const T scale = static_cast<T>(coefficient), gamma = static_cast<T>(t.gamma);
  if (t.kind == kWasserstein)
    matrix_loop<kMode>(k, t, weight, scale, total);
  else if (t.kind == kBoundary)
    dense_loop<kMode>(k, t, weight, scale, LinearTargetElement(), total);
  else if (t.kind == kPoly)
    dense_loop<kMode>(k, t, weight, scale, PolyTargetElement<T>{static_cast<T>(t.eps)}, total);
  else if (t.kind == kLogPower)
    dense_loop<kMode>(k, t, weight, scale, LogPowerTargetElement<T>{gamma}, total);
  else if (t.kind != kFocal)
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

template <bool kMasked, bool kExtra, class T>
inline void class_sums(const SoftmaxChunk<T>& k, int64_t c, double* sums) {
  const T* __restrict p = k.s.p + c * k.s.stride, * __restrict y = k.s.y + c * k.s.stride;
  const T* __restrict valid = k.s.valid;
  T inter = 0, pred = 0, target = 0, pred_sq = 0, target_sq = 0, diff = 0, cross = 0;
#pragma omp simd reduction(+ : inter, pred, target, pred_sq, target_sq, diff, cross)
  for (int64_t i = 0; i < k.n; ++i) {
    const T pi = kMasked ? p[i] * valid[i] : p[i];
    inter += pi * y[i], pred += pi, target += y[i];
    if (kExtra) pred_sq += pi * pi, target_sq += y[i] * y[i], diff += abs_(pi - y[i]), cross += pi * pi * y[i];
  }
  sums[kInter] += inter, sums[kPred] += pred, sums[kTarget] += target;
  if (!kExtra) return;
  sums[kPredSq] += pred_sq, sums[kTargetSq] += target_sq, sums[kAbsDiff] += diff, sums[kPredSqTarget] += cross;
}

// dot += sum over channels of p_c dL/dp_c
template <bool kExtra, class T>
inline void region_dot(const SoftmaxChunk<T>& k, int64_t c) {
  const T* __restrict p = k.s.p + c * k.s.stride, * __restrict y = k.s.y + c * k.s.stride;
  T* __restrict dot = k.s.dot;
  const ClassLine<T> d = k.s.lines[c];
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i)
    dot[i] = fma_(p[i], region_grad<kExtra>(p[i], y[i], d.inter, d.pred, d.square, d.cross, d.diff), dot[i]);
}

// g_c = p_c (dL/dp_c - dot - slope) + h_c
template <bool kMasked, bool kExtra, class T>
inline void class_grad(const SoftmaxChunk<T>& k, int64_t c, T* __restrict g) {
  const T* __restrict p = k.s.p + c * k.s.stride, * __restrict y = k.s.y + c * k.s.stride;
  const T* __restrict h = k.s.h + c * k.s.stride, * __restrict dot = k.s.dot;
  const T* __restrict slope = k.s.slope, * __restrict valid = k.s.valid;
  const ClassLine<T> d = k.s.lines[c];
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) {
    const T region = region_grad<kExtra>(p[i], y[i], d.inter, d.pred, d.square, d.cross, d.diff) - dot[i];
    g[i] = fma_(p[i], (kMasked ? region * valid[i] : region) - slope[i], h[i]);
  }
}

// The same without region terms.
template <class T>
inline void target_grad(const SoftmaxChunk<T>& k, int64_t c, T* __restrict g) {
  const T* __restrict p = k.s.p + c * k.s.stride, * __restrict h = k.s.h + c * k.s.stride;
  const T* __restrict slope = k.s.slope;
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) g[i] = fma_(-p[i], slope[i], h[i]);
}

FL_NAMESPACE_END

// Multiclass, one chunk of pixels with all its channels in L1. Two forms: class ids, where only the target class has a
// pointwise gradient of its own, and dense, where every class has a label (probabilities, label smoothing).
#pragma once
#include <limits>

#include "../math/pointwise.h"
#include "../math/topk.h"
#include "blocks.h"

FL_NAMESPACE_BEGIN

// Rows of channels are `stride` apart; arrays per pixel have kChunk elements.
template <class T>
struct SoftmaxScratch {
  int64_t stride;
  std::vector<T> storage;
  T *p, *z, *y, *h, *row;  // [C, stride]; z, y and h only in the dense form; row: one channel of output
  T *max, *inv, *lse, *nll, *miss, *valid, *weight, *slope, *dot, *pick, *class_weight;  // [kChunk]
  alignas(64) int32_t id[kChunk], arg[kChunk];

  SoftmaxScratch(int64_t channels, bool dense) : stride(pixels(channels, dense)) {
    const int64_t plane = channels * stride;
    storage.resize((dense ? 4 : 1) * plane + 12 * kChunk + 16);
    T* at = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(storage.data()) + 63) & ~uintptr_t(63));
    p = at, at += plane;
    z = y = h = p;
    if (dense) z = at, y = z + plane, h = y + plane, at = h + plane;
    for (T** a : {&row, &max, &inv, &lse, &nll, &miss, &valid, &weight, &slope, &dot, &pick, &class_weight})
      *a = at, at += kChunk;
  }
  // What an L1 holds where that leaves rows long enough to pay for starting their loops; else L2 serves.
  static int64_t pixels(int64_t channels, bool dense) {
    const int64_t fit = 32768 / static_cast<int64_t>(sizeof(T)) / (channels * (dense ? 4 : 1)) / 16 * 16;
    return fit < 128 ? 128 : (fit > 512 ? 512 : fit);
  }
};

template <class T>
struct SoftmaxChunk {
  SoftmaxScratch<T>& s;
  int64_t n, channels;
};

// Rows of the next chunk lie in pages of their own, too short for the hardware to see a stream in them.
template <class T>
inline void prefetch_rows(const T* first, int64_t row_stride, int64_t rows, int64_t n) {
  for (int64_t c = 0; c < rows; ++c)
    for (int64_t i = 0; i < n; i += 64 / sizeof(T)) __builtin_prefetch(first + c * row_stride + i);
}

// Exponentials of one channel, in place or from the logits themselves.
template <bool kKeepShift, bool kInfinite, class T>
FL_ONE_COPY void exponentiate(const SoftmaxChunk<T>& k, const T* x, int64_t c) {
  const T* __restrict max = k.s.max;
  T *p = k.s.p + c * k.s.stride, *__restrict z = k.s.z + c * k.s.stride, *__restrict sum = k.s.inv;
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) {
    const T shifted = softmax_shift<kInfinite>(x[i], max[i]);
    const T e = exp_minus(abs_(shifted));
    p[i] = e;
    if (kKeepShift) z[i] = shifted;
    sum[i] += e;
  }
}

// The end of a softmax: sums become their inverses, exponentials probabilities. Of the target class nll = -log p_t and
// miss = 1 - p_t; nll holds its distance from the maximum before.
template <class T>
FL_ONE_COPY void normalize(const SoftmaxChunk<T>& k) {
  SoftmaxScratch<T>& s = k.s;
  T *__restrict sum = s.inv, *__restrict lse = s.lse, *__restrict nll = s.nll, *__restrict miss = s.miss;
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) {
    lse[i] = log_(sum[i]);
    sum[i] = T(1) / sum[i];
    nll[i] += lse[i];
    miss[i] = relu(T(1) - exp_minus(abs_(nll[i])));
  }
  const T* __restrict inv = s.inv;
  for (int64_t c = 0; c < k.channels; ++c) {
    T* __restrict p = s.p + c * s.stride;
    for (int64_t i = 0; i < k.n; ++i) p[i] *= inv[i];
  }
}

// p of all channels, lse, and for ids nll and miss. rows(c) gives a channel's logits.
template <bool kIds, bool kArgmax, class T, class Rows>
inline void activate(const SoftmaxChunk<T>& k, const Rows& rows) {
  SoftmaxScratch<T>& s = k.s;
  T *__restrict max = s.max, *__restrict sum = s.inv, *__restrict nll = s.nll;
  const T* first = rows(0);
  for (int64_t i = 0; i < k.n; ++i) max[i] = first[i], sum[i] = nll[i] = T(0);
  if (kArgmax) memset(s.arg, 0, k.n * sizeof(int32_t));
  for (int64_t c = 1; c < k.channels; ++c) {
    const T* __restrict x = rows(c);
    if (kArgmax)
      for (int64_t i = 0; i < k.n; ++i) s.arg[i] = x[i] > max[i] ? static_cast<int32_t>(c) : s.arg[i];
    for (int64_t i = 0; i < k.n; ++i) max[i] = x[i] <= max[i] ? max[i] : x[i];
  }
  int finite = 1;
  for (int64_t i = 0; i < k.n; ++i) finite &= abs_(max[i]) <= std::numeric_limits<T>::max();
  for (int64_t i = 0; kIds && i < k.n; ++i) {  // a gather: cheaper than a comparison for each channel
    const T own = rows(s.id[i] < 0 ? 0 : s.id[i])[i];
    nll[i] = own == max[i] ? T(0) : max[i] - own;
  }
  for (int64_t c = 0; c < k.channels; ++c) {
    if (finite) exponentiate<!kIds, false>(k, rows(c), c);
    else exponentiate<!kIds, true>(k, rows(c), c);
  }
  normalize(k);
}

// Pointwise terms on the target class: value, and h = p_t dL/dp_t (dL/dz_c = h (y_c - p_c)); w is its weight or alpha.
struct CeElement {
  template <class T>
  FL_HD T value(T nll, T, T w) const {
    return ce(nll, w);
  }
  template <class T>
  FL_HD T slope(T, T, T w) const {
    return ce_grad(w);
  }
};
template <FocalPower kPower, class T>
struct FocalTargetElement {
  T gamma;
  FL_HD T value(T nll, T u, T w) const { return focal_multiclass<kPower>(nll, u, w, gamma); }
  FL_HD T slope(T nll, T u, T w) const { return focal_multiclass_grad<kPower>(nll, u, w, gamma); }
};

// One of them over a chunk. With kGrads adds scale * h to slope, with kStore writes the values to pick.
template <int kMode, class T, class Element>
inline T target_loop(const SoftmaxChunk<T>& k, const T* __restrict weight, T scale, const Element element) {
  const T *__restrict nll = k.s.nll, *__restrict miss = k.s.miss, *__restrict cw = k.s.class_weight;
  T *__restrict slope = k.s.slope, *__restrict pick = k.s.pick;
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < k.n; ++i) {
    if (kMode & kValues) total += weight[i] * element.value(nll[i], miss[i], cw[i]);
    if (kMode & kStore) pick[i] = weight[i] * element.value(nll[i], miss[i], cw[i]);
    if (kMode & kGrads) slope[i] += weight[i] * scale * element.slope(nll[i], miss[i], cw[i]);
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

// The same in the dense form, one channel at a time: h_c = y_c p_c dL/dp_c goes to h[c], its sum over c to slope; the
// element's value is summed over channels in pick (top-k and elementwise need it per pixel).
template <int kMode, class T>
inline void dense_term(const SoftmaxChunk<T>& k, const Term& t, const T* __restrict weight, double coefficient, T* __restrict total) {
  const T scale = static_cast<T>(coefficient), gamma = static_cast<T>(t.gamma);
  const T keep = static_cast<T>(1.0 - t.label_smoothing), spread = static_cast<T>(t.label_smoothing / k.channels);
  const T* __restrict lse = k.s.lse;
  T* __restrict slope = k.s.slope;
  for (int64_t c = 0; c < k.channels; ++c) {
    const T *__restrict p = k.s.p + c * k.s.stride, *__restrict z = k.s.z + c * k.s.stride,
            *__restrict y = k.s.y + c * k.s.stride;
    T* __restrict h = k.s.h + c * k.s.stride;
    const T cw = static_cast<T>(t.vector_at(c, 1.0));
    const bool focal = t.kind == kFocal;
#pragma omp simd
    for (int64_t i = 0; i < k.n; ++i) {
      const T nll = lse[i] - z[i], label = y[i] * keep + spread;
      T value, d;
      if (focal) {
        const T u = relu(T(1) - p[i]);
        value = focal_multiclass<kPowerAny>(nll, u, cw, gamma);
        d = focal_multiclass_grad<kPowerAny>(nll, u, cw, gamma);
        if (t.gamma == 0.0) value = cw * nll, d = -cw;
      } else {
        value = ce(nll, cw);
        d = ce_grad(cw);
      }
      if (kMode & (kValues | kStore)) total[i] += label != T(0) ? label * value * weight[i] : T(0);
      if (kMode & kGrads) {
        const T add = label * d * weight[i] * scale;
        h[i] += add;
        slope[i] += add;
      }
    }
  }
}

// The label of channel c: an id compared, or the probability.
template <bool kDense, class T>
FL_HD T label_of(const int32_t* id, const T* y, int64_t i, int32_t c) {
  return kDense ? y[i] : (id[i] == c ? T(1) : T(0));
}

template <bool kDense, bool kMasked, bool kExtra, class T>
inline void class_sums(const SoftmaxChunk<T>& k, int32_t c, double* sums) {
  const T *__restrict p = k.s.p + c * k.s.stride, *__restrict y = k.s.y + c * k.s.stride, *__restrict valid = k.s.valid;
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

// dL/dp_c of the region terms.
template <bool kDense, bool kExtra, class T>
FL_HD T region_slope(T p, T y, T inter, T pred, T square, T diff) {
  T slope = pred + inter * y;
  if (kExtra) slope += square * p + diff * sign_(p - y);
  return slope;
}

// dot += sum over channels of p_c dL/dp_c
template <bool kDense, bool kExtra, class T>
inline void region_dot(const SoftmaxChunk<T>& k, int32_t c, const double* d, double upstream) {
  const T *__restrict p = k.s.p + c * k.s.stride, *__restrict y = k.s.y + c * k.s.stride;
  const int32_t* __restrict id = k.s.id;
  T* __restrict dot = k.s.dot;
  const T inter = static_cast<T>(upstream * d[kInter]), pred = static_cast<T>(upstream * d[kPred]),
          square = static_cast<T>(2.0 * upstream * d[kPredSq]), diff = static_cast<T>(upstream * d[kAbsDiff]);
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i)
    dot[i] += p[i] * region_slope<kDense, kExtra>(p[i], label_of<kDense>(id, y, i, c), inter, pred, square, diff);
}

// g_c = p_c (dL/dp_c - dot - slope) + h_c, with h_c = y_c slope for ids
template <bool kDense, bool kMasked, bool kExtra, class T>
inline void class_grad(const SoftmaxChunk<T>& k, int32_t c, const double* d, double upstream, T* __restrict g) {
  const T *__restrict p = k.s.p + c * k.s.stride, *__restrict y = k.s.y + c * k.s.stride,
          *__restrict h = k.s.h + c * k.s.stride, *__restrict dot = k.s.dot, *__restrict slope = k.s.slope,
          *__restrict valid = k.s.valid;
  const int32_t* __restrict id = k.s.id;
  const T inter = static_cast<T>(upstream * d[kInter]), pred = static_cast<T>(upstream * d[kPred]),
          square = static_cast<T>(2.0 * upstream * d[kPredSq]), diff = static_cast<T>(upstream * d[kAbsDiff]);
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) {
    const T yi = label_of<kDense>(id, y, i, c);
    const T region = region_slope<kDense, kExtra>(p[i], yi, inter, pred, square, diff) - dot[i];
    const T own = kDense ? h[i] : yi * slope[i];
    const T regional = kMasked ? region * valid[i] : region;
    g[i] = p[i] * (regional - slope[i]) + own;
  }
}

// The same without region terms.
template <bool kDense, class T>
inline void target_grad(const SoftmaxChunk<T>& k, int32_t c, T* __restrict g) {
  const T *__restrict p = k.s.p + c * k.s.stride, *__restrict h = k.s.h + c * k.s.stride, *__restrict slope = k.s.slope;
  const int32_t* __restrict id = k.s.id;
#pragma omp simd
  for (int64_t i = 0; i < k.n; ++i) {
    const T own = kDense ? h[i] : (id[i] == c ? slope[i] : T(0));
    g[i] = own - p[i] * slope[i];
  }
}

FL_NAMESPACE_END

// Binary and multilabel in full: any strides, soft labels, masks, pixel weights, every term and setting, statistics;
// one element at a time. The kernels of sigmoid_stream.h are quicker where they apply.
#pragma once
#include "../../math/elements.h"
#include "../../math/topk.h"
#include "finish.h"
#include "load.h"
#include "topk.h"

namespace fl_old {

constexpr int kAnyThreads = 256;

template <class T>
struct Element {
  T x, y, weight;
  bool valid, bad;
  fl::Sigmoid<T> a;
};

template <class X, class T = typename LogitOf<X>::Compute>
__device__ __forceinline__ Element<T> load_element(const Params& p, int64_t n, int64_t c, int64_t pixel) {
  const Label<T> l = load_label<T>(p, n, c, pixel);
  const int64_t at = n * p.x.sample + c * p.x.channel + offset_of(p.x, p.space, pixel);
  Element<T> e;
  e.valid = l.valid, e.bad = l.bad, e.y = l.y;
  e.x = l.valid ? static_cast<T>(widen(static_cast<const X*>(p.x.data)[at])) : T(0);
  e.weight = l.valid ? load_weight<T>(p, n, c, pixel) : T(0);
  e.a = fl::sigmoid<true>(e.x);
  return e;
}

template <class T>
struct TermAt {
  T value, slope;  // of the element by its logit
};

template <class Bound, class T>
__device__ __forceinline__ TermAt<T> at_element(const Bound& f, const Element<T>& e) {
  return {f.value(e.a.p, e.a.q, e.a.nlp, e.a.nlq, e.y), f.slope(e.a.p, e.a.q, e.a.nlp, e.a.nlq, e.y)};
}
template <fl::FocalPower kPower, class T>
__device__ __forceinline__ TermAt<T> focal_at(const Element<T>& e, T gamma, T on, T off, bool margin) {
  if (margin) return at_element(fl::MarginElement<kPower, T>{gamma, on, off}, e);
  return at_element(fl::FocalElement<kPower, false, T>{gamma, on, off}, e);
}

template <class T>
__device__ __forceinline__ TermAt<T> term_at(const Params& p, int i, int64_t c, const Element<T>& e) {
  const fl::Term& t = p.spec.terms[i];
  const T on = static_cast<T>(vector_at(p, i, c, 1.0));
  if (t.kind != fl::kFocal) {
    const T pos_weight = t.kind == fl::kBce ? on : T(1);
    return at_element(fl::BceElement<T>{pos_weight, static_cast<T>(t.label_smoothing)}, e);
  }
  const T off = t.vector_length ? T(1) - on : T(1), gamma = static_cast<T>(t.gamma);
  const bool margin = t.margin && p.y.dtype <= fl::kBF16;
  if (t.gamma == 2.0) return focal_at<fl::kPower2>(e, gamma, on, off, margin);
  if (t.gamma == 1.0) return focal_at<fl::kPower1>(e, gamma, on, off, margin);
  if (t.gamma == 0.0) return focal_at<fl::kPower0>(e, gamma, on, off, margin);
  return focal_at<fl::kPowerAny>(e, gamma, on, off, margin);
}

// Hard labels without pixel weights: the margin orders the elements, and no transcendental is taken.
__device__ __forceinline__ bool by_margin(const Params& p) { return p.y.dtype > fl::kBF16 && !p.pixel_weight.data; }
template <class T>
__device__ __forceinline__ typename fl::KeyOf<T>::type key_of(const Params& p, const Element<T>& e, T value) {
  if (!e.valid) return 0;
  return fl::topk_key(by_margin(p) ? fl::topk_margin(e.x, e.y) : e.weight * value);
}
// What an element weighs in a top-k term.
template <class T>
__device__ __forceinline__ T pick(const Params& p, int i, typename fl::KeyOf<T>::type key) {
  const double* aux = p.aux + i * fl::kAuxColumns;
  const auto threshold = fl::topk_key(static_cast<T>(aux[fl::kThreshold]));
  return key > threshold ? T(1) : (key == threshold ? static_cast<T>(aux[fl::kTieWeight]) : T(0));
}

// f(sample, pixel) for every pixel of this thread.
template <class F>
__device__ __forceinline__ void each_pixel(const Params& p, const Part& part, bool reverse, const F& f) {
  const uint32_t blocks = p.blocks, self = blockIdx.x % blocks;
  const uint32_t steps = p.tiles > self ? (p.tiles - 1 - self) / blocks + 1 : 0;
  for (uint32_t k = 0; k < steps; ++k) {
    const uint32_t tile = self + (reverse ? steps - 1 - k : k) * blocks;
    const uint32_t plane = p.planes == 1 ? 0 : p.tiles_per_plane.divide(tile);
    const int64_t pixel = static_cast<int64_t>(tile - plane * p.tiles_per_plane.d) * blockDim.x + threadIdx.x;
    if (pixel < p.pixels) f(part.sample + plane, pixel);
  }
}

template <class X>
__global__ void __launch_bounds__(kAnyThreads) sigmoid_any_sums(const FL_GRID_CONSTANT Params p) {
  using T = typename LogitOf<X>::Compute;
  FL_DYNAMIC_SHARED(memory);  // [terms, threads]: what the thread has of each pointwise term
  __shared__ double warps[13 * kMaxWarps], totals[13];
  double* terms = reinterpret_cast<double*>(memory) + threadIdx.x;
  const Part part = part_of(p, blockIdx.x / p.blocks);
  const T cut = static_cast<T>(p.cut);
  for (int i = 0; i < p.spec.n_terms; ++i) terms[i * kAnyThreads] = 0.0;
  double sums[13] = {};  // the fixed sums of math/sums.h, tp, fp, fn, tn, bad
  each_pixel(p, part, false, [&](int64_t n, int64_t pixel) {
    const Element<T> e = load_element<X>(p, n, part.channel, pixel);
    if (e.bad) sums[11] = 1.0;
    if (e.valid) {
      const double v = e.a.p, y = e.y;
      sums[fl::kValid] += 1.0, sums[fl::kInter] += v * y, sums[fl::kPred] += v, sums[fl::kTarget] += y;
      sums[fl::kPredSq] += v * v, sums[fl::kTargetSq] += y * y, sums[fl::kAbsDiff] += fabs(v - y);
      if (p.counting) {
        const bool on = e.x >= cut, truth = e.y >= T(0.5);
        sums[fl::kFixedSums + (on ? (truth ? 0 : 1) : (truth ? 2 : 3))] += 1.0;
      }
    }
    for (int i = 0; i < p.spec.n_terms; ++i) {
      if (p.spec.terms[i].kind == fl::kTversky) continue;
      const T value = term_at(p, i, part.channel, e).value;
      T weight = e.weight;
      if (p.spec.terms[i].kind == fl::kTopk) weight *= pick<T>(p, i, key_of(p, e, value));
      if (weight != T(0)) terms[i * kAnyThreads] += static_cast<double>(weight * value);
    }
  });
  block_sums(sums, warps, totals);
  const int columns = sum_columns(p);
  double* record = p.records + blockIdx.x * record_size(p);
  for (int i = threadIdx.x; i < record_size(p); i += blockDim.x) {
    if (i < fl::kFixedSums) record[i] = totals[i];
    if (i >= columns) record[i] = totals[i - columns + fl::kFixedSums];
  }
  for (int i = 0; i < p.spec.n_terms; ++i) {
    const double sum = block_sum(terms[i * kAnyThreads], warps);
    if (threadIdx.x == 0) record[fl::kFixedSums + i] = sum;
  }
}

template <class X>
__global__ void __launch_bounds__(kAnyThreads) sigmoid_any_gradient(const FL_GRID_CONSTANT Params p) {
  using T = typename LogitOf<X>::Compute;
  if (is_settled(p)) return;
  const Part part = part_of(p, blockIdx.x / p.blocks);
  const double* d = p.dsums + (part.row * p.channels + part.channel) * sum_columns(p);
  const double up = upstream_of(p);
  const T inter = static_cast<T>(up * d[fl::kInter]), pred = static_cast<T>(up * d[fl::kPred]),
          square = static_cast<T>(2.0 * up * d[fl::kPredSq]), diff = static_cast<T>(up * d[fl::kAbsDiff]);
  const bool region = p.spec.any_region();
  each_pixel(p, part, true, [&](int64_t n, int64_t pixel) {
    const Element<T> e = load_element<X>(p, n, part.channel, pixel);
    T g = T(0);
    for (int i = 0; i < p.spec.n_terms; ++i) {
      if (p.spec.terms[i].kind == fl::kTversky) continue;
      const TermAt<T> t = term_at(p, i, part.channel, e);
      T weight = e.weight;
      if (p.spec.terms[i].kind == fl::kTopk) weight *= pick<T>(p, i, key_of(p, e, t.value));
      const T scale = weight * static_cast<T>(up * d[fl::kFixedSums + i]);
      if (weight != T(0)) g = fl::fma_(scale, t.slope, g);
    }
    if (region && e.valid)
      g = fl::fma_(e.a.slope, fl::region_slope<false, true>(e.a.p, e.y, inter, pred, square, diff), g);
    const int64_t at = n * p.out.sample + part.channel * p.out.channel + offset_of(p.out, p.space, pixel);
    static_cast<X*>(p.out.data)[at] = narrow<X>(g);
  });
}

template <class X>
__global__ void __launch_bounds__(kAnyThreads) sigmoid_elements(const FL_GRID_CONSTANT Params p) {
  using T = typename LogitOf<X>::Compute;
  const Part part = part_of(p, blockIdx.x / p.blocks);
  each_pixel(p, part, false, [&](int64_t n, int64_t pixel) {
    const Element<T> e = load_element<X>(p, n, part.channel, pixel);
    const T value = e.weight * term_at(p, 0, part.channel, e).value;
    const int64_t at = n * p.out.sample + part.channel * p.out.channel + offset_of(p.out, p.space, pixel);
    static_cast<T*>(p.out.data)[at] = e.bad ? static_cast<T>(NAN) : (e.valid ? value : T(0));
  });
}

// The histogram of one digit of the keys of a top-k term.
template <class X>
__global__ void __launch_bounds__(kAnyThreads) sigmoid_digits(const FL_GRID_CONSTANT Params p, int term, int level) {
  using T = typename LogitOf<X>::Compute;
  __shared__ DigitCounter<T> counter;
  counter.begin(level, level == 0 ? 0 : static_cast<typename fl::KeyOf<T>::type>(p.selection->prefix));
  const Part part = part_of(p, blockIdx.x / p.blocks);
  each_pixel(p, part, level % 2, [&](int64_t n, int64_t pixel) {
    const Element<T> e = load_element<X>(p, n, part.channel, pixel);
    const T value = by_margin(p) ? T(0) : term_at(p, term, part.channel, e).value;
    if (e.valid) counter.count(key_of(p, e, value));
  });
  counter.flush(p.histogram);
}

}  // namespace fl_old

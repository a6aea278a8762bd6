// One pixel of any multiclass problem, whatever its strides and number of classes. Its classes are read in chunks, by
// one thread or shared among several ("slices") that then put together what they have found.
#pragma once
#include "finish.h"
#include "softmax_terms.h"

namespace fl_old {

constexpr int kPixelThreads = 256;
constexpr int kClassChunk = 8;

// Pixels of a tile: so few that their logits are still in L1 when they are read for the second time, with four blocks a
// multiprocessor. The other threads of the block are slices.
__host__ __device__ __forceinline__ int tile_lanes(const Params& p) {
  int lanes = kPixelThreads;
  while (lanes > kWarp && lanes * p.channels * (p.wide ? 8 : 4) > 32768) lanes /= 2;
  return lanes;
}

// The numbers of a pixel in an array, one for each class.
template <class T>
struct Column {
  void* data;
  int dtype;
  int64_t at, step;

  __device__ __forceinline__ Column() : data(nullptr), dtype(fl::kNoDtype), at(0), step(0) {}
  __device__ __forceinline__ Column(const Params& p, const Array& a, int64_t n, int64_t pixel)
      : data(a.data), dtype(a.dtype), at(n * a.sample + offset_of(a, p.space, pixel)), step(a.channel) {}

  template <class X>
  __device__ __forceinline__ void read(int64_t c, int count, T (&v)[kClassChunk]) const {
    const X* from = static_cast<const X*>(data) + at + c * step;
#pragma unroll
    for (int k = 0; k < kClassChunk; ++k) v[k] = k < count ? static_cast<T>(widen(from[k * step])) : T(0);
  }
  // Logits: float, double or half of either kind.
  __device__ __forceinline__ void load(int64_t c, int count, T (&v)[kClassChunk]) const {
    if constexpr (std::is_same<T, double>::value)
      read<double>(c, count, v);
    else if (dtype == fl::kF32)
      read<float>(c, count, v);
    else if (dtype == fl::kF16)
      read<__half>(c, count, v);
    else
      read<__nv_bfloat16>(c, count, v);
  }
  template <class X>
  __device__ __forceinline__ void write(int64_t c, int count, const T (&v)[kClassChunk]) const {
    X* to = static_cast<X*>(data) + at + c * step;
#pragma unroll
    for (int k = 0; k < kClassChunk; ++k)
      if (k < count) to[k * step] = narrow<X>(v[k]);
  }
  __device__ __forceinline__ void store(int64_t c, int count, const T (&v)[kClassChunk]) const {
    if constexpr (std::is_same<T, double>::value)
      write<double>(c, count, v);
    else if (dtype == fl::kF32)
      write<float>(c, count, v);
    else if (dtype == fl::kF16)
      write<__half>(c, count, v);
    else
      write<__nv_bfloat16>(c, count, v);
  }
  __device__ __forceinline__ void put(int64_t c, T v) const {
    const T one[kClassChunk] = {v};
    store(c, 1, one);
  }
  // One number of any type.
  __device__ __forceinline__ T one(int64_t c) const {
    Array a;
    a.data = data, a.dtype = dtype;
    return visit(a, at + c * step, [](auto v) { return static_cast<T>(v); });
  }
};

// Calls f(first class, how many) for the chunks of a slice.
template <class F>
__device__ __forceinline__ void each_chunk(const Params& p, int slice, int slices, const F& f) {
  for (int64_t c = static_cast<int64_t>(slice) * kClassChunk; c < p.channels; c += slices * kClassChunk)
    f(c, p.channels - c < kClassChunk ? static_cast<int>(p.channels - c) : kClassChunk);
}

// Calls f(class) for all of these, one by one.
template <class F>
__device__ __forceinline__ void each_class(const Params& p, int slice, int slices, const F& f) {
  for (int64_t first = static_cast<int64_t>(slice) * kClassChunk; first < p.channels; first += slices * kClassChunk)
#pragma unroll 1
    for (int64_t c = first; c < first + kClassChunk && c < p.channels; ++c) f(c);
}

// A softmax while its logits come in: their maximum, the sum of exp(x - max), and the sum of these times the slope that
// the class's probability has.
template <class T>
struct Online {
  T max, sum, dot;
  int64_t arg;  // the first class that has the maximum

  __device__ __forceinline__ Online() : max(-INFINITY), sum(0), dot(0), arg(0) {}
  template <bool kDot, bool kArg>
  __device__ __forceinline__ void add(T x, T slope, int64_t c) {
    const T shift = fl::softmax_shift<true>(x, max), e = fl::exp_minus(fl::abs_(shift));
    const bool rises = shift > T(0);
    if (kArg && x > max) arg = c;
    max = rises ? x : max;
    sum = rises ? fl::fma_(sum, e, T(1)) : sum + e;
    if (kDot) dot = rises ? fl::fma_(dot, e, slope) : fl::fma_(e, slope, dot);
  }
  __device__ __forceinline__ void add(const Online& o) {
    if (o.sum == T(0)) return;
    if (o.max > max || (o.max == max && o.arg < arg) || sum == T(0)) arg = o.arg;
    const T shift = fl::softmax_shift<true>(o.max, max), e = fl::exp_minus(fl::abs_(shift));
    const bool rises = shift > T(0);
    max = rises ? o.max : max;
    sum = rises ? fl::fma_(sum, e, o.sum) : fl::fma_(o.sum, e, sum);
    dot = rises ? fl::fma_(dot, e, o.dot) : fl::fma_(o.dot, e, dot);
  }
};

template <class T>
struct Pixel {
  int64_t n, at;
  Column<T> x, y;  // y: where it is dense
  int id;
  bool there, valid;
  T weight;
  T max, inv, lse;  // of the softmax
  T nll, miss;      // of the target class: -log p_t and 1 - p_t
  T target_p, dot;  // of the target class; sum over classes of p times its slope

  __device__ __forceinline__ void load(const Params& p, int64_t sample, int64_t pixel, bool& bad) {
    n = sample, at = pixel;
    there = pixel < p.pixels;
    valid = false, id = -1, weight = T(0);
    if (!there) return;
    if (p.ids) {
      const Label<T> l = load_label<T>(p, n, 0, at);
      valid = l.valid, id = l.id;
      bad |= l.bad;
    } else {
      valid = masked_in<T>(p, n, 0, at);
      y = Column<T>(p, p.y, n, at);
    }
    if (valid) weight = load_weight<T>(p, n, 0, at);
    x = Column<T>(p, p.x, n, at);
  }
  // Logits; zeros in pixels that do not count, whatever lies there.
  __device__ __forceinline__ void logits(int64_t c, int count, T (&v)[kClassChunk]) const {
    if (valid) return x.load(c, count, v);
#pragma unroll
    for (int k = 0; k < kClassChunk; ++k) v[k] = T(0);
  }
  __device__ __forceinline__ T logit(int64_t c) const { return valid ? x.one(c) : T(0); }
  __device__ __forceinline__ T label(int64_t c) const {
    if (!valid) return T(0);
    return y.data ? y.one(c) : (id == c ? T(1) : T(0));
  }
  __device__ __forceinline__ T shift(T logit) const { return fl::softmax_shift<true>(logit, max); }
  __device__ __forceinline__ T probability(T shifted) const { return fl::exp_minus(fl::abs_(shifted)) * inv; }

  __device__ __forceinline__ void finish(const Online<T>& o) {
    max = o.max, inv = T(1) / o.sum, lse = fl::log_(o.sum);
    nll = miss = target_p = T(0);
    if (id < 0) return;
    const T shifted = shift(logit(id));
    nll = lse - shifted;
    miss = fl::relu(T(1) - fl::exp_minus(fl::abs_(nll)));
    target_p = probability(shifted);
  }
  // The value of a term on the target class, without the pixel's weight.
  __device__ __forceinline__ T value(const PointTerm<T>& t, T class_weight) const {
    T v = T(0);
    t.visit([&](const auto& element) { v = element.value(nll, miss, class_weight); });
    return v;
  }
  // The same where every class has a label; with kSlope h_c = y_c p_c dL/dp_c.
  template <bool kSlope>
  __device__ __forceinline__ T dense(const PointTerm<T>& t, T label, T shifted, T p_c, T class_weight) const {
    const T own = fl::fma_(label, t.keep, t.spread), cost = lse - shifted, u = fl::relu(T(1) - p_c);
    T v = T(0);
    t.visit([&](const auto& element) {
      v = own * (kSlope ? element.slope(cost, u, class_weight) : element.value(cost, u, class_weight));
    });
    return kSlope || own != T(0) ? v : T(0);
  }
};

template <class T>
__device__ __forceinline__ T class_weight(const Params& p, const PointTerm<T>& t, int64_t c) {
  return static_cast<T>(vector_at(p, t.index, c, 1.0));
}
// Whether terms need the labels of all classes.
__device__ __forceinline__ bool is_dense(const Params& p) {
  if (!p.ids) return true;
  for (int i = 0; i < p.spec.n_terms; ++i)
    if (p.spec.terms[i].kind == fl::kCe && p.spec.terms[i].label_smoothing != 0.0) return true;
  return false;
}

// A slice's share of a term's value where every class has a label.
template <class T>
__device__ __forceinline__ T dense_value(const Params& p, const PointTerm<T>& t, const Pixel<T>& pixel, int slice,
                                         int slices) {
  T total = T(0);
  if (!pixel.valid) return total;
  each_class(p, slice, slices, [&](int64_t c) {
    const T shifted = pixel.shift(pixel.logit(c)), p_c = pixel.probability(shifted);
    total += pixel.template dense<false>(t, pixel.label(c), shifted, p_c, class_weight(p, t, c));
  });
  return total;
}

}  // namespace fl_old

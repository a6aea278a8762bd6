// Reading and writing logits, targets and what hides pixels, as vectors of V pixels or one by one.
#pragma once
#include <type_traits>

#include "plan.h"

namespace fl_cuda {

// float16 and bfloat16 share their instances: which of them it is costs an instruction per element.
struct Half16 {
  uint16_t bits;
};
template <class X>
using ComputeOf = std::conditional_t<std::is_same<X, double>::value, double, float>;

__device__ __forceinline__ float widen(float v, bool) { return v; }
__device__ __forceinline__ double widen(double v, bool) { return v; }
__device__ __forceinline__ float widen(Half16 v, bool brain) {
  if (brain) return fl::bit_cast<float>(static_cast<uint32_t>(v.bits) << 16);
  return __half2float(fl::bit_cast<__half>(v));
}
__device__ __forceinline__ void narrow(float v, bool, float& out) { out = v; }
__device__ __forceinline__ void narrow(double v, bool, double& out) { out = v; }
__device__ __forceinline__ void narrow(float v, bool brain, Half16& out) {
  out = brain ? fl::bit_cast<Half16>(__float2bfloat16_rn(v)) : fl::bit_cast<Half16>(__float2half_rn(v));
}

template <int kBytes>
using WordOf = std::conditional_t<
    kBytes >= 16, uint4,
    std::conditional_t<kBytes == 8, uint2,
                       std::conditional_t<kBytes == 4, uint32_t, std::conditional_t<kBytes == 2, uint16_t, uint8_t>>>>;

// V elements as they lie in memory.
template <class X, int kV>
union Vector {
  static constexpr int kBytes = kV * sizeof(X), kChunk = kBytes < 16 ? kBytes : 16, kChunks = kBytes / kChunk;
  using Chunk = WordOf<kChunk>;
  Chunk chunk[kChunks];
  X x[kV];
  __device__ __forceinline__ Vector() {}
  __device__ __forceinline__ void load(const void* from) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) chunk[i] = static_cast<const Chunk*>(from)[i];
  }
  __device__ __forceinline__ void store(void* to) const {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) static_cast<Chunk*>(to)[i] = chunk[i];
  }
  __device__ __forceinline__ void stream(const void* from) {  // from global memory, once
#pragma unroll
    for (int i = 0; i < kChunks; ++i) chunk[i] = __ldcs(static_cast<const Chunk*>(from) + i);
  }
};

template <class F>
__device__ __forceinline__ void with_number(int dtype, const F& f) {
  if (dtype == fl::kF32)
    f(float());
  else if (dtype == fl::kF64)
    f(double());
  else
    f(Half16());
}

// V floating-point numbers of any type; zeros beyond `count`. One by one they are read and written apart: once, not in
// every loop.
template <class T, int kV>
__device__ __noinline__ Vector<T, kV> gather_numbers(const Work& w, const Plan& p, const Array& a, const Steps& s,
                                                     Unit u, int64_t channel) {
  Vector<T, kV> v;
  with_number(a.dtype, [&](auto element) {
    const auto* from = static_cast<const decltype(element)*>(a.data) + u.sample * a.sample + channel * a.channel;
#pragma unroll
    for (int i = 0; i < kV; ++i)
      v.x[i] = i < u.count ? static_cast<T>(widen(from[offset_of(w, p, a, s, u.at + i)], a.dtype == fl::kBF16)) : T(0);
  });
  return v;
}
template <class T, int kV>
__device__ __forceinline__ void load_numbers(const Work& w, const Plan& p, const Array& a, const Steps& s,
                                             const Unit& u, int64_t channel, T (&v)[kV]) {
  if (!s.vectors || !u.whole) {
    const Vector<T, kV> own = gather_numbers<T, kV>(w, p, a, s, u, channel);
#pragma unroll
    for (int i = 0; i < kV; ++i) v[i] = own.x[i];
    return;
  }
  with_number(a.dtype, [&](auto element) {
    Vector<decltype(element), kV> own;
    own.load(static_cast<const decltype(element)*>(a.data) + u.sample * a.sample + channel * a.channel + u.at);
#pragma unroll
    for (int i = 0; i < kV; ++i) v[i] = static_cast<T>(widen(own.x[i], a.dtype == fl::kBF16));
  });
}

template <class E, class T, int kV>
__device__ __forceinline__ void narrow_all(const Vector<T, kV>& v, bool brain, Vector<E, kV>& out) {
#pragma unroll
  for (int i = 0; i < kV; ++i) narrow(static_cast<ComputeOf<E>>(v.x[i]), brain, out.x[i]);
}
template <class T, int kV>
__device__ __noinline__ void scatter_numbers(const Work& w, const Plan& p, const Array& a, const Steps& s, Unit u,
                                             int64_t channel, Vector<T, kV> v) {
  with_number(a.dtype, [&](auto element) {
    using E = decltype(element);
    E* to = static_cast<E*>(a.data) + u.sample * a.sample + channel * a.channel;
    Vector<E, kV> own;
    narrow_all(v, a.dtype == fl::kBF16, own);
#pragma unroll
    for (int i = 0; i < kV; ++i)
      if (i < u.count) to[offset_of(w, p, a, s, u.at + i)] = own.x[i];
  });
}
template <class T, int kV>
__device__ __forceinline__ void store_numbers(const Work& w, const Plan& p, const Array& a, const Steps& s,
                                              const Unit& u, int64_t channel, const T (&v)[kV]) {
  Vector<T, kV> all;
#pragma unroll
  for (int i = 0; i < kV; ++i) all.x[i] = v[i];
  if (!s.vectors || !u.whole) return scatter_numbers<T, kV>(w, p, a, s, u, channel, all);
  with_number(a.dtype, [&](auto element) {
    using E = decltype(element);
    Vector<E, kV> own;
    narrow_all(all, a.dtype == fl::kBF16, own);
    own.store(static_cast<E*>(a.data) + u.sample * a.sample + channel * a.channel + u.at);
  });
}

constexpr int kBad = -2;

// The class of each pixel: -1 where it is missing or ignored, kBad where it is none, which `bad` gathers.
template <class E, int kV>
__device__ __forceinline__ void classes_of(const Work& w, const Plan& p, const Vector<E, kV>& v, int (&id)[kV],
                                           bool& bad) {
  using Wide = std::conditional_t<sizeof(E) == 8, uint64_t, uint32_t>;  // a negative one is huge without its sign
  const E ignored = static_cast<E>(p.ignored);
#pragma unroll
  for (int i = 0; i < kV; ++i) {
    id[i] = static_cast<Wide>(v.x[i]) < static_cast<Wide>(w.channels) ? static_cast<int>(v.x[i]) : kBad;
    if (p.ignoring && v.x[i] == ignored) id[i] = -1;
  }
}
template <int kV>
__device__ __forceinline__ void hide(const uint32_t (&shown)[kV], int (&id)[kV], bool& bad) {
#pragma unroll
  for (int i = 0; i < kV; ++i) {
    if (!shown[i]) id[i] = -1;
    bad |= id[i] == kBad;
  }
}
template <class F>
__device__ __forceinline__ void with_label(int bytes, const F& f) {
  if (bytes == 1)
    f(uint8_t());
  else if (bytes == 8)
    f(uint64_t());
  else if (bytes == 4)
    f(uint32_t());
  else
    f(uint16_t());
}
// All of them vectors in memory.
template <int kV>
__device__ __forceinline__ void load_classes(const Work& w, const Plan& p, const Unit& u, int (&id)[kV], bool& bad) {
  with_label(p.label_bytes, [&](auto element) {
    using E = decltype(element);
    Vector<E, kV> v;
    v.stream(static_cast<const E*>(w.y.data) + u.sample * w.y.sample + u.at);
    classes_of<E, kV>(w, p, v, id, bad);
  });
  Vector<uint8_t, kV> mask;
  uint32_t shown[kV];
  if (w.mask.data) mask.load(static_cast<const uint8_t*>(w.mask.data) + u.sample * w.mask.sample + u.at);
#pragma unroll
  for (int i = 0; i < kV; ++i) shown[i] = !w.mask.data || mask.x[i];
  hide<kV>(shown, id, bad);
}
// Of one pixel, whatever the strides.
__device__ __forceinline__ bool hidden(const Work& w, const Plan& p, const Unit& u, int i) {
  if (i >= u.count) return true;
  if (!w.mask.data) return false;
  return !static_cast<const uint8_t*>(
      w.mask.data)[u.sample * w.mask.sample + offset_of(w, p, w.mask, p.mask, u.at + i)];
}
__device__ __forceinline__ int class_at(const Work& w, const Plan& p, const Unit& u, int i) {
  if (hidden(w, p, u, i)) return -1;
  const int64_t at = u.sample * w.y.sample + offset_of(w, p, w.y, p.y, u.at + i);
  uint64_t y;
  with_label(p.label_bytes, [&](auto element) { y = static_cast<const decltype(element)*>(w.y.data)[at]; });
  return p.ignoring && y == p.ignored ? -1 : (y < static_cast<uint64_t>(w.channels) ? static_cast<int>(y) : kBad);
}

}  // namespace fl_cuda

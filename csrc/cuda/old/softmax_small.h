// Up to sixteen classes with class ids in planes of their own: a thread holds all classes of a few consecutive pixels
// in registers. The number of classes is a bound of the unrolled loops; they end where the classes do.
#pragma once
#include <type_traits>

#include "finish.h"
#include "softmax_terms.h"

namespace fl_old {

// float16 and bfloat16 share their instances: which of them it is costs an instruction per element.
struct Half16 {
  uint16_t bits;
};
__device__ __forceinline__ float widen(float v, bool) { return v; }
__device__ __forceinline__ float widen(Half16 v, bool brain) {
  if (brain) return fl::bit_cast<float>(static_cast<uint32_t>(v.bits) << 16);
  return __half2float(fl::bit_cast<__half>(v));
}
__device__ __forceinline__ void narrow(float v, bool, float& out) { out = v; }
__device__ __forceinline__ void narrow(float v, bool brain, Half16& out) {
  out = brain ? fl::bit_cast<Half16>(__float2bfloat16_rn(v)) : fl::bit_cast<Half16>(__float2half_rn(v));
}

template <int kBytes>
using WordOf = std::conditional_t<
    kBytes == 16, uint4,
    std::conditional_t<kBytes == 8, uint2,
                       std::conditional_t<kBytes == 4, uint32_t, std::conditional_t<kBytes == 2, uint16_t, uint8_t>>>>;

// kV elements as they lie in memory.
template <class X, int kV>
union Vector {
  static constexpr int kBytes = kV * sizeof(X), kChunk = kBytes < 16 ? kBytes : 16, kChunks = kBytes / kChunk;
  using Chunk = WordOf<kChunk>;
  Chunk chunk[kChunks];
  X x[kV];
  __device__ __forceinline__ Vector() {}
};
template <int kC>
constexpr int kSmallWidth = kC <= 4 ? 4 : 2;  // pixels of a thread

// What can be read and written a vector at a time, and other things that are the same for all pixels. In shared memory.
struct SmallAccess {
  bool x, y, out, brain, ignoring;
  int label_bytes;

  template <class X, int kV>
  __device__ __forceinline__ void set(const Params& p) {
    label_bytes = size_of(p.y.dtype);
    x = even<kV>(p.x, sizeof(X)), y = even<kV>(p.y, label_bytes), out = even<kV>(p.out, sizeof(X));
    brain = p.x.dtype == fl::kBF16;
    ignoring = p.spec.has_ignore && fits(p.spec.ignore_index, p.y.dtype);
  }
  template <int kV>
  static __device__ __forceinline__ bool even(const Array& a, int size) {
    const int bytes = kV * size < 16 ? kV * size : 16;
    return a.sample % kV == 0 && a.channel % kV == 0 && reinterpret_cast<uintptr_t>(a.data) % bytes == 0;
  }
  static __device__ __forceinline__ int size_of(int dtype) {
    switch (dtype) {
      case fl::kI16:
      case fl::kU16:
        return 2;
      case fl::kI32:
      case fl::kU32:
        return 4;
      case fl::kI64:
      case fl::kU64:
        return 8;
      default:
        return 1;
    }
  }
  // An ignored label that the labels' type cannot hold ignores nothing.
  static __device__ __forceinline__ bool fits(int64_t v, int dtype) {
    if (dtype == fl::kI64) return true;
    const bool is_signed = dtype == fl::kI8 || dtype == fl::kI16 || dtype == fl::kI32;
    if (v < 0) return is_signed && v >= -(int64_t(1) << (8 * size_of(dtype) - 1));
    const int bits = dtype == fl::kBool ? 1 : 8 * size_of(dtype) - is_signed;
    return bits >= 63 || v < int64_t(1) << bits;
  }
};

// Where a thread's pixels lie; `count` of them are in the plane.
struct SmallPlace {
  int64_t sample, at;
  int count;
};
template <int kV>
__device__ __forceinline__ SmallPlace small_place(const Params& p, int64_t sample, uint32_t tile) {
  const uint32_t plane = p.planes == 1 ? 0 : p.tiles_per_plane.divide(tile);
  const int64_t at = (static_cast<int64_t>(tile - plane * p.tiles_per_plane.d) * blockDim.x + threadIdx.x) * kV;
  const int64_t left = p.pixels - at;
  return {sample + plane, at, left >= kV ? kV : (left > 0 ? static_cast<int>(left) : 0)};
}

template <class X, int kC>
using Planes = Vector<X, kSmallWidth<kC>>[kC];

// Missing pixels become zeros, whose label says that they do not count.
template <class X, int kC>
__device__ __forceinline__ void load_planes(const Params& p, bool even, bool once, const SmallPlace& at,
                                            Planes<X, kC>& v) {
  constexpr int kV = kSmallWidth<kC>;
  using Row = Vector<X, kV>;
  const X* from = static_cast<const X*>(p.x.data) + at.sample * p.x.sample + at.at;
#pragma unroll
  for (int c = 0; c < kC; ++c, from += p.x.channel) {
    if (c >= p.channels) break;
    if (even && at.count == kV) {
      const auto* chunk = reinterpret_cast<const typename Row::Chunk*>(from);
      v[c].chunk[0] = once ? __ldcs(chunk) : *chunk;
    } else {
#pragma unroll
      for (int i = 0; i < kV; ++i) v[c].x[i] = i < at.count ? from[i] : X{};
    }
  }
}

// The class of each pixel, -1 where it is missing, ignored or bad, which `bad` gathers.
template <class E, int kV>
__device__ __forceinline__ void ids_of(const Params& p, const SmallAccess& access, const SmallPlace& at, int (&id)[kV],
                                       bool& bad) {
  Vector<E, kV> v;
  const E* from = static_cast<const E*>(p.y.data) + at.sample * p.y.sample + at.at;
  if (access.y && at.count == kV) {
    const auto* chunk = reinterpret_cast<const typename Vector<E, kV>::Chunk*>(from);
#pragma unroll
    for (int i = 0; i < Vector<E, kV>::kChunks; ++i) v.chunk[i] = __ldg(chunk + i);
  } else {
#pragma unroll
    for (int i = 0; i < kV; ++i) v.x[i] = i < at.count ? from[i] : E(0);
  }
  const E ignored = static_cast<E>(p.spec.ignore_index), classes = static_cast<E>(p.channels);
#pragma unroll
  for (int i = 0; i < kV; ++i) {
    const bool skipped = i >= at.count || (access.ignoring && v.x[i] == ignored), fits = v.x[i] < classes;
    id[i] = !skipped && fits ? static_cast<int>(v.x[i]) : -1;
    if (p.mask.data && i < at.count) {
      const auto* mask = static_cast<const uint8_t*>(p.mask.data);
      if (!mask[at.sample * p.mask.sample + at.at + i]) {
        id[i] = -1;
        continue;
      }
    }
    bad |= !skipped && !fits;
  }
}
template <int kV>
__device__ __forceinline__ void load_ids(const Params& p, const SmallAccess& access, const SmallPlace& at,
                                         int (&id)[kV], bool& bad) {
  switch (access.label_bytes) {  // a negative id is a huge one without its sign
    case 1:
      return ids_of<uint8_t>(p, access, at, id, bad);
    case 2:
      return ids_of<uint16_t>(p, access, at, id, bad);
    case 4:
      return ids_of<uint32_t>(p, access, at, id, bad);
    default:
      return ids_of<uint64_t>(p, access, at, id, bad);
  }
}

// The softmax of a thread's pixels: e * inv is the probability, 0 in pixels that do not count.
template <int kC>
struct SmallSoftmax {
  static constexpr int kV = kSmallWidth<kC>;
  float e[kC][kV], inv[kV], nll[kV];
  int id[kV];

  template <class X>
  __device__ __forceinline__ void set(const Params& p, bool brain, const Planes<X, kC>& v) {
    float max[kV], target[kV], sum[kV];
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      if (c >= p.channels) break;
#pragma unroll
      for (int i = 0; i < kV; ++i) e[c][i] = widen(v[c].x[i], brain);
      if (p.masked)
#pragma unroll
        for (int i = 0; i < kV; ++i) e[c][i] = id[i] < 0 ? 0.0f : e[c][i];
#pragma unroll
      for (int i = 0; i < kV; ++i) max[i] = c == 0 ? e[c][i] : fmaxf(max[i], e[c][i]);
    }
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      if (fabsf(max[i]) == INFINITY) {  // softmax_shift<true>
#pragma unroll
        for (int c = 0; c < kC; ++c) {
          if (c >= p.channels) break;
          e[c][i] = e[c][i] == max[i] ? 0.0f : e[c][i] - max[i];
        }
        max[i] = 0.0f;
      }
      sum[i] = target[i] = 0.0f;
    }
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      if (c >= p.channels) break;
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        const float shifted = max[i] - e[c][i];
        target[i] = id[i] == c ? shifted : target[i];
        e[c][i] = fl::exp_minus(fl::abs_(shifted));
        sum[i] += e[c][i];
      }
    }
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      nll[i] = target[i] + fl::log_(sum[i]);
      inv[i] = id[i] < 0 ? 0.0f : fl::inverse(sum[i]);
    }
  }
};

}  // namespace fl_old

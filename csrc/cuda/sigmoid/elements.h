// Reading and writing what general kernels take: four elements of any dtype, side by side or at some distance. Planes
// are cut into runs of pixels that lie at one distance in every array; whole planes, or rows of them.
#pragma once
#include "../../math/label.h"
#include "walk.h"

namespace fl_cuda {

enum ArrayBit { kXBit = 1, kYBit = 2, kMaskBit = 4, kWeightBit = 8, kOutBit = 16 };

// The four elements of a thread in a turn: their run, pixels in it (the nearest one that is there, where one is not),
// and bits of those that are there.
struct Spot {
  int64_t sample, first;
  uint32_t channel, row[2], there;
  int pixel[kPack];  // behind the first one
};

// Where element 0 lies.
__device__ __forceinline__ int64_t offset_of(const Walk& k, const Array& a, const Spot& at) {
  const int64_t offset = at.sample * a.sample + at.channel * a.channel + at.first * a.space[k.axis];
  return k.has_rows ? offset + at.row[0] * a.space[0] + at.row[1] * a.space[1] : offset;
}

template <class E, class T>
__device__ __forceinline__ void load_four(const Walk& k, const Array& a, int bit, const Spot& at, int64_t offset,
                                          T (&to)[kPack]) {
  const E* from = static_cast<const E*>(a.data) + offset;
  if ((k.whole & bit) && at.there == 15) {
    const Pack<E> pack = load_pack(from);
#pragma unroll
    for (int i = 0; i < kPack; ++i) to[i] = static_cast<T>(widen(pack.v[i]));
    return;
  }
  const int64_t step = a.space[k.axis];
#pragma unroll
  for (int i = 0; i < kPack; ++i) to[i] = static_cast<T>(widen(from[at.pixel[i] * step]));
}

// The dtype is the same for all threads.
template <class T>
__device__ __forceinline__ void load_floats(const Walk& k, const Array& a, int bit, const Spot& at, T (&to)[kPack]) {
  const int64_t offset = offset_of(k, a, at);
  if (a.dtype == fl::kF32)
    load_four<float>(k, a, bit, at, offset, to);
  else if (a.dtype == fl::kF64)
    load_four<double>(k, a, bit, at, offset, to);
  else if (a.dtype == fl::kF16)
    load_four<__half>(k, a, bit, at, offset, to);
  else
    load_four<__nv_bfloat16>(k, a, bit, at, offset, to);
}

// The labels of the elements, which of them count (bits), and which of those are out of range.
template <class T>
__device__ __forceinline__ void load_labels(const Work& w, const Walk& k, const Spot& at, T (&y)[kPack],
                                            uint32_t& valid, uint32_t& bad) {
  valid = at.there, bad = 0;
  if (w.mask.data) {
    uint32_t mask[kPack];
    load_four<uint8_t>(k, w.mask, kMaskBit, at, offset_of(k, w.mask, at), mask);
#pragma unroll
    for (int i = 0; i < kPack; ++i) valid &= ~(uint32_t(mask[i] == 0) << i);
  }
  if (fl::is_float(w.y.dtype)) {
    load_floats(k, w.y, kYBit, at, y);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (w.spec.has_ignore && y[i] == static_cast<T>(w.spec.ignore_index)) valid &= ~(1u << i);
      y[i] = fl::clamp_label(y[i], static_cast<T>(k.tolerance));
      bad |= uint32_t(!(y[i] >= T(0) && y[i] <= T(1))) << i;
    }
  } else {
    const int64_t offset = offset_of(k, w.y, at);
    const auto integers = [&](auto type) {
      using E = decltype(type);
      E v[kPack];
      load_four<E>(k, w.y, kYBit, at, offset, v);
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        if (k.ignores && v[i] == static_cast<E>(k.ignore_index)) valid &= ~(1u << i);
        bad |= uint32_t(v[i] > 1) << i;
        y[i] = v[i] & 1 ? T(1) : T(0);
      }
    };
    if (k.label_bytes == 1)
      integers(uint8_t());
    else if (k.label_bytes == 2)
      integers(uint16_t());
    else if (k.label_bytes == 4)
      integers(uint32_t());
    else
      integers(uint64_t());
  }
  bad &= valid;
#pragma unroll
  for (int i = 0; i < kPack; ++i)
    if (!(valid >> i & 1)) y[i] = T(0);
}

template <class E, class T>
__device__ __forceinline__ void store_four(const Walk& k, const Array& a, const Spot& at, const T (&from)[kPack]) {
  E* to = static_cast<E*>(a.data) + offset_of(k, a, at);
  if ((k.whole & kOutBit) && at.there == 15) {
    Pack<E> pack;
#pragma unroll
    for (int i = 0; i < kPack; ++i) pack.v[i] = narrow<E>(from[i]);
    return store_pack(to, pack);
  }
  const int64_t step = a.space[k.axis];
#pragma unroll
  for (int i = 0; i < kPack; ++i)
    if (at.there >> i & 1) to[at.pixel[i] * step] = narrow<E>(from[i]);
}

}  // namespace fl_cuda

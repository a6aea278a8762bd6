// Reading and writing what general kernels take: four elements of any dtype, side by side or at some distance. Planes
// are cut into runs of pixels that lie at one distance in every array; whole planes, or rows of them.
#pragma once
#include "../../math/label.h"
#include "walk.h"

namespace fl_cuda {

// The four elements of a thread in a turn: where the first one lies in each array, the first and last pixel behind it
// that the run has, and bits of the elements that are there.
struct Spot {
  unsigned char* at[kArrays];
  int low, high;
  uint32_t there;
  __device__ __forceinline__ int64_t pixel(const Walk& k, int i) const {  // the nearest one that is there
    return min(high, max(low, i * k.distance));
  }
};

template <class E, class T>
__device__ __forceinline__ void load_four(const Walk& k, int array, const Spot& s, T (&to)[kPack]) {
  const unsigned char* from = s.at[array];
  if ((k.whole >> array & 1) && s.there == 15) {
    const Pack<E> pack = load_pack(reinterpret_cast<const E*>(from));
#pragma unroll
    for (int i = 0; i < kPack; ++i) to[i] = static_cast<T>(widen(pack.v[i]));
    return;
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i)
    to[i] = static_cast<T>(widen(*reinterpret_cast<const E*>(from + s.pixel(k, i) * k.step_bytes[array])));
}

// The dtype is the same for all threads.
template <class T>
__device__ __forceinline__ void load_floats(const Walk& k, int dtype, int array, const Spot& s, T (&to)[kPack]) {
  if (dtype == fl::kF32)
    load_four<float>(k, array, s, to);
  else if (dtype == fl::kF64)
    load_four<double>(k, array, s, to);
  else if (dtype == fl::kF16)
    load_four<__half>(k, array, s, to);
  else
    load_four<__nv_bfloat16>(k, array, s, to);
}

// The labels of the elements, which of them count (bits), and which of those are out of range.
template <class T>
__device__ __forceinline__ void load_labels(const Work& w, const Walk& k, const Spot& s, T (&y)[kPack], uint32_t& valid,
                                            uint32_t& bad) {
  valid = s.there, bad = 0;
  if (w.mask.data) {
    uint32_t mask[kPack];
    load_four<uint8_t>(k, kMaskArray, s, mask);
#pragma unroll
    for (int i = 0; i < kPack; ++i) valid &= ~(uint32_t(mask[i] == 0) << i);
  }
  if (fl::is_float(k.label_dtype)) {
    load_floats(k, k.label_dtype, kYArray, s, y);
    const T tolerance = static_cast<T>(k.tolerance), ignored = static_cast<T>(w.spec.ignore_index);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (w.spec.has_ignore && y[i] == ignored) valid &= ~(1u << i);
      y[i] = fl::clamp_label(y[i], tolerance);
      bad |= uint32_t(tolerance >= T(0) && !(y[i] >= T(0) && y[i] <= T(1))) << i;  // below 0: any number is a target
    }
  } else {
    const auto integers = [&](auto type) {
      using E = decltype(type);
      E v[kPack];
      load_four<E>(k, kYArray, s, v);
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
__device__ __forceinline__ void store_four(const Walk& k, const Spot& s, const T (&from)[kPack]) {
  unsigned char* to = s.at[kOutArray];
  if ((k.whole >> kOutArray & 1) && s.there == 15) {
    Pack<E> pack;
#pragma unroll
    for (int i = 0; i < kPack; ++i) pack.v[i] = narrow<E>(from[i]);
    return store_pack(reinterpret_cast<E*>(to), pack);
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i)
    if (s.there >> i & 1) *reinterpret_cast<E*>(to + s.pixel(k, i) * k.step_bytes[kOutArray]) = narrow<E>(from[i]);
}

// Where the turns of a thread lie, one after the other.
struct Route {
  const Work& w;
  const Launch& l;
  const Walk& k;
  uint32_t self, sample, channel, group;  // of the blocks of a part; the first one; of the channels side by side
  uint32_t index = 0, full = 0;           // among the turns of a run that have all elements
  int turns, pixels;                      // from one turn to the next

  __device__ __forceinline__ void begin(bool reverse) {
    const int step = static_cast<int>(k.blocks.d) * (k.inner ? 1 : static_cast<int>(blockDim.x));
    turns = reverse ? -step : step, pixels = turns * (kPack * k.distance), full = 0;
  }
  __device__ __forceinline__ bool next(int turn, Spot& s) {
    index += turns;
    if (index >= full) return find(turn, s);
#pragma unroll
    for (int a = 0; a < kArrays; ++a) s.at[a] += static_cast<int64_t>(pixels) * k.step_bytes[a];
    s.there = 15, s.low = 0, s.high = kPack * k.distance;
    return true;
  }
  __device__ __forceinline__ bool find(int turn, Spot& s) {
    const uint32_t block_turn = turn * k.blocks.d + self;
    index = k.inner ? block_turn : block_turn * blockDim.x + threadIdx.x, full = 0;
    if (index >= l.tiles || threadIdx.x >= k.threads) return false;
    const uint32_t run = index < l.tiles_per_plane.d ? 0 : l.tiles_per_plane.divide(index);
    index -= run * l.tiles_per_plane.d;
    const uint32_t nth = k.runs.divide(run), rest = run - nth * k.runs.d, slice = k.height.divide(rest);
    const auto start = [&](const Array& a) {
      return (sample + nth) * a.sample + channel * a.channel + slice * a.space[0] +
             (rest - slice * k.height.d) * a.space[1];
    };
    const uint32_t lead = k.whole & 1 ? static_cast<uint32_t>(start(w.x) + k.lead) % kPack : 0;
    const int64_t first = static_cast<int64_t>(index) * (kPack * k.distance) + group - lead;
    const Array* arrays[kArrays] = {&w.x, &w.y, &w.mask, &w.pixel_weight, &w.out};
#pragma unroll
    for (int a = 0; a < kArrays; ++a)
      s.at[a] = static_cast<unsigned char*>(arrays[a]->data) + start(*arrays[a]) * k.element_bytes[a] +
                first * k.step_bytes[a];
    const int64_t last = k.pixels - 1 - first;
    s.low = first < 0 ? static_cast<int>(-first) : 0;
    s.high = last < kPack * k.distance ? static_cast<int>(last) : kPack * k.distance;
    s.there = 0;
#pragma unroll
    for (int i = 0; i < kPack; ++i) s.there |= uint32_t(s.pixel(k, i) == i * k.distance) << i;
    if (s.there == 15) {  // counted from the first one that has all
      index -= lead > 0;
      full = k.inner ? k.full_turns : static_cast<uint32_t>((k.pixels + lead) / kPack) - (lead > 0);
    }
    return s.there != 0;
  }
};

}  // namespace fl_cuda

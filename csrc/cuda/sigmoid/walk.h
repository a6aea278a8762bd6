// How a launch walks over pixels. A pack is four neighbouring pixels of a plane; a warp's tile is up to four times 32
// packs, so that a thread's packs lie at constant distances and only a tile, not a pack, needs to know its plane.
#pragma once
#include "../reduce.h"
#include "../work.h"

namespace fl_cuda {

constexpr int kPack = 4;

template <class X>
struct Real {
  using Type = float;
};
template <>
struct Real<double> {
  using Type = double;
};

template <class E>
__device__ __forceinline__ E widen(E v) {
  return v;
}
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
template <class X, class T>
__device__ __forceinline__ X narrow(T v) {
  if constexpr (sizeof(X) >= 4)
    return static_cast<X>(v);
  else if constexpr (std::is_same<X, __half>::value)
    return __float2half_rn(v);
  else
    return __float2bfloat16_rn(v);
}

enum ArrayIndex { kXArray, kYArray, kMaskArray, kWeightArray, kOutArray, kArrays };

// What the host adds to a launch of these kernels.
struct Walk {
  int64_t pixels;           // of a plane; of the whole batch where its planes are one run
  uint32_t planes;          // of a part
  int packs;                // of a thread, in a tile
  int turns, edge_turns;    // of a warp; those for the ends of planes that lie between packs, an end a thread
  FastDivisor blocks, run;  // of a part; parts of a channel
  int columns, partials;    // columns_of(w), partials_of(w)
  int point;                // the pointwise term of a fast kernel
  int label_dtype, label_bytes;
  bool ignores;           // some labels can be the ignored one, as the labels' type has it
  uint64_t ignore_index;  // its bits
  float tolerance;        // of soft labels

  // General kernels
  uint32_t inner, threads;   // channels that lie side by side, which lanes then take, else 0; of a block, those used
  int distance;              // of a thread's elements, in pixels
  uint32_t full_turns;       // of a run that have all elements, where `inner`
  FastDivisor runs, height;  // of a sample; slices of a volume
  int whole;                 // bits of the arrays that can be read in packs
  int lead;                  // pixels from a whole pack to the first run, in those arrays
  int step_bytes[kArrays], element_bytes[kArrays];  // from one pixel of a run to the next
  bool region, logs;                                // there are region terms, pointwise terms
  int selecting, term, level;  // terms of top-k; the digit that a launch counts, where blocks cannot meet
};

// The block's part of the work.
struct Share {
  uint32_t part, self, sample, channel, row;  // self: among the blocks of the part; row: of the sums
  __device__ __forceinline__ Share(const Work& w, const Walk& k) {
    part = k.blocks.divide(blockIdx.x), self = blockIdx.x - part * k.blocks.d;
    channel = k.run.divide(part), sample = part - channel * k.run.d;
    row = (w.groups > 1 ? sample * static_cast<uint32_t>(w.channels) : 0) + channel;
  }
};

// Four pixels as they lie in memory; `Raw` is what one access moves.
template <class E>
union alignas(sizeof(E) * kPack < 16 ? sizeof(E) * kPack : 16) Pack {
  using Raw = std::conditional_t<sizeof(E) == 1, uint32_t, std::conditional_t<sizeof(E) == 2, uint2, uint4>>;
  Raw raw[sizeof(E) == 8 ? 2 : 1];
  E v[kPack];
  __device__ __forceinline__ Pack() {}
};

template <class E>
__device__ __forceinline__ Pack<E> load_pack(const E* from) {
  using Raw = typename Pack<E>::Raw;
  Pack<E> pack;
  pack.raw[0] = __ldcs(reinterpret_cast<const Raw*>(from));
  if constexpr (sizeof(E) == 8) pack.raw[1] = __ldcs(reinterpret_cast<const Raw*>(from) + 1);
  return pack;
}
template <class E>
__device__ __forceinline__ void store_pack(E* to, const Pack<E>& pack) {
  using Raw = typename Pack<E>::Raw;
  __stcs(reinterpret_cast<Raw*>(to), pack.raw[0]);
  if constexpr (sizeof(E) == 8) __stcs(reinterpret_cast<Raw*>(to) + 1, pack.raw[1]);
}

// Pixels of a plane before its first whole pack. All arrays of a call that is read in packs agree on them.
template <class X>
__device__ __forceinline__ uint32_t head_of(const X* plane) {
  return static_cast<uint32_t>(-(reinterpret_cast<uintptr_t>(plane) / sizeof(X))) % kPack;
}

template <class E>
__device__ __forceinline__ E* plane_of(const Array& a, const Share& own) {
  return static_cast<E*>(a.data) + (own.sample * a.sample + own.channel * a.channel);
}

}  // namespace fl_cuda

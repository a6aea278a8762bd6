// The tiles of a block in the kernel of softmax_small.h, and what of them stays in shared memory between its barriers.
#pragma once
#include "softmax_small_steps.h"

namespace fl_old {

// Dynamic shared memory: the digit counter, and in its place later the end of the sums (p.head); a slot per thread and
// pointwise term; then of the kept tiles the logits [cached][C][thread], the classes [cached][thread] as bytes, and the
// keys of top-k [cached][thread]. Keys of other tiles lie in p.keys; no other thread reads them.
template <class X, int kC>
struct SmallTiles {
  static constexpr int kV = kSmallWidth<kC>;
  using Row = Vector<X, kV>;
  using Keys = Vector<uint32_t, kV>;
  using Classes = Vector<uint8_t, kV>;

  const Params& p;
  const Part part;
  const uint32_t first;
  uint32_t steps, cached;
  double* points;
  unsigned char* kept;

  // block: beyond the last one with pixels there are no tiles.
  __device__ __forceinline__ SmallTiles(const Params& q, uint32_t block, int terms, unsigned char* memory)
      : p(q), part(part_of(q, block / q.blocks < q.parts ? block / q.blocks : 0)), first(block % q.blocks) {
    steps = block / p.blocks < p.parts && p.tiles > first ? (p.tiles - 1 - first) / p.blocks + 1 : 0;
    cached = static_cast<uint32_t>(p.cached) < steps ? p.cached : steps;
    points = reinterpret_cast<double*>(memory + p.head);
    kept = memory + p.head + terms * blockDim.x * sizeof(double);
  }

  __device__ __forceinline__ bool holds() const { return p.phase == kAllPhases; }
  __device__ __forceinline__ SmallPlace place(uint32_t k) const {
    return small_place<kV>(p, part.sample, first + k * p.blocks);
  }
  __device__ __forceinline__ Row& row(uint32_t k, int c) const {
    return reinterpret_cast<Row*>(kept)[(k * p.channels + c) * blockDim.x + threadIdx.x];
  }
  __device__ __forceinline__ Classes& classes(uint32_t k) const {
    auto* all = reinterpret_cast<Classes*>(kept + p.cached * p.channels * blockDim.x * sizeof(Row));
    return all[k * blockDim.x + threadIdx.x];
  }
  __device__ __forceinline__ Keys& keys(uint32_t k) const {
    const size_t before = holds() ? p.cached * blockDim.x * (p.channels * sizeof(Row) + sizeof(Classes)) : 0;
    return reinterpret_cast<Keys*>(kept + before)[k * blockDim.x + threadIdx.x];
  }
  __device__ __forceinline__ uint32_t* far_keys(const SmallPlace& at) const {
    return static_cast<uint32_t*>(p.keys) + at.sample * p.pixels + at.at;
  }

  __device__ __forceinline__ void load(const SmallAccess& access, uint32_t k, bool once, Planes<X, kC>& v,
                                       int (&id)[kV], bool& bad) const {
    const SmallPlace at = place(k);
    load_ids<kV>(p, access, at, id, bad);
    load_planes<X, kC>(p, access.x, once, at, v);
  }
  __device__ __forceinline__ void keep(uint32_t k, const Planes<X, kC>& v, const int (&id)[kV]) const {
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      if (c >= p.channels) break;
      row(k, c).chunk[0] = v[c].chunk[0];
    }
    Classes own;
#pragma unroll
    for (int i = 0; i < kV; ++i) own.x[i] = static_cast<uint8_t>(id[i]);
    classes(k).chunk[0] = own.chunk[0];
  }
  // Of a tile that was loaded once.
  __device__ __forceinline__ void load_again(const SmallAccess& access, uint32_t k, Planes<X, kC>& v,
                                             int (&id)[kV]) const {
    bool bad = false;
    if (!holds() || k >= cached) return load(access, k, true, v, id, bad);
    Classes own;
    own.chunk[0] = classes(k).chunk[0];
#pragma unroll
    for (int i = 0; i < kV; ++i) id[i] = static_cast<int8_t>(own.x[i]);
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      if (c >= p.channels) break;
      v[c].chunk[0] = row(k, c).chunk[0];
    }
  }
  __device__ __forceinline__ void keep_keys(uint32_t k, const Keys& key) const {
    if (p.selecting && k < cached) {
      keys(k).chunk[0] = key.chunk[0];
      return;
    }
    const SmallPlace at = place(k);
#pragma unroll
    for (int i = 0; i < kV; ++i)
      if (i < at.count) far_keys(at)[i] = key.x[i];
  }
  // f(keys of a tile), in the order of the tiles.
  template <class F>
  __device__ __forceinline__ void each_key(const F& f) const {
    Keys key;
    for (uint32_t k = 0; k < cached; ++k) {
      key.chunk[0] = keys(k).chunk[0];
      f(key);
    }
    for (uint32_t k = cached; k < steps; ++k) {
      const SmallPlace at = place(k);
#pragma unroll
      for (int i = 0; i < kV; ++i) key.x[i] = i < at.count ? far_keys(at)[i] : 0;
      f(key);
    }
  }
};

}  // namespace fl_old

// What a launch of the multiclass kernels shares out, beside Launch: the classes of a pixel, the memory of a block.
//
// A unit is 32 x V pixels of a plane, V for each lane of a warp. The classes of a unit are shared by `slices` warps, a
// run of `share` classes each; what they find (maximum, sums) they put together through shared memory.
#pragma once
#include "../dispatch.h"

namespace fl_cuda {

constexpr int kFlushSteps = 64;  // turns of the loop over units after which sums in float go to those in double

// How the offset of a pixel in a plane is made.
struct Steps {
  int64_t pixel = 0;         // from pixel to pixel; negative: by the axes
  bool vectors = false;      // V pixels lie side by side, where a vector of them may lie
  bool interleaved = false;  // the channels of a pixel do, and its neighbour's after them (channels_last)
};

struct Plan {
  int slices = 1, share = 0;
  int threads = 0, blocks = 1;         // of a block; of a multiprocessor
  int terms = 0, picks = 0;            // pointwise terms; those of top-k
  int smooth = -1;                     // which of the terms smooths its labels (fast kernels)
  bool region = false, slots = false;  // whether sums of p, and those by the target's class, are wanted
  bool flats = false;                  // parts of the gradient that all pixels share
  bool brain = false, ignoring = false, dense = false;
  bool counting = false;                   // statistics
  bool vectors = false;                    // what is of a pixel can be read so
  bool in_shared = false, staged = false;  // the block's sums; the classes of the general kernels
  int label_bytes = 1;
  uint64_t ignored = 0;  // the label, without its sign
  Steps x, y, mask, weight, out;
  FastDivisor width, height;  // of a plane, for steps by the axes
  FastDivisor classes;
  int first = 0, last = 0;  // steps of top-k of this launch
  void* keys = nullptr;     // of top-k, one a pixel
  int64_t key_sample = 0;
  // Dynamic shared memory, offsets in bytes
  uint32_t sums = 0, points = 0, rows = 0, seen = 0, tables = 0, meeting = 0, pixels = 0, gathered = 0, digits = 0,
           stage = 0, kept = 0;
};

__device__ __forceinline__ int64_t offset_of(const Work& w, const Plan& p, const Array& a, const Steps& s,
                                             uint32_t pixel) {
  if (s.pixel >= 0) return pixel * s.pixel;
  const uint32_t row = p.width.divide(pixel), slab = p.height.divide(row);
  return (pixel - row * p.width.d) * a.space[2] + (row - slab * p.height.d) * a.space[1] + slab * a.space[0];
}

// Where a lane's pixels of a unit lie.
struct Unit {
  int64_t sample;
  uint32_t at;  // the first pixel
  int count;    // how many are in the plane
  bool whole;   // those of all lanes are
};
// A unit's place among the planes of its part, and steps from one to another: a division only where a plane ends.
struct Cursor {
  int64_t sample;
  uint32_t rest;  // units of the plane before it

  __device__ __forceinline__ Cursor(const Launch& l, int64_t first, uint32_t unit) {
    const uint32_t plane = l.tiles_per_plane.divide(unit);
    sample = first + plane, rest = unit - plane * l.tiles_per_plane.d;
  }
  __device__ __forceinline__ void go_on(const Launch& l, uint32_t by) {
    rest += by;
    if (rest < l.tiles_per_plane.d) return;
    const uint32_t planes = l.tiles_per_plane.divide(rest);
    sample += planes, rest -= planes * l.tiles_per_plane.d;
  }
  __device__ __forceinline__ void go_back(const Launch& l, uint32_t by) {
    if (rest < by) {
      const uint32_t planes = l.tiles_per_plane.divide(by - rest + l.tiles_per_plane.d - 1);
      sample -= planes, rest += planes * l.tiles_per_plane.d;
    }
    rest -= by;
  }
  template <int kV>
  __device__ __forceinline__ Unit unit(const Work& w) const {
    const uint32_t first = rest * (kWarp * kV), at = first + threadIdx.x % kWarp * kV;
    const uint32_t pixels = static_cast<uint32_t>(w.pixels);
    if (first + kWarp * kV <= pixels) return {sample, at, kV, true};
    const uint32_t left = at < pixels ? pixels - at : 0;
    return {sample, at, static_cast<int>(left < kV ? left : kV), false};
  }
};
template <int kV>
__device__ __forceinline__ Unit unit_of(const Work& w, const Launch& l, int64_t sample, uint32_t unit) {
  return Cursor(l, sample, unit).unit<kV>(w);
}

// The units of a block, one for each group of warps and turn.
struct Turns {
  int64_t sample;
  uint32_t self, blocks, units, groups, group, count;

  __device__ __forceinline__ Turns(const Work& w, const Launch& l, const Plan& p) {
    const uint32_t part = blockIdx.x / l.blocks;
    sample = part_of(w, part).sample;
    self = blockIdx.x - part * l.blocks, blocks = l.blocks;
    units = l.tiles > self ? (l.tiles - 1 - self) / blocks + 1 : 0;
    groups = blockDim.x / kWarp / p.slices, group = threadIdx.x / kWarp / p.slices;
    count = (units + groups - 1) / groups;
  }
  __device__ __forceinline__ uint32_t own() const { return group < units ? (units - 1 - group) / groups + 1 : 0; }
  __device__ __forceinline__ bool there(uint32_t turn) const { return group + groups * turn < units; }
  __device__ __forceinline__ uint32_t unit(uint32_t turn) const { return self + blocks * (group + groups * turn); }
};

// What a thread knows of its classes.
struct Slice {
  int first, count;
  __device__ __forceinline__ Slice(const Work& w, const Plan& p) {
    first = threadIdx.x / kWarp % p.slices * p.share;
    const int left = static_cast<int>(w.channels) - first;
    count = left < p.share ? (left > 0 ? left : 0) : p.share;
  }
};

// By the warps that share pixels: the largest, or the sums, of what each has found; kPairs: the second half of v says
// where the first was found. `place` holds kN numbers of each thread; the next call needs another one.
template <bool kMax, bool kPairs, int kN, class T>
__device__ __forceinline__ void meet(const Plan& p, T* place, T (&v)[kN]) {
  if (p.slices == 1) return;
#pragma unroll
  for (int i = 0; i < kN; ++i) place[i * blockDim.x + threadIdx.x] = v[i];
  __syncthreads();
  const int first = threadIdx.x / kWarp / p.slices * p.slices * kWarp + threadIdx.x % kWarp;
#pragma unroll
  for (int i = 0; i < kN; ++i) v[i] = place[i * blockDim.x + first];
#pragma unroll 1
  for (int k = 1; k < p.slices; ++k) {
    T other[kN];
#pragma unroll
    for (int i = 0; i < kN; ++i) other[i] = place[i * blockDim.x + first + k * kWarp];
    constexpr int kHalf = kPairs ? kN / 2 : kN;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      if (!kMax)
        v[i] += other[i];
      else if (other[i] > v[i]) {
        v[i] = other[i];
        if (kPairs) v[kN - kHalf + i] = other[kN - kHalf + i];
      }
    }
  }
}

template <class T>
__device__ __forceinline__ T* shared_at(unsigned char* memory, uint32_t at) {
  return reinterpret_cast<T*>(memory + at);
}

}  // namespace fl_cuda

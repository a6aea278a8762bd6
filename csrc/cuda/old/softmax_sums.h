// Sums by class of a block, one slot for each group of lanes that shares pixels with no other, and the record that they
// become.
#pragma once
#include "softmax_pixel.h"

namespace fl_old {

enum { kSaid = fl::kFixedSums, kTruth, kRight, kSlotSize };  // columns of a slot behind the sums: the statistics

// Slots lie in shared memory, [warps of a slice][C][width]; where they are too large, in the block's record, which then
// has a single warp's worth of pixels.
struct ClassSlots {
  double* base;
  int64_t warp;  // from one warp's slots to the next
  int width;

  __device__ __forceinline__ double& at(int lanes_warp, int64_t c, int column) const {
    return base[lanes_warp * warp + c * width + column];
  }
};
__host__ __device__ __forceinline__ int slot_width(const Params& p) {
  return p.counting ? kSlotSize + 1 : fl::kFixedSums;
}
__host__ __device__ __forceinline__ int64_t slot_bytes(const Params& p) {
  return tile_lanes(p) / kWarp * p.channels * slot_width(p) * 8;
}

__device__ __forceinline__ int64_t block_record(const Params& p) {
  return static_cast<int64_t>(blockIdx.x) * record_size(p);
}
// The slots, empty. p.cached says that they fit.
__device__ __forceinline__ ClassSlots make_slots(const Params& p, void* memory) {
  ClassSlots s;
  s.width = slot_width(p), s.warp = p.channels * s.width, s.base = static_cast<double*>(memory);
  int64_t size = tile_lanes(p) / kWarp * s.warp;
  if (!p.cached) s.base = p.records + block_record(p), s.width = sum_columns(p) + 4, size = record_size(p);
  for (int64_t k = threadIdx.x; k < size; k += blockDim.x) s.base[k] = 0.0;
  return s;
}

// Calls f(class, its lanes) for every class that a lane of the warp has; a negative id is none.
template <class F>
__device__ __forceinline__ void each_id(int id, const F& f) {
  unsigned left = __ballot_sync(kAllLanes, id >= 0);
  while (left) {
    const int c = __shfl_sync(kAllLanes, id, __ffs(static_cast<int>(left)) - 1);
    const unsigned same = __ballot_sync(kAllLanes, id == c);
    f(c, same);
    left &= ~same;
  }
}

// The block's record from the slots; `totals` are the sums of the pointwise terms.
template <class T>
__device__ __forceinline__ void write_record(const Params& p, const ClassSlots& s, const PointTerms<T>& terms,
                                             const double* totals, double valid, bool bad) {
  const int columns = sum_columns(p), warps = p.cached ? tile_lanes(p) / kWarp : 1;
  double* record = p.records + block_record(p);
  for (int64_t c = threadIdx.x; c < p.channels; c += blockDim.x) {
    double v[kSlotSize];
#pragma unroll
    for (int k = 0; k < kSlotSize; ++k) {
      v[k] = 0.0;
      for (int w = 0; w < warps && (k < kSaid || p.counting); ++w)
        v[k] += s.at(w, c, k < kSaid || p.cached ? k : columns + k - kSaid);
    }
    if (p.ids) v[fl::kTargetSq] = v[fl::kTarget];
    double* row = record + c * (columns + 4);
    row[fl::kValid] = valid;
#pragma unroll
    for (int k = fl::kInter; k < fl::kFixedSums; ++k) row[k] = v[k];
    for (int k = fl::kFixedSums; k < columns; ++k) row[k] = 0.0;
    for (int j = 0; c == 0 && j < terms.count; ++j) row[fl::kFixedSums + terms.term[j].index] = totals[j];
    row[columns] = v[kRight], row[columns + 1] = v[kSaid] - v[kRight], row[columns + 2] = v[kTruth] - v[kRight];
    row[columns + 3] = p.counting ? valid - v[kSaid] - v[kTruth] + v[kRight] : 0.0;
  }
  if (threadIdx.x == 0) record[record_size(p) - 1] = bad ? 1.0 : 0.0;
}

}  // namespace fl_old

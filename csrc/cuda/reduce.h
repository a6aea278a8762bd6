// Sums over a block in a fixed order: within warps by a butterfly, then over warps one after the other.
#pragma once
#include "device.h"

namespace fl_cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMaxThreads = 512, kMaxWarps = kMaxThreads / kWarp;

template <class T>
__device__ __forceinline__ T warp_sum(T v) {
  for (int d = kWarp / 2; d > 0; d /= 2) v += __shfl_xor_sync(kAllLanes, v, d);
  return v;
}

// Adds up v[0..kCount) of all threads; `total` (shared or global) gets the sums. `scratch` holds kCount * kMaxWarps.
template <int kCount>
__device__ __forceinline__ void block_sums(const double (&v)[kCount], double* scratch, double* total) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const double sum = warp_sum(v[i]);
    if (lane == 0) scratch[i * kMaxWarps + warp] = sum;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kCount; i += blockDim.x) {
    double sum = 0.0;
    for (int w = 0; w < warps; ++w) sum += scratch[i * kMaxWarps + w];
    total[i] = sum;
  }
  __syncthreads();
}

// The same for one number, which every thread gets.
__device__ __forceinline__ double block_sum(double v, double* scratch) {
  const double one[1] = {v};
  block_sums(one, scratch + 1, scratch);
  const double sum = scratch[0];
  __syncthreads();
  return sum;
}

}  // namespace fl_cuda

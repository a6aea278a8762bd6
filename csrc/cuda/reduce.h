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

// The same over runs of 2^n lanes. One copy, kept rolled: where a warp may have parted, the compiler writes each
// shuffle twice.
inline __device__ __noinline__ double lanes_sum(double v, int run = kWarp) {
#pragma unroll 1
  for (int d = run / 2; d > 0; d /= 2) v += __shfl_xor_sync(kAllLanes, v, d);
  return v;
}

// Of a block; all threads get the sum. `scratch` holds kMaxWarps.
__device__ __forceinline__ double block_sum(double v, double* scratch) {
  const double own = lanes_sum(v);
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = own;
  __syncthreads();
  double sum = 0.0;
#pragma unroll 1
  for (int i = 0; i < static_cast<int>(blockDim.x) / kWarp; ++i) sum += scratch[i];
  __syncthreads();
  return sum;
}

}  // namespace fl_cuda

// What a general kernel keeps of each thread in shared memory.
#pragma once
#include "walk.h"

namespace fl_cuda {

// Columns of shared memory, an entry a thread: the sums of the block by their slots (in double, and of the last turns
// in float), then of each pointwise term the weight of label 1 and what its slope is multiplied by.
template <class T>
struct Columns {
  static constexpr bool kSplit = sizeof(T) == 4;
  static constexpr int kBytesASlot = sizeof(double) + (kSplit ? sizeof(T) : 0), kBytesATerm = 2 * sizeof(T);
  double* totals;
  T *recent, *on, *scale;

  __device__ __forceinline__ Columns(unsigned char* memory, int slots, int terms) {
    const int n = blockDim.x;
    totals = reinterpret_cast<double*>(memory) + threadIdx.x;
    recent = reinterpret_cast<T*>(memory + (kSplit ? slots * n * sizeof(double) : 0)) + threadIdx.x;
    on = reinterpret_cast<T*>(memory + slots * n * kBytesASlot) + threadIdx.x;
    scale = on + terms * n;
#pragma unroll 1
    for (int i = 0; i < slots; ++i) {
      totals[i * n] = 0.0;
      if (kSplit) recent[i * n] = T(0);
    }
  }
  __device__ __forceinline__ void add(int slot, T v) { recent[slot * blockDim.x] += v; }
  __device__ __forceinline__ void add(int slot, const T (&v)[kPack]) { add(slot, (v[0] + v[1]) + (v[2] + v[3])); }
  __device__ __forceinline__ void flush(int slots) {
    const int n = blockDim.x;
#pragma unroll 1
    for (int i = 0; kSplit && i < slots; ++i) totals[i * n] += static_cast<double>(recent[i * n]), recent[i * n] = T(0);
  }
  // The sums of the threads of each channel, c of `channels`, a warp for each.
  __device__ __forceinline__ void leave(const Work& w, const Walk& k, uint32_t part, uint32_t self, int slots,
                                        int channels) {
    const double* first = totals - threadIdx.x;
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x / kWarp; i < slots * channels; i += blockDim.x / kWarp) {
      const int slot = i / channels, c = i % channels;
      double v = 0.0;
#pragma unroll 1
      for (int t = c + threadIdx.x % kWarp * channels; t < k.threads; t += kWarp * channels)
        v += first[slot * blockDim.x + t];
      v = lanes_sum(v);
      const uint32_t at = slot * static_cast<uint32_t>(w.parts) + part + c * k.run.d;
      if (threadIdx.x % kWarp == 0) w.partials[static_cast<int64_t>(at) * k.blocks.d + self] = v;
    }
    __syncthreads();
  }
};

}  // namespace fl_cuda

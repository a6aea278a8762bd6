// Small kernels that use what the losses' kernels use, some with a bug that the emulator must find.
#include "emulator.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

__device__ __forceinline__ float warp_sum(float v) {
  for (int by = warpSize / 2; by; by /= 2) v += __shfl_xor_sync(0xffffffffu, v, by);
  return v;
}

// The barrier between writing and reading the partial sums, and the one that keeps the next round from overwriting
// them, can be left out.
template <bool kFirst, bool kSecond>
__device__ float block_sum(float v) {
  __shared__ float partial[32];
  const int lane = threadIdx.x % warpSize, warp = threadIdx.x / warpSize;
  v = warp_sum(v);
  if (lane == 0) partial[warp] = v;
  if (kFirst) __syncthreads();
  float total = 0.0f;
  for (unsigned i = 0; i < blockDim.x / warpSize; ++i) total += partial[i];
  if (kSecond) __syncthreads();
  return total;
}

struct Params {
  const float* x;
  float* out;
  int64_t n;
};

template <bool kFirst, bool kSecond>
__global__ void __launch_bounds__(256) sum_rows(const FL_GRID_CONSTANT Params p, int rounds) {
  for (int r = 0; r < rounds; ++r) {
    const float* row = p.x + (int64_t(blockIdx.x) * rounds + r) * p.n;
    float v = 0.0f;
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x) v += __ldg(row + i);
    v = block_sum<kFirst, kSecond>(v);
    if (threadIdx.x == 0) p.out[blockIdx.x * rounds + r] = v;
  }
}

// x / sum(x), each block holding its part in shared memory across the barrier.
__global__ void normalise(const FL_GRID_CONSTANT Params p, float* partials, bool barrier) {
  FL_DYNAMIC_SHARED(memory);
  __shared__ unsigned who;
  float* mine = reinterpret_cast<float*>(memory);
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  mine[threadIdx.x] = i < p.n ? p.x[i] : 0.0f;
  if (threadIdx.x == 0) who = blockIdx.x;
  const float sum = block_sum<true, true>(mine[threadIdx.x]);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
  if (barrier) grid_sync();
  float total = 0.0f;
  for (unsigned b = 0; b < gridDim.x; ++b) total += partials[b];
  if (i < p.n) p.out[i] = who == blockIdx.x ? mine[threadIdx.x] / total : -1.0f;
}

__global__ void histogram(const unsigned* x, int64_t n, unsigned* counts, unsigned long long* largest) {
  __shared__ unsigned local[256];
  local[threadIdx.x] = 0;
  __syncthreads();
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x) {
    atomicAdd(&local[x[i] & 255], 1u);
    atomicMax(largest, static_cast<unsigned long long>(x[i]) << 20);
  }
  __syncthreads();
  atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);
}

// Each collective once; lane i brings i + 100 of warp 0, and a second value that needs 64 bits.
__global__ void collectives(int64_t* out) {
  const int lane = threadIdx.x;
  const unsigned all = 0xffffffffu, odd = __ballot_sync(all, lane & 1);
  const double wide = lane + 1e-9;
  int64_t r[16] = {};
  r[0] = __shfl_sync(all, lane + 100, 5);
  r[1] = __shfl_xor_sync(all, lane + 100u, 3);
  r[2] = __shfl_down_sync(all, int64_t(lane) << 40, 4);
  r[3] = __shfl_up_sync(all, lane, 2);
  r[4] = __shfl_down_sync(all, wide, 1, 8) == lane + (lane % 8 < 7) + 1e-9;
  r[5] = odd;
  r[6] = __any_sync(all, lane == 31) && !__any_sync(all, lane == 32);
  r[7] = __all_sync(all, lane < 32) && !__all_sync(all, lane < 31);
  r[8] = __reduce_add_sync(all, lane);
  r[9] = __match_any_sync(all, lane % 4);
  if (lane & 1) r[10] = __shfl_xor_sync(odd, lane, 2);
  __syncwarp();
  r[11] = __syncthreads_count(lane < 7);
  r[12] = __popc(odd) + 100 * __clz(1) + 10000 * __ffs(8);
  for (int k = 0; k < 16; ++k) out[k * warpSize + lane] = r[k];
}

__global__ void pack(const float* x, __half* h, __nv_bfloat16* b, float4* copies) {
  const int i = threadIdx.x;
  h[i] = __float2half_rn(x[i]);
  b[i] = __float2bfloat16_rn(x[i]);
  if (i % 4 == 0) __stcs(copies + i / 4, __ldcs(reinterpret_cast<const float4*>(x + i)));
}

enum Bug {
  kSharedEnd,
  kDynamicEnd,
  kGlobalEnd,
  kMisaligned,
  kUninitialised,
  kDivergent,
  kLaneMissing,
  kGridSync,
  kHalfBlock,
  kLines
};

__global__ void wrong(int bug, float* x, int n) {
  FL_DYNAMIC_SHARED(memory);
  __shared__ float fixed[32];
  float* dynamic = reinterpret_cast<float*>(memory);
  const unsigned all = 0xffffffffu, lane = threadIdx.x;
  if (bug == kSharedEnd) fixed[lane + n] = 1.0f;
  if (bug == kDynamicEnd) dynamic[lane + n] = 1.0f;
  if (bug == kGlobalEnd) x[lane + n] = 1.0f;
  if (bug == kMisaligned) x[lane] = reinterpret_cast<float4*>(x + 1)->x;
  if (bug == kUninitialised) x[lane] = fixed[lane] + dynamic[lane];
  if (bug == kDivergent && lane < 16) __shfl_xor_sync(all, lane, 1);
  if (bug == kLaneMissing) __shfl_sync(lane < 16 ? 0xffffu : 0xffff0000u, lane, 3);
  if (bug == kGridSync) grid_sync();
  if (bug == kHalfBlock && lane < 16) {
    __syncthreads();
    __syncwarp(all);
  }
  if (bug == kLines) {
    if (lane < 16)
      __syncthreads();
    else
      __syncthreads();
  }
}

}  // namespace

EXPORT int run_sum(const float* x, float* out, int64_t n, int blocks, int rounds, bool first, bool second) {
  const auto kernel = first ? (second ? &sum_rows<true, true> : &sum_rows<true, false>) : &sum_rows<false, true>;
  return FL_LAUNCH(kernel, blocks, 256, 0, nullptr, Params{x, out, n}, rounds);
}
EXPORT int run_normalise(const float* x, float* out, float* partials, int64_t n, int blocks, int threads,
                         bool barrier) {
  return FL_LAUNCH_COOPERATIVE(normalise, blocks, threads, threads * sizeof(float), nullptr, Params{x, out, n},
                               partials, barrier);
}
EXPORT int run_histogram(const unsigned* x, int64_t n, unsigned* counts, unsigned long long* largest, int blocks) {
  return FL_LAUNCH(histogram, dim3(blocks), dim3(256), 0, nullptr, x, n, counts, largest);
}
EXPORT int run_collectives(int64_t* out) { return FL_LAUNCH(collectives, 1, warpSize, 0, nullptr, out); }
EXPORT int run_pack(const float* x, __half* h, __nv_bfloat16* b, float4* copies, int n) {
  return FL_LAUNCH(pack, 1, n, 0, nullptr, x, h, b, copies);
}
EXPORT int run_wrong(int bug, float* x, int n) { return FL_LAUNCH(wrong, 1, warpSize, 128, nullptr, bug, x, n); }
EXPORT int shared_limit(int bytes, int wanted) {
  if (wanted) cudaFuncSetAttribute(wrong, cudaFuncAttributeMaxDynamicSharedMemorySize, wanted);
  return FL_LAUNCH(wrong, 1, warpSize, bytes, nullptr, -1, static_cast<float*>(nullptr), 0);
}

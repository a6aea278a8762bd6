// What kernels see of the machine: CUDA under nvcc, the emulator of csrc/emulator under g++ (FASTLOSS_EMULATED).
#pragma once
#ifdef FASTLOSS_EMULATED
#include "../emulator/emulator.h"
#else
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define FL_GRID_CONSTANT __grid_constant__
#define FL_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

namespace fl_cuda {
__device__ __forceinline__ void grid_sync() { cooperative_groups::this_grid().sync(); }

template <class... Formal, class... Actual>
cudaError_t launch(void (*kernel)(Formal...), bool cooperative, int64_t grid, int block, size_t shared,
                   cudaStream_t stream, const Actual&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid)), config.blockDim = dim3(block);
  config.dynamicSmemBytes = shared, config.stream = stream;
  config.attrs = &attribute, config.numAttrs = cooperative ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Formal>(arguments)...);
}
}  // namespace fl_cuda

#define FL_LAUNCH(kernel, grid, block, shared, stream, ...) \
  fl_cuda::launch(kernel, false, grid, block, shared, stream, __VA_ARGS__)
#define FL_LAUNCH_COOPERATIVE(kernel, grid, block, shared, stream, ...) \
  fl_cuda::launch(kernel, (grid) > 1, grid, block, shared, stream, __VA_ARGS__)
#endif

namespace fl_cuda {
// A barrier of all blocks of a cooperative launch, or of the only one of any launch.
__device__ __forceinline__ void grid_barrier() {
  if (gridDim.x == 1)
    __syncthreads();
  else
    grid_sync();
}
}  // namespace fl_cuda

// The end of the sums as launches of its own, where the blocks did not meet.
#include "epilogue.h"

#include "dispatch.h"

namespace fl_cuda {
namespace {

constexpr int kFinishThreads = 512, kReduceThreads = 256;

__global__ void __launch_bounds__(kFinishThreads)
    epilogue(const FL_GRID_CONSTANT Work w, const FL_GRID_CONSTANT Launch l) {
  __shared__ Epilogue e;
  finish_sums(w, l, e);
}

// Many sums: a warp for each, then one block for the loss.
__global__ void __launch_bounds__(kReduceThreads)
    reduce_sums(const FL_GRID_CONSTANT Work w, const FL_GRID_CONSTANT Launch l) {
  const int warps = blockDim.x / kWarp, size = static_cast<int>(sums_size(w));
#pragma unroll 1
  for (int k = blockIdx.x * warps + threadIdx.x / kWarp; k < size + kTermTotals + w.spec.n_terms;
       k += gridDim.x * warps) {
    const double sum = add_sum(w, l, k);
    if (threadIdx.x % kWarp == 0) (k < size ? w.sums : w.totals - size)[k] = sum;
  }
  if (w.counts) store_counts(w, l);
}
__global__ void __launch_bounds__(kFinishThreads) finalize_sums(const FL_GRID_CONSTANT Work w) {
  __shared__ double scratch[kMaxWarps];
  const double loss = finalize(w, BlockTeam{scratch}, w.sums, w.totals, w.grad_sums);
  store_results(w, loss, w.totals[kBadTotal] != 0.0, w.sums, w.grad_sums);
}

}  // namespace

cudaError_t launch_epilogue(const Work& w, const Launch& l, cudaStream_t stream) {
  if (finishes_in_block(w)) return FL_LAUNCH(epilogue, 1, kFinishThreads, 0, stream, w, l);
  const int64_t warps = kReduceThreads / kWarp, wanted = (sums_size(w) + warps - 1) / warps;
  const int64_t limit = 8 * device().processors;
  const cudaError_t error = FL_LAUNCH(reduce_sums, wanted < limit ? wanted : limit, kReduceThreads, 0, stream, w, l);
  return error == cudaSuccess ? FL_LAUNCH(finalize_sums, 1, kFinishThreads, 0, stream, w) : error;
}

}  // namespace fl_cuda

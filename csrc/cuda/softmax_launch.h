// Which of the kernels for few classes a call takes, and their launches, for one type of logits.
#pragma once
#include "launch.h"
#include "softmax_small_kernel.h"

namespace fl_cuda {

// Multiprocessors hold two blocks of the kernels that stream.
constexpr int kSmallBlocks = 2;
constexpr int64_t kFewSums = 4096;  // numbers in records that the last block of a resident grid reduces by itself

inline int64_t point_bytes(const Params& p, int threads) {
  int64_t terms = 0;
  for (int i = 0; i < p.spec.n_terms; ++i) terms += p.spec.terms[i].kind != fl::kTversky;
  return terms * threads * 8;
}

template <class X, int kC, SoftmaxPhase kPhase>
cudaError_t launch_small(Call& c, bool cooperative, int64_t extra) {
  Params& p = c.p;
  const int threads = kSmallThreads<kPhase, kC>;
  const size_t shared = point_bytes(p, threads) + p.cached * extra;
  const auto kernel = softmax_small<X, kC, kPhase>;
  if (shared > 32768) {
    const auto most = cudaFuncAttributeMaxDynamicSharedMemorySize;
    const cudaError_t error = cudaFuncSetAttribute(kernel, most, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  const int64_t grid = p.parts * p.blocks + (cooperative ? 1 : 0);
  if (cooperative) return FL_LAUNCH_COOPERATIVE(kernel, grid, threads, shared, c.stream, p);
  return FL_LAUNCH(kernel, grid, threads, shared, c.stream, p);
}

template <class X, int kC, SoftmaxPhase kPhase>
cudaError_t stream_small(Call& c) {
  constexpr int kTile = kSmallThreads<kPhase, kC> * kSmallWidth<kC>;
  divide(c.p, c.p.parts, c.p.planes, kTile, kSmallBlocks * device().processors);
  c.p.cached = 0, c.p.is_reduced = false;
  return launch_small<X, kC, kPhase>(c, false, 0);
}

// Forward and backward in one launch: a single block, or as many as there are multiprocessors but one, which finishes
// the sums. False: the call does not fit.
template <class X, int kC>
bool try_resident(Call& c, cudaError_t& error) {
  Params& p = c.p;
  const Path path = forced_path();
  if (path == kSplit) return false;
  constexpr int kThreads = kSmallThreads<kSoftmaxAll, kC>, kV = kSmallWidth<kC>;
  const int64_t row = kThreads * kV * (p.channels * static_cast<int64_t>(sizeof(X)) + 1);
  const int64_t left = device().shared - static_cast<int64_t>(sizeof(SmallShared<kC>)) - point_bytes(p, kThreads);
  const int64_t rows = left > 0 ? left / row : 0;
  const auto keep = [&] {
    const int64_t each = (p.tiles + p.blocks - 1) / p.blocks;
    p.cached = static_cast<int>(each < rows ? each : rows);
    return each;
  };
  p.is_reduced = false;
  divide(p, p.parts, p.planes, kThreads * kV, 1);
  if (p.parts == 1 && path != kResident && (p.tiles <= kSmallTiles || path == kSmall)) {
    keep();
    error = launch_small<X, kC, kSoftmaxAll>(c, false, row);
    return true;
  }
  const int64_t workers = device().processors - 1;
  if (path == kSmall || !device().cooperative || p.parts > workers || p.tiles == 0) return false;
  divide(p, p.parts, p.planes, kThreads * kV, workers);
  if (keep() > kOverflow * static_cast<double>(rows) && path == kAuto) return false;
  p.is_reduced = p.parts * p.blocks * record_size(p) > kFewSums;
  error = launch_small<X, kC, kSoftmaxAll>(c, true, row);
  p.is_reduced = false;
  return !refused(error);
}

template <class X, int kC>
cudaError_t small_forward(Call& c, bool at_once) {
  Params& p = c.p;
  cudaError_t error = cudaSuccess;
  if (p.out.data && !at_once && try_resident<X, kC>(c, error)) return error;
  error = p.out.data && at_once ? stream_small<X, kC, kSoftmaxBoth>(c) : stream_small<X, kC, kSoftmaxSums>(c);
  if (error == cudaSuccess) error = launch_finish(p, c.stream);
  if (error == cudaSuccess && p.out.data && !at_once) error = stream_small<X, kC, kSoftmaxGrad>(c);
  return error;
}

template <class X>
cudaError_t softmax_small_forward(Call& c, bool at_once) {
  if (c.p.channels <= 4) return small_forward<X, 4>(c, at_once);
  if (c.p.channels <= 8) return small_forward<X, 8>(c, at_once);
  return small_forward<X, 16>(c, at_once);
}
template <class X>
cudaError_t softmax_small_backward(Call& c) {
  if (c.p.channels <= 4) return stream_small<X, 4, kSoftmaxGrad>(c);
  if (c.p.channels <= 8) return stream_small<X, 8, kSoftmaxGrad>(c);
  return stream_small<X, 16, kSoftmaxGrad>(c);
}
template <class X>
cudaError_t softmax_small_keys(Call& c) {
  c.p.keying = true;
  const cudaError_t error = c.p.channels <= 4   ? stream_small<X, 4, kSoftmaxSums>(c)
                            : c.p.channels <= 8 ? stream_small<X, 8, kSoftmaxSums>(c)
                                                : stream_small<X, 16, kSoftmaxSums>(c);
  c.p.keying = false;
  return error;
}

}  // namespace fl_cuda

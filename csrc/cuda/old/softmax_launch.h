// What the kernel for few classes does in a call, in how many launches, for one type of logits.
#pragma once
#include "launch.h"
#include "softmax_kinds.h"
#include "softmax_small_kernel.h"

namespace fl_old {

constexpr int kSmallBlocks = 2;     // of a multiprocessor, where pixels only pass
constexpr int64_t kFewSums = 4096;  // numbers in records that one block of a cooperative grid reduces by itself

inline int64_t point_bytes(const Params& p, int threads) {
  int64_t terms = 0;
  for (int i = 0; i < p.spec.n_terms; ++i) terms += p.spec.terms[i].kind != fl::kTversky;
  return terms * threads * 8;
}

// spare: one more block, without pixels, finishes the sums; else the last of the others does, in memory of its own.
template <class X, int kC>
cudaError_t launch_small(Call& c, int threads, int64_t cached_bytes, bool spare) {
  Params& p = c.p;
  const int64_t grid = p.parts * p.blocks + spare, scratch = (sizeof(FinishScratch) + 15) / 16 * 16;
  const bool finishes = p.phase != kGradPhase && p.phase != kKeyPhase && (p.cooperative || grid == 1);
  const int64_t before = p.selecting ? kSelectBytes : 0, after = finishes && !spare ? scratch : 0;
  p.head = static_cast<int>(before > after ? before : after);
  int64_t shared = p.head + point_bytes(p, threads) + cached_bytes;
  if (finishes && shared < scratch) shared = scratch;
  const auto kernel = softmax_small<X, kC>;
  if (shared > 32768) {
    const auto most = cudaFuncAttributeMaxDynamicSharedMemorySize;
    const cudaError_t error = cudaFuncSetAttribute(kernel, most, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  p.is_reduced = p.cooperative && grid > 1 && p.parts * p.blocks * record_size(p) > kFewSums;
  const cudaError_t error = p.cooperative ? FL_LAUNCH_COOPERATIVE(kernel, grid, threads, shared, c.stream, p)
                                          : FL_LAUNCH(kernel, grid, threads, shared, c.stream, p);
  p.is_reduced = p.cooperative = false;
  return error;
}

// Pixels pass: they are read, and written where this phase does.
template <class X, int kC>
cudaError_t stream_small(Call& c, Phase phase, bool cooperative = false) {
  Params& p = c.p;
  constexpr int kThreads = kPassingThreads<kC>;
  divide(p, p.parts, p.planes, kThreads * kSmallWidth<kC>, kSmallBlocks * device().processors);
  p.cached = 0, p.phase = phase, p.cooperative = cooperative;
  return launch_small<X, kC>(c, kThreads, 0, false);
}

// Pixels stay: forward and backward in one launch, or forward with top-k. A single block, or as many as there are
// multiprocessors but one, which finishes the sums. False: the call does not run so.
template <class X, int kC>
bool hold_small(Call& c, Phase phase, cudaError_t& error) {
  Params& p = c.p;
  const Path path = forced_path();
  if (path == kSplit) return false;
  constexpr int kThreads = kHoldingThreads<kC>, kV = kSmallWidth<kC>;
  const int64_t logits = phase == kAllPhases ? p.channels * static_cast<int64_t>(sizeof(X)) + 1 : 0;
  const int64_t row = kThreads * kV * (logits + (p.selecting ? 4 : 0));
  const int64_t room = device().block_shared - static_cast<int64_t>(sizeof(SmallShared<kC>)) - point_bytes(p, kThreads);
  int64_t rows = 0;
  const auto keep = [&](int64_t head) {
    const int64_t each = (p.tiles + p.blocks - 1) / p.blocks;
    rows = room > head ? (room - head) / row : 0;
    p.cached = static_cast<int>(each < rows ? each : rows);
    return each;
  };
  p.phase = phase;
  divide(p, p.parts, p.planes, kThreads * kV, 1);
  if (p.parts == 1 && path != kResident && (p.tiles <= kSmallTiles || path == kSmall)) {
    keep(p.selecting ? kSelectBytes : sizeof(FinishScratch) + 16);
    error = launch_small<X, kC>(c, kThreads, p.cached * row, false);
    return true;
  }
  const int64_t workers = device().processors - 1;
  if (path == kSmall || !device().cooperative || p.parts > workers || p.tiles == 0) return false;
  divide(p, p.parts, p.planes, kThreads * kV, workers);
  const bool fits = keep(p.selecting ? kSelectBytes : 0) <= kOverflow * static_cast<double>(rows);
  if (!fits && path == kAuto && phase == kAllPhases) return false;
  p.cooperative = true;
  const cudaError_t outcome = launch_small<X, kC>(c, kThreads, p.cached * row, true);
  if (refused(outcome)) return false;
  error = outcome;
  return true;
}

// The sums, and the gradient where it can leave at once; with their end in one launch where blocks can meet.
template <class X, int kC>
cudaError_t small_sums(Call& c) {
  Params& p = c.p;
  const Phase phase = p.at_once ? kBothPhases : kSumPhase;
  if (device().cooperative && p.parts <= kSmallBlocks * device().processors && forced_path() != kSplit) {
    const cudaError_t error = stream_small<X, kC>(c, phase, true);
    if (!refused(error)) return error;
  }
  const cudaError_t error = stream_small<X, kC>(c, phase);
  return error == cudaSuccess && p.parts * p.blocks > 1 ? launch_finish(p, c.stream) : error;
}

template <class X, int kC>
cudaError_t small_forward(Call& c, bool at_once) {
  Params& p = c.p;
  cudaError_t error = cudaSuccess;
  const bool grads = p.out.data;
  p.at_once = grads && at_once, p.selecting = p.spec.any(fl::kTopk);
  if (grads && (p.selecting || !at_once) && hold_small<X, kC>(c, kAllPhases, error)) return error;
  if (p.selecting) {
    p.at_once = false;
    const bool done = hold_small<X, kC>(c, kSumPhase, error);
    p.selecting = false;
    if (done) return error == cudaSuccess && grads ? stream_small<X, kC>(c, kGradPhase) : error;
    p.at_once = grads && at_once;
    error = stream_small<X, kC>(c, kKeyPhase);
    if (error == cudaSuccess) error = softmax_select<float>(c);
  }
  if (error == cudaSuccess) error = small_sums<X, kC>(c);
  return error == cudaSuccess && grads && !at_once ? stream_small<X, kC>(c, kGradPhase) : error;
}

template <class X>
cudaError_t softmax_small_forward(Call& c, bool at_once) {
  if (c.p.channels <= 4) return small_forward<X, 4>(c, at_once);
  if (c.p.channels <= 8) return small_forward<X, 8>(c, at_once);
  return small_forward<X, 16>(c, at_once);
}
template <class X>
cudaError_t softmax_small_backward(Call& c) {
  if (c.p.channels <= 4) return stream_small<X, 4>(c, kGradPhase);
  if (c.p.channels <= 8) return stream_small<X, 8>(c, kGradPhase);
  return stream_small<X, 16>(c, kGradPhase);
}

}  // namespace fl_old

// The kernel of softmax_small.h. In its last form, forward and backward in one launch, logits stay in shared memory
// across a barrier of the whole grid; tiles that do not fit are read again, last first, from L2.
#pragma once
#include "softmax_small_steps.h"

namespace fl_cuda {

// Whether the next tile is loaded while this one is worked on: where there are registers for it. Small pixels need it
// to keep enough bytes in flight.
template <class X, int kC>
constexpr bool kLoadsAhead = kC * kSmallWidth<kC> * sizeof(X) <= 64;

// Dynamic shared memory: a slot per thread and pointwise term, then the kept logits [cached][C][thread], then the kept
// classes [cached][thread] as bytes.
template <class X, int kC, SoftmaxPhase kPhase>
__global__ void __launch_bounds__(kSmallThreads<kPhase, kC>, kPhase == kSoftmaxAll ? 1 : 2)
    softmax_small(const FL_GRID_CONSTANT Params p) {
  constexpr int kV = kSmallWidth<kC>;
  constexpr bool kAll = kPhase == kSoftmaxAll, kAhead = kLoadsAhead<X, kC>;
  using Row = Vector<X, kV>;
  FL_DYNAMIC_SHARED(memory);
  __shared__ SmallShared<kC> s;
  __shared__ std::conditional_t<kAll, FinishScratch, char> ending;
  if (kPhase == kSoftmaxGrad && is_settled(p)) return;
  const bool alone = gridDim.x == 1;
  if constexpr (kAll) {
    if (!alone && blockIdx.x == gridDim.x - 1) {
      meet();
      if (p.is_reduced) meet();
      finish(p, ending);
      return meet();
    }
  }
  const SmallAccess<X, kV> access(p);
  const Part part = part_of(p, blockIdx.x / p.blocks);
  const uint32_t step = p.blocks, first = blockIdx.x % step;
  const uint32_t steps = p.tiles > first ? (p.tiles - 1 - first) / step + 1 : 0;
  const int64_t row_at = part.row * p.channels * sum_columns(p);
  set_slopes(p, kPhase == kSoftmaxGrad ? p.dsums + row_at : nullptr, kPhase == kSoftmaxGrad || kPhase == kSoftmaxBoth,
             s);

  double* points = reinterpret_cast<double*>(memory);
  Row* kept = reinterpret_cast<Row*>(points + s.terms.count * blockDim.x);
  const uint32_t cached = kAll ? (static_cast<uint32_t>(p.cached) < steps ? p.cached : steps) : 0;
  auto* classes =
      reinterpret_cast<Vector<uint8_t, kV>*>(kept + static_cast<size_t>(p.cached) * p.channels * blockDim.x);
  bool bad = false;

  if constexpr (kPhase != kSoftmaxGrad) {
    clear_points(points, s.terms.count);
    for (int k = threadIdx.x; k < 3 * kC * kMaxWarps; k += blockDim.x) (&s.sums[0][0][0])[k] = 0.0;
    __syncthreads();
    SmallSums<kC> sums;
    sums.clear();
    Planes<X, kC> v;
    int id[kV];
    const auto load = [&](uint32_t k) {
      const SmallPlace at = small_place<kV>(p, part.sample, first + k * step);
      load_ids<kV>(p, access, at, id, bad);
      load_planes<kPhase == kSoftmaxBoth, X, kC>(p, access.x, at, v);
    };
    if (kAhead && steps) load(0);
    for (uint32_t k = 0; k < steps; ++k) {
      if (!kAhead) load(k);
      const SmallPlace at = small_place<kV>(p, part.sample, first + k * step);
      SmallSoftmax<kC> a;
      float slope[kV];
#pragma unroll
      for (int i = 0; i < kV; ++i) a.id[i] = id[i];
      if (kAll && k < cached) {
#pragma unroll
        for (int c = 0; c < kC; ++c) {
          if (c >= p.channels) break;
          kept[(k * p.channels + c) * blockDim.x + threadIdx.x].chunk[0] = v[c].chunk[0];
        }
        Vector<uint8_t, kV> own;
#pragma unroll
        for (int i = 0; i < kV; ++i) own.x[i] = static_cast<uint8_t>(a.id[i]);
        classes[k * blockDim.x + threadIdx.x].chunk[0] = own.chunk[0];
      }
      a.template set<X>(p, access.brain, v);
      if (kAhead && k + 1 < steps) load(k + 1);
      if (kPhase == kSoftmaxSums && p.keying) {
        store_keys(p, s, at, a);
        continue;
      }
      count_targets(a, sums);
      if (kPhase != kSoftmaxBoth && s.terms.region) add_classes(p, a, sums);
      if (s.terms.count) add_terms<true, kPhase == kSoftmaxBoth>(s, a, points, slope);
      if constexpr (kPhase == kSoftmaxBoth) store_gradient<X>(p, s, access, at, a, slope);
      if (k % kTilesPerFlush == kTilesPerFlush - 1) sums.flush(s);
    }
    if (kPhase == kSoftmaxSums && p.keying) return;
    sums.flush(s);
    write_record(p, s, points, bad);
  }
  if constexpr (kAll) {
    if (alone) {
      __syncthreads();
      finish(p, ending);
    } else {
      meet();
      if (p.is_reduced) {
        reduce_records(p, p.reduced, blockIdx.x, gridDim.x - 1);
        meet();
      }
      meet();
    }
    set_slopes(p, p.dsums + row_at, true, s);
  }
  if constexpr (kPhase == kSoftmaxGrad || kAll) {
    Planes<X, kC> v;
    int id[kV];
    const auto load = [&](uint32_t k) {
      if (kAll && k < cached) {
        Vector<uint8_t, kV> own;
        own.chunk[0] = classes[k * blockDim.x + threadIdx.x].chunk[0];
#pragma unroll
        for (int i = 0; i < kV; ++i) id[i] = static_cast<int8_t>(own.x[i]);
#pragma unroll
        for (int c = 0; c < kC; ++c) {
          if (c >= p.channels) break;
          v[c].chunk[0] = kept[(k * p.channels + c) * blockDim.x + threadIdx.x].chunk[0];
        }
      } else {
        const SmallPlace at = small_place<kV>(p, part.sample, first + k * step);
        load_ids<kV>(p, access, at, id, bad);
        load_planes<true, X, kC>(p, access.x, at, v);
      }
    };
    if (kAhead && steps) load(steps - 1);
    for (uint32_t k = steps; k-- > 0;) {
      if (!kAhead) load(k);
      const SmallPlace at = small_place<kV>(p, part.sample, first + k * step);
      SmallSoftmax<kC> a;
      float slope[kV];
#pragma unroll
      for (int i = 0; i < kV; ++i) a.id[i] = id[i];
      a.template set<X>(p, access.brain, v);
      if (kAhead && k) load(k - 1);
      add_terms<false, true>(s, a, points, slope);
      store_gradient<X>(p, s, access, at, a, slope);
    }
  }
}

}  // namespace fl_cuda

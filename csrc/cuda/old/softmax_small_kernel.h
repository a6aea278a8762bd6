// The kernel of softmax_small.h: every phase of a call, chosen at run time outside of the loops over pixels. Where all
// of them are one launch, logits stay in shared memory across the barriers of the grid; tiles that do not fit are read
// again, last first, from L2.
#pragma once
#include "softmax_small_topk.h"

namespace fl_old {

// Whether the next tile is loaded while this one is worked on: where there are registers for it. Small pixels need it
// to keep enough bytes in flight.
template <class X, int kC>
constexpr bool kLoadsAhead = kC * kSmallWidth<kC> * sizeof(X) <= 64;

// The sums, or the keys; the gradient too where it can leave at once.
template <class X, int kC>
__device__ __forceinline__ void small_sums(const Params& p, const SmallTiles<X, kC>& tiles, SmallShared<kC>& s,
                                           DigitCounter<float>& counter) {
  constexpr int kV = kSmallWidth<kC>;
  constexpr bool kAhead = kLoadsAhead<X, kC>;
  const SmallAccess& access = s.access;
  const bool both = p.phase == kBothPhases, keying = p.phase == kKeyPhase;
  SmallSums<kC> sums;
  sums.clear();
  Planes<X, kC> v;
  int id[kV];
  bool bad = false;
  if (kAhead && tiles.steps) tiles.load(access, 0, both, v, id, bad);
  for (uint32_t k = 0; k < tiles.steps; ++k) {
    if (!kAhead) tiles.load(access, k, both, v, id, bad);
    SmallSoftmax<kC> a;
#pragma unroll
    for (int i = 0; i < kV; ++i) a.id[i] = id[i];
    if (tiles.holds() && k < tiles.cached) tiles.keep(k, v, id);
    a.template set<X>(p, access.brain, v);
    if (kAhead && k + 1 < tiles.steps) tiles.load(access, k + 1, both, v, id, bad);
    if (p.selecting || keying) {
      const auto key = keys_of(s, a);
      tiles.keep_keys(k, key);
      if (p.selecting) count_keys(counter, key);
      if (keying) continue;
    }
    count_targets(a, sums);
    if (s.terms.region) add_classes(p, a, sums);
    float slope[kV];
    if (both) {
      add_terms<true, true>(s, a, false, tiles.points, slope);
      store_gradient<X>(p, s, access, tiles.place(k), a, slope);
    } else if (s.terms.count) {
      add_terms<true, false>(s, a, p.selecting, tiles.points, slope);
    }
    if (k % kTilesPerFlush == kTilesPerFlush - 1) sums.flush(s);
  }
  sums.flush(s);
  if (bad) s.bad = 1;
}

template <class X, int kC>
__device__ __forceinline__ void small_gradient(const Params& p, const SmallTiles<X, kC>& tiles,
                                               const SmallShared<kC>& s) {
  constexpr int kV = kSmallWidth<kC>;
  constexpr bool kAhead = kLoadsAhead<X, kC>;
  const SmallAccess& access = s.access;
  Planes<X, kC> v;
  int id[kV];
  if (kAhead && tiles.steps) tiles.load_again(access, tiles.steps - 1, v, id);
  for (uint32_t k = tiles.steps; k-- > 0;) {
    if (!kAhead) tiles.load_again(access, k, v, id);
    SmallSoftmax<kC> a;
    float slope[kV];
#pragma unroll
    for (int i = 0; i < kV; ++i) a.id[i] = id[i];
    a.template set<X>(p, access.brain, v);
    if (kAhead && k) tiles.load_again(access, k - 1, v, id);
    add_terms<false, true>(s, a, false, tiles.points, slope);
    store_gradient<X>(p, s, access, tiles.place(k), a, slope);
  }
}

// The last block of a grid that holds pixels has none: it finishes the sums.
template <class X, int kC>
__global__ void __launch_bounds__(kHoldingThreads<kC>, 1) softmax_small(const FL_GRID_CONSTANT Params p) {
  FL_DYNAMIC_SHARED(memory);
  __shared__ SmallShared<kC> s;
  const bool late = p.phase == kGradPhase;
  if (late && is_settled(p)) return;
  const auto tiles = [&] {  // made anew each time, so that nothing of it stays in registers from barrier to barrier
    uint32_t block = blockIdx.x;
    renew(block);
    return SmallTiles<X, kC>(p, block, s.terms.count, memory);
  };
  const auto row = [&] { return p.dsums + tiles().part.row * p.channels * sum_columns(p); };
  if (threadIdx.x == 0) s.access.template set<X, kSmallWidth<kC>>(p);
  set_slopes(p, late ? row() : nullptr, late || p.at_once, s);
  if (!late) {
    DigitCounter<float>& counter = *reinterpret_cast<DigitCounter<float>*>(memory);
    clear_points(tiles().points, s.terms.count);
    for (int k = threadIdx.x; k < 3 * kC * kMaxWarps; k += blockDim.x) (&s.sums[0][0][0])[k] = 0.0;
    if (threadIdx.x == 0) s.bad = 0;
    if (p.selecting) clear_histograms(p), counter.begin(0, 0);
    __syncthreads();
    small_sums<X, kC>(p, tiles(), s, counter);
    if (p.phase == kKeyPhase) return;
    if (p.selecting) {
      select<X, kC>(p, s, counter, *reinterpret_cast<Found*>(memory + sizeof(counter)), tiles());
      add_picked<X, kC>(s, tiles());
    }
    __syncthreads();
    if (blockIdx.x < p.parts * p.blocks) write_record(p, s, tiles().points);
    if (gridDim.x > 1 && !p.cooperative) return;
    grid_barrier();
    if (p.is_reduced) {
      reduce_records(p, p.reduced, blockIdx.x, gridDim.x);
      grid_barrier();
    }
    if (blockIdx.x == gridDim.x - 1) finish(p, *reinterpret_cast<FinishScratch*>(memory));
    if (p.phase != kAllPhases) return;
    if (!p.at_once) {
      grid_barrier();
      set_slopes(p, row(), true, s);
    }
  }
  small_gradient<X, kC>(p, tiles(), s);
}

}  // namespace fl_old

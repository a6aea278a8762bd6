// The same terms where the logits do not stay on the chip: one pass for the sums, one (the last tiles first: they are
// still in L2) for the gradient. A pointwise term alone, unmasked, needs a single pass.
#pragma once
#include "sigmoid_resident.h"

namespace fl_old {

constexpr int kStreamThreads = 256;
// Blocks of a multiprocessor, which the registers allow.
constexpr int kStreamBlocks = 3, kPointwiseBlocks = 2;

// One instance for the phases, which differ from launch to launch: code beside the loop that runs costs nothing.
template <class X, class Element>
__global__ void __launch_bounds__(kStreamThreads, kStreamBlocks) sigmoid_stream(const FL_GRID_CONSTANT Params p) {
  __shared__ FinishScratch s;
  if (p.phase == kGradPhase && is_settled(p)) return;
  if (p.phase != kGradPhase) {
    const Share own(p, blockIdx.x);
    const Element element(p, own.part.channel);
    HotTotal total;
    for (uint32_t tile = own.self; tile < p.tiles; tile += kBatch * own.step) {
      Batch<X, int64_t> b;
      load_batch<false>(p, own.part, tile, own.step, b, total.bad);
      add_batch<Element, true>(element, b, total);
    }
    if (own.self == 0) tail<X, Element, true, kSumPhase>(p, own.part, element, total, HotSlopes{});
    write_record(p, total, s, p.records + blockIdx.x * record_size(p));
    if (gridDim.x > 1 && !p.cooperative) return;
    grid_barrier();
    if (blockIdx.x == 0) finish(p, s);
    if (p.phase == kSumPhase) return;
    grid_barrier();
  }
  uint32_t block = blockIdx.x;
  renew(block);
  const Share own(p, block);
  const Element element(p, own.part.channel);
  const HotSlopes d = slopes_of(p, p.dsums + row_at(p, own.part));
  HotTotal total;
  if (own.self == 0) tail<X, Element, true, kGradPhase>(p, own.part, element, total, d);
  const int32_t last = static_cast<int32_t>(p.tiles) - 1, self = own.self, step = kBatch * own.step;
  for (int32_t tile = last < self ? -1 : last - (last - self) % step; tile >= 0; tile -= step) {
    Batch<X, int64_t> b;
    load_batch<true>(p, own.part, tile, own.step, b, total.bad);
    store_batch<Element, true>(p, own.part, element, b, d);
  }
}

template <class X, class Element>
__global__ void __launch_bounds__(kStreamThreads, kPointwiseBlocks) sigmoid_pointwise(const FL_GRID_CONSTANT Params p) {
  __shared__ FinishScratch s;
  const Share own(p, blockIdx.x);
  const Element element(p, own.part.channel);
  const HotSlopes d = known_slopes(p);
  HotTotal total;
  for (uint32_t tile = own.self; tile < p.tiles; tile += kBatch * own.step) {
    Batch<X, int64_t> b;
    load_batch<true>(p, own.part, tile, own.step, b, total.bad);
    HotSums sums;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (!b.there(i)) continue;
      const Pack<X> g = map(b.x[i], b.bits(i), [&](float x, bool on) {
        add_one<Element, false>(element, x, on, sums);
        return slope_of_one<Element, false>(element, x, on, d);
      });
      store_gradient(p, own.part, b.at[i], g);
    }
    total.on += __popc(b.labels);
    total.add(sums);
  }
  if (own.self == 0) tail<X, Element, false, kBothPhases>(p, own.part, element, total, d);
  write_record(p, total, s, p.records + blockIdx.x * record_size(p));
  if (gridDim.x > 1 && !p.cooperative) return;
  grid_barrier();
  if (blockIdx.x == 0) finish(p, s);
}

}  // namespace fl_old

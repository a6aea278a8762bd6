// The same terms where the logits do not stay on the chip: one pass for the sums, one (the last tiles first: they are
// still in L2) for the gradient. A pointwise term alone, unmasked, needs a single pass.
#pragma once
#include "sigmoid_resident.h"

namespace fl_cuda {

constexpr int kStreamThreads = 256;
// Blocks of a multiprocessor, which the registers of a phase allow.
constexpr int stream_blocks(Phase phase) { return phase == kSumPhase || phase == kGradPhase ? 3 : 2; }

template <class Element, bool kRegion, class X, class Offset>
__device__ __forceinline__ void add_and_store_batch(const Params& p, const Part& part, const Element& element,
                                                    const Batch<X, Offset>& b, const HotSlopes& d, HotTotal& total) {
  HotSums sums;
#pragma unroll
  for (int k = 0; k < kBatch; ++k) {
    Pack<X> g;
#pragma unroll
    for (int i = 0; i < kVector<X>; ++i) {
      const float x = widen(b.x[k].x[i]);
      const bool on = b.bits(k) >> i & 1;
      add_one<Element, kRegion>(element, x, on, sums);
      g.x[i] = narrow<X>(slope_of_one<Element, kRegion>(element, x, on, d));
    }
    store_gradient(p, part, b.at[k], g);
  }
  total.on += __popc(b.labels);
  total.add(sums);
}

template <class X, class Element, bool kRegion, Phase kPhase>
__global__ void __launch_bounds__(kStreamThreads, stream_blocks(kPhase))
    sigmoid_stream(const FL_GRID_CONSTANT Params p) {
  __shared__ FinishScratch s;
  if (kPhase == kGradPhase && is_settled(p)) return;
  const uint32_t blocks = p.blocks, self = blockIdx.x % blocks, step = kBatch * blocks;
  const uint32_t steps = p.tiles > self ? (p.tiles - 1 - self) / step + 1 : 0;
  const Part part = part_of(p, blockIdx.x / blocks);
  const Element element(p, part.channel);
  HotTotal total;
  if constexpr (kPhase != kGradPhase) {
    HotSlopes d{0.0f, 0.0f, 0.0f};
    if (kPhase == kBothPhases) d = known_slopes(p);
    for (uint32_t k = 0; k < steps; ++k) {
      Batch<X, int64_t> b;
      load_batch<kPhase == kBothPhases>(p, part, self + k * step, blocks, b, total.bad);
      if constexpr (kPhase == kBothPhases)
        add_and_store_batch<Element, kRegion>(p, part, element, b, d, total);
      else
        add_batch<Element, kRegion>(element, b, total);
    }
    if (self == 0)
      tail<X, Element, kRegion, kPhase == kBothPhases ? kBothPhases : kSumPhase>(p, part, element, total, d);
    write_record(p, total, s, p.records + blockIdx.x * record_size(p));
  }
  if constexpr (kPhase != kGradPhase) {
    if (gridDim.x > 1 && !p.cooperative) return;
    meet();
    if (blockIdx.x == 0) finish(p, s);
    if (kPhase == kAllPhases) meet();
  }
  if constexpr (kPhase == kGradPhase || kPhase == kAllPhases) {
    const HotSlopes d = slopes_of(p, p.dsums + row_at(p, part));
    if (self == 0) tail<X, Element, kRegion, kGradPhase>(p, part, element, total, d);
    for (uint32_t k = steps; k-- > 0;) {
      Batch<X, int64_t> b;
      load_batch<true>(p, part, self + k * step, blocks, b, total.bad);
      store_batch<Element, kRegion>(p, part, element, b, d);
    }
  }
}

}  // namespace fl_cuda

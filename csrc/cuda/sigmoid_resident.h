// Region terms, alone or with a pointwise one, forward and backward in one launch: every logit is read once, stays in a
// register or in shared memory across a barrier of the whole grid, and its gradient is written once. What does not fit
// is read again, last first, from L2.
#pragma once
#include "sigmoid_hot.h"

namespace fl_cuda {

// Vectors that a thread keeps in registers, four registers each; as many as the compiler fits without spilling.
template <class X, class Element>
constexpr int kHeld = Element::kThere || sizeof(X) == 2 ? 8 : 16;

template <class X, int kHeld>
struct Held {
  Pack<X> x[kHeld];
  uint32_t labels[kHeld / kBatch];
};

// Shared memory: [cached] rows of one vector a thread, then as many rows of one byte of labels a thread.
template <class X>
struct Cache {
  Pack<X>* x;
  uint8_t* labels;
  __device__ __forceinline__ Cache(unsigned char* memory, int rows)
      : x(reinterpret_cast<Pack<X>*>(memory)), labels(memory + static_cast<size_t>(rows) * kHotThreads * 16) {}
};
constexpr size_t kCacheRow = kHotThreads * (16 + 1);  // bytes

template <class X, class Offset>
struct Batch {
  Place<Offset> at[kBatch];
  Pack<X> x[kBatch];
  uint32_t labels;

  __device__ __forceinline__ uint32_t bits(int i) const { return labels >> (i * kVector<X>); }
};

// The vectors of kBatch tiles, `step` apart; tiles beyond the part are empty.
template <bool kOnce, class X, class Offset>
__device__ __forceinline__ void load_batch(const Params& p, const Part& part, uint32_t tile, uint32_t step,
                                           Batch<X, Offset>& b, uint32_t& bad) {
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    b.at[i] = place_of<kVector<X>, Offset>(p, part, tile + i * step);
    b.x[i] = load_logits<X, kOnce>(p, part, b.at[i]);
  }
  b.labels = load_labels<kVector<X>, kBatch, Offset>(p, part, tile, step, bad);
}

template <class Element, bool kRegion, class X, class Offset>
__device__ __forceinline__ void add_batch(const Element& element, const Batch<X, Offset>& b, HotTotal& total) {
  HotSums sums;
#pragma unroll
  for (int i = 0; i < kBatch; ++i) add_sums<Element, kRegion, X>(element, b.x[i], b.bits(i), sums);
  total.on += __popc(b.labels);
  total.add(sums);
}

template <class Element, bool kRegion, class X, class Offset>
__device__ __forceinline__ void store_batch(const Params& p, const Part& part, const Element& element,
                                            const Batch<X, Offset>& b, const HotSlopes& d) {
#pragma unroll
  for (int i = 0; i < kBatch; ++i)
    store_gradient(p, part, b.at[i], gradient<Element, kRegion>(element, b.x[i], b.bits(i), d));
}

// The pixels of a single plane that do not fill a vector, one a thread.
template <class X, class Element, bool kRegion, Phase kPhase>
__device__ __forceinline__ void tail(const Params& p, const Part& part, const Element& element, HotTotal& total,
                                     const HotSlopes& d) {
  const int64_t at = p.pixels - p.pixels % kVector<X> + threadIdx.x;
  if (at >= p.pixels) return;
  const X x = static_cast<const X*>(p.x.data)[part.sample * p.x.sample + part.channel * p.x.channel + at];
  const int64_t label = visit(p.y, part.sample * p.y.sample + part.channel * p.y.channel + at,
                              [](auto v) { return static_cast<int64_t>(v); });
  const bool on = label & 1;
  if (kPhase != kGradPhase) {
    HotSums sums;
    add_one<Element, kRegion>(element, widen(x), on, sums);
    total.add(sums);
    total.on += on, total.bad |= (label & ~int64_t(1)) != 0;
  }
  if (kPhase != kSumPhase)
    static_cast<X*>(p.out.data)[part.sample * p.out.sample + part.channel * p.out.channel + at] =
        narrow<X>(slope_of_one<Element, kRegion>(element, widen(x), on, d));
}

// The last block has no pixels: it finishes the sums between two barriers, while the others hold theirs.
template <class X, class Element>
__global__ void __launch_bounds__(kHotThreads, 1) sigmoid_resident(const FL_GRID_CONSTANT Params p) {
  FL_DYNAMIC_SHARED(memory);
  __shared__ FinishScratch s;
  if (blockIdx.x == gridDim.x - 1) {
    meet();
    finish(p, s);
    return meet();
  }
  const Cache<X> cache(memory, p.cached);
  const uint32_t step = p.blocks;
  uint32_t block = blockIdx.x, self = block % step;
  Part part = part_of(p, block / step);
  Element element(p, part.channel);
  constexpr int kHeld = fl_cuda::kHeld<X, Element>;
  Held<X, kHeld> held;
  HotTotal total;
#pragma unroll
  for (int i = 0; i < kHeld; i += kBatch) {
    Batch<X, uint32_t> b;
    load_batch<true>(p, part, self + i * step, step, b, total.bad);
    add_batch<Element, true>(element, b, total);
#pragma unroll
    for (int k = 0; k < kBatch; ++k) held.x[i + k] = b.x[k];
    held.labels[i / kBatch] = b.labels;
  }
  for (int i = 0; i < p.cached; i += kBatch) {
    Batch<X, uint32_t> b;
    load_batch<true>(p, part, self + (kHeld + i) * step, step, b, total.bad);
    add_batch<Element, true>(element, b, total);
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      cache.x[(i + k) * kHotThreads + threadIdx.x] = b.x[k];
      cache.labels[(i + k) * kHotThreads + threadIdx.x] = static_cast<uint8_t>(b.bits(k));
    }
  }
  for (uint32_t tile = self + (kHeld + p.cached) * step; tile < p.tiles; tile += kBatch * step) {
    Batch<X, uint32_t> b;
    load_batch<false>(p, part, tile, step, b, total.bad);
    add_batch<Element, true>(element, b, total);
  }
  if (self == 0) tail<X, Element, true, kSumPhase>(p, part, element, total, HotSlopes{});
  write_record(p, total, s, p.records + blockIdx.x * record_size(p));
  meet();
  renew(block);
  self = block % step, part = part_of(p, block / step), element = Element(p, part.channel);
#pragma unroll
  for (int i = 0; i < kHeld; ++i) renew(held.x[i].raw), renew(held.labels[i / kBatch]);
  meet();

  const HotSlopes d = slopes_of(p, p.dsums + row_at(p, part));
  if (self == 0) tail<X, Element, true, kGradPhase>(p, part, element, total, d);
  const uint32_t rest = self + (kHeld + p.cached) * step;
  if (rest < p.tiles)
    for (uint32_t k = (p.tiles - 1 - rest) / (kBatch * step) + 1; k-- > 0;) {
      Batch<X, uint32_t> b;
      load_batch<true>(p, part, rest + k * kBatch * step, step, b, total.bad);
      store_batch<Element, true>(p, part, element, b, d);
    }
  const auto put = [&](int i, const Pack<X>& x, uint32_t bits) {
    const auto at = place_of<kVector<X>, uint32_t>(p, part, self + i * step);
    store_gradient(p, part, at, gradient<Element, true>(element, x, bits, d));
  };
  for (int i = 0; i < p.cached; ++i)
    put(kHeld + i, cache.x[i * kHotThreads + threadIdx.x], cache.labels[i * kHotThreads + threadIdx.x]);
#pragma unroll
  for (int i = 0; i < kHeld; ++i) put(i, held.x[i], held.labels[i / kBatch] >> (i % kBatch * kVector<X>));
}

}  // namespace fl_cuda

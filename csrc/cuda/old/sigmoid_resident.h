// Region terms, alone or with a pointwise one, forward and backward in one launch: every logit is read once, stays in a
// register or in shared memory across a barrier of the whole grid, and its gradient is written once. What does not fit
// is read again, last first, from L2.
#pragma once
#include "sigmoid_hot.h"

namespace fl_old {

// What a block works on: every step-th tile of a part, from `self` on.
struct Share {
  Part part;
  uint32_t self, step;
  __device__ __forceinline__ Share(const Params& p, uint32_t block)
      : part(part_of(p, block / p.blocks)), self(block % p.blocks), step(p.blocks) {}
};

template <class X, class Offset>
struct Batch {
  Place<Offset> at[kBatch];
  Pack<X> x[kBatch];
  uint32_t labels, here;  // here: bit i for the i-th vector. Predicates would not suffice for them and the labels.

  __device__ __forceinline__ bool there(int i) const { return here >> i & 1; }
  __device__ __forceinline__ uint32_t bits(int i) const { return labels >> (i * kVector<X>); }
};

constexpr int kHeld = 16;  // vectors that a thread can keep in registers, four registers each

template <class X, int kHeld>
struct Held {
  Pack<X> x[kHeld];
  uint32_t labels[kHeld / kBatch];

  __device__ __forceinline__ void put(int i, const Batch<X, uint32_t>& b) {
#pragma unroll
    for (int k = 0; k < kBatch; ++k) x[i + k] = b.x[k];
    labels[i / kBatch] = b.labels;
  }
  __device__ __forceinline__ uint32_t bits(int i) const { return labels[i / kBatch] >> (i % kBatch * kVector<X>); }
};

// Shared memory: [cached] rows of one vector a thread, then as many rows of one byte of labels a thread.
template <class X>
struct Cache {
  Pack<X>* x;
  uint8_t* labels;
  __device__ __forceinline__ Cache(unsigned char* memory, int rows)
      : x(reinterpret_cast<Pack<X>*>(memory)), labels(memory + static_cast<size_t>(rows) * kHotThreads * 16) {}

  __device__ __forceinline__ void put(int i, const Batch<X, uint32_t>& b) {
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      x[(i + k) * kHotThreads + threadIdx.x] = b.x[k];
      labels[(i + k) * kHotThreads + threadIdx.x] = static_cast<uint8_t>(b.bits(k));
    }
  }
  __device__ __forceinline__ const Pack<X>& pack(int i) const { return x[i * kHotThreads + threadIdx.x]; }
  __device__ __forceinline__ uint32_t bits(int i) const { return labels[i * kHotThreads + threadIdx.x]; }
};
constexpr size_t kCacheRow = kHotThreads * (16 + 1);  // bytes

// The vectors of kBatch tiles, `step` apart; tiles beyond the part are empty.
template <bool kOnce, class X, class Offset>
__device__ __forceinline__ void load_batch(const Params& p, const Part& part, uint32_t tile, uint32_t step,
                                           Batch<X, Offset>& b, uint32_t& bad) {
  b.here = 0;
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    b.at[i] = place_of<kVector<X>, Offset>(p, part, tile + i * step);
    b.x[i] = load_logits<X, kOnce>(p, part, b.at[i]);
    b.here |= static_cast<uint32_t>(b.at[i].there) << i;
  }
  renew(b.here);
  b.labels = load_labels<kVector<X>, kBatch, Offset>(p, part, tile, step, bad);
}

template <class Element, bool kRegion, class X, class Offset>
__device__ __forceinline__ void add_batch(const Element& element, const Batch<X, Offset>& b, HotTotal& total) {
  HotSums sums;
#pragma unroll
  for (int i = 0; i < kBatch; ++i)
    if (b.there(i)) add_sums<Element, kRegion, X>(element, b.x[i], b.bits(i), sums);
  total.on += __popc(b.labels);
  total.add(sums);
}

template <class Element, bool kRegion, class X, class Offset>
__device__ __forceinline__ void store_batch(const Params& p, const Part& part, const Element& element,
                                            const Batch<X, Offset>& b, const HotSlopes& d) {
#pragma unroll
  for (int i = 0; i < kBatch; ++i)
    if (b.there(i)) store_gradient(p, part, b.at[i], gradient<Element, kRegion>(element, b.x[i], b.bits(i), d));
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

inline __device__ __noinline__ void finish_between(const Params& p, FinishScratch& s) {
  grid_barrier();
  finish(p, s);
  grid_barrier();
}

// The last block has no pixels: it finishes the sums between two barriers, while the others hold theirs.
template <class X, class Element>
__global__ void __launch_bounds__(kHotThreads, 1) sigmoid_resident(const FL_GRID_CONSTANT Params p) {
  FL_DYNAMIC_SHARED(memory);
  __shared__ FinishScratch s;
  if (blockIdx.x == gridDim.x - 1) return finish_between(p, s);
  Cache<X> cache(memory, p.cached);
  const uint32_t step = p.blocks, kept = p.held + p.cached;
  uint32_t block = blockIdx.x, self = block % step;
  Part part = part_of(p, block / step);
  Element element(p, part.channel);
  Held<X, kHeld> held;
  HotTotal total;
  // What stays in registers comes last here, and first after the barrier: no other pixels are live beside it.
  for (uint32_t tile = self + kept * step; tile < p.tiles; tile += kBatch * step) {
    Batch<X, uint32_t> b;
    load_batch<false>(p, part, tile, step, b, total.bad);
    add_batch<Element, true>(element, b, total);
  }
  for (int i = 0; i < p.cached; i += kBatch) {
    Batch<X, uint32_t> b;
    load_batch<true>(p, part, self + (p.held + i) * step, step, b, total.bad);
    add_batch<Element, true>(element, b, total);
    cache.put(i, b);
  }
#pragma unroll
  for (int i = 0; i < kHeld; i += kBatch) {
    held.labels[i / kBatch] = 0;
    if (i >= p.held) continue;
    Batch<X, uint32_t> b;
    load_batch<true>(p, part, self + i * step, step, b, total.bad);
    add_batch<Element, true>(element, b, total);
    held.put(i, b);
  }
  if (self == 0) tail<X, Element, true, kSumPhase>(p, part, element, total, HotSlopes{});
  write_record(p, total, s, p.records + blockIdx.x * record_size(p));
  grid_barrier();
  renew(block);
  self = block % step, part = part_of(p, block / step), element = Element(p, part.channel);
#pragma unroll
  for (int i = 0; i < kHeld; ++i) renew(held.x[i].raw), renew(held.labels[i / kBatch]);
  grid_barrier();

  const HotSlopes d = slopes_of(p, p.dsums + row_at(p, part));
  if (self == 0) tail<X, Element, true, kGradPhase>(p, part, element, total, d);
  const auto put = [&](uint32_t i, const Pack<X>& x, uint32_t bits) {
    const auto at = place_of<kVector<X>, uint32_t>(p, part, self + i * step);
    if (at.there) store_gradient(p, part, at, gradient<Element, true>(element, x, bits, d));
  };
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (i < p.held) put(i, held.x[i], held.bits(i));
  for (int i = 0; i < p.cached; ++i) put(p.held + i, cache.pack(i), cache.bits(i));
  const uint32_t rest = self + kept * step;
  if (rest < p.tiles)
    for (uint32_t k = (p.tiles - 1 - rest) / (kBatch * step) + 1; k-- > 0;) {
      Batch<X, uint32_t> b;
      load_batch<true>(p, part, rest + k * kBatch * step, step, b, total.bad);
      store_batch<Element, true>(p, part, element, b, d);
    }
}

}  // namespace fl_old

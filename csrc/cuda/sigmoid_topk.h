// Top-k on hard labels, alone or with region terms, in one launch: margins order the elements, so the levels of the
// selection count keys of the logits that the block holds, without a transcendental. A barrier of the grid parts the
// levels; every block then finds the digit itself.
#pragma once
#include "sigmoid_resident.h"
#include "topk.h"

namespace fl_cuda {

constexpr int kTopkHeld = 8;  // vectors in registers
constexpr size_t kCounterBytes = (sizeof(DigitCounter<float>) + sizeof(Found) + 15) / 16 * 16;

// What every thread must know of the selection.
struct Picked {
  uint32_t threshold = 0;
  float tie = 0.0f;

  __device__ __forceinline__ float weight(uint32_t key) const {
    return key > threshold ? 1.0f : (key == threshold ? tie : 0.0f);
  }
};
__device__ __forceinline__ uint32_t margin_key(float x, bool on) {
  return fl::topk_key(fl::topk_margin(x, on ? 1.0f : 0.0f));
}

template <bool kRegion>
__device__ __forceinline__ void add_picked(const HotBce& element, float x, bool on, const Picked& picked, HotSums& s) {
  const float weight = picked.weight(margin_key(x, on));
  if (weight == 0.0f) return;
  const fl::Sigmoid<float> a = fl::sigmoid<true>(x);
  s.point += weight * element.value(a.p, a.q, a.nlp, a.nlq, on ? 1.0f : 0.0f);
}
template <bool kRegion>
__device__ __forceinline__ float slope_of_picked(const HotBce& element, float x, bool on, const Picked& picked,
                                                 const HotSlopes& d) {
  const fl::Sigmoid<float> a = fl::sigmoid<false>(x);
  const float region = kRegion ? a.p * a.q * (on ? d.pred + d.inter : d.pred) : 0.0f;
  const float weight = picked.weight(margin_key(x, on));
  const float slope = element.slope(a.p, a.q, 0.0f, 0.0f, on ? 1.0f : 0.0f);
  return weight == 0.0f ? region : fl::fma_(weight * d.point, slope, region);
}

// The worker's pixels, wherever they are kept: f(place, vector, labels) for each vector.
template <class X>
struct Pixels {
  const Params& p;
  const Part part;
  const uint32_t step;
  uint32_t self;
  Held<X, kTopkHeld> held;
  Cache<X> cache;

  __device__ __forceinline__ Pixels(const Params& q, unsigned char* memory)
      : p(q),
        part(part_of(q, blockIdx.x / q.blocks)),
        step(q.blocks),
        self(blockIdx.x % q.blocks),
        cache(memory, q.cached) {}

  template <class F>
  __device__ __forceinline__ void load(uint32_t& bad, const F& f) {
#pragma unroll
    for (int i = 0; i < kTopkHeld; i += kBatch) {
      Batch<X, uint32_t> b;
      load_batch<true>(p, part, self + i * step, step, b, bad);
      f(b);
#pragma unroll
      for (int k = 0; k < kBatch; ++k) held.x[i + k] = b.x[k];
      held.labels[i / kBatch] = b.labels;
    }
    for (int i = 0; i < p.cached; i += kBatch) {
      Batch<X, uint32_t> b;
      load_batch<true>(p, part, self + (kTopkHeld + i) * step, step, b, bad);
      f(b);
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        cache.x[(i + k) * kHotThreads + threadIdx.x] = b.x[k];
        cache.labels[(i + k) * kHotThreads + threadIdx.x] = static_cast<uint8_t>(b.bits(k));
      }
    }
    rest(bad, f);
  }
  template <class F>
  __device__ __forceinline__ void rest(uint32_t& bad, const F& f) const {
    for (uint32_t tile = self + (kTopkHeld + p.cached) * step; tile < p.tiles; tile += kBatch * step) {
      Batch<X, uint32_t> b;
      load_batch<false>(p, part, tile, step, b, bad);
      f(b);
    }
  }
  template <class F>
  __device__ __forceinline__ void again(const F& f) {
    renew(self);
#pragma unroll
    for (int i = 0; i < kTopkHeld; ++i) {
      renew(held.x[i].raw), renew(held.labels[i / kBatch]);
      f(place_of<kVector<X>, uint32_t>(p, part, self + i * step), held.x[i],
        held.labels[i / kBatch] >> (i % kBatch * kVector<X>));
    }
    for (int i = 0; i < p.cached; ++i)
      f(place_of<kVector<X>, uint32_t>(p, part, self + (kTopkHeld + i) * step), cache.x[i * kHotThreads + threadIdx.x],
        cache.labels[i * kHotThreads + threadIdx.x]);
    uint32_t bad = 0;
    rest(bad, [&](const Batch<X, uint32_t>& b) {
#pragma unroll
      for (int k = 0; k < kBatch; ++k) f(b.at[k], b.x[k], b.bits(k));
    });
  }
};

// The element of the tail that is this thread's, if any (of the part's first block).
template <class X>
struct TailElement {
  bool there;
  float x = 0.0f;
  uint32_t label = 0;
  X* out = nullptr;

  __device__ __forceinline__ TailElement(const Params& p, const Part& part, bool first) {
    const int64_t at = p.pixels - p.pixels % kVector<X> + threadIdx.x;
    there = first && at < p.pixels;
    if (!there) return;
    x = widen(static_cast<const X*>(p.x.data)[part.sample * p.x.sample + part.channel * p.x.channel + at]);
    const int64_t y = part.sample * p.y.sample + part.channel * p.y.channel + at;
    label = static_cast<uint32_t>(visit(p.y, y, [](auto v) { return v == 0 ? 0 : (v == 1 ? 1 : 2); }));
    out = static_cast<X*>(p.out.data) + part.sample * p.out.sample + part.channel * p.out.channel + at;
  }
};

template <class X, bool kRegion>
__global__ void __launch_bounds__(kHotThreads, 1) sigmoid_topk_resident(const FL_GRID_CONSTANT Params p) {
  constexpr int kAll = kLevels<float>;
  FL_DYNAMIC_SHARED(memory);
  __shared__ FinishScratch s;
  if (blockIdx.x == gridDim.x - 1) {
    for (int i = threadIdx.x; i < kAll * fl::kRadixBins; i += blockDim.x) p.histogram[i] = 0;
    for (int i = 0; i < kAll + 2; ++i) meet();
    finish(p, s);
    if (kRegion) meet();
    return;
  }
  DigitCounter<float>& counter = *reinterpret_cast<DigitCounter<float>*>(memory);
  Found& found = *reinterpret_cast<Found*>(memory + sizeof(counter));
  Pixels<X> pixels(p, memory + kCounterBytes);
  const Part& part = pixels.part;
  const HotBce element(p, part.channel);
  const NoElement none(p, 0);
  const TailElement<X> tail(p, part, pixels.self == 0);
  HotTotal total;

  counter.begin(0, 0);
  const auto count = [&](float x, bool on) { counter.count(margin_key(x, on)); };
  pixels.load(total.bad, [&](const Batch<X, uint32_t>& b) {
    if (kRegion) add_batch<NoElement, true>(none, b, total);
#pragma unroll
    for (int k = 0; k < kBatch; ++k)
#pragma unroll
      for (int i = 0; i < kVector<X>; ++i)
        if (b.at[k].there) count(widen(b.x[k].x[i]), b.bits(k) >> i & 1);
  });
  if (tail.there) {
    HotSums sums;
    if (kRegion) add_one<NoElement, true>(none, tail.x, tail.label & 1, sums);
    total.add(sums);
    total.on += tail.label & 1, total.bad |= tail.label > 1;
    count(tail.x, tail.label & 1);
  }
  meet();  // the histograms are zero

  const fl::Term& term = p.spec.terms[p.pointwise];
  const int64_t size = static_cast<int64_t>(p.known_valid), top = fl::topk_count(size, term.k_num, term.k_den);
  long long left = top;
  uint32_t prefix = 0;
  for (int level = 0; level < kAll; ++level) {
    if (level > 0) {
      counter.begin(level, prefix);
      pixels.again([&](const Place<uint32_t>& at, const Pack<X>& x, uint32_t bits) {
#pragma unroll
        for (int i = 0; i < kVector<X>; ++i)
          if (at.there) count(widen(x.x[i]), bits >> i & 1);
      });
      if (tail.there) count(tail.x, tail.label & 1);
    }
    counter.flush(p.histogram + level * fl::kRadixBins);
    meet();
    find_digit(p.histogram + level * fl::kRadixBins, left, found);
    prefix = longer(prefix, Digit<float>(level).bits, found.digit, level == 0);
    left = found.left;
  }
  const Picked picked{prefix, static_cast<float>(static_cast<double>(left) / static_cast<double>(found.ties))};
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    double* aux = p.aux + p.pointwise * fl::kAuxColumns;
    aux[fl::kTopCount] = aux[fl::kDenominator] = static_cast<double>(top);
    aux[fl::kThreshold] = static_cast<double>(fl::topk_value<float>(prefix));
    aux[fl::kTieWeight] = static_cast<double>(left) / static_cast<double>(found.ties);
  }

  HotSlopes d{0.0f, 0.0f, 0.0f};
  const auto store = [&](const Place<uint32_t>& at, const Pack<X>& x, uint32_t bits) {
    Pack<X> g;
#pragma unroll
    for (int i = 0; i < kVector<X>; ++i)
      g.x[i] = narrow<X>(slope_of_picked<kRegion>(element, widen(x.x[i]), bits >> i & 1, picked, d));
    store_gradient(p, part, at, g);
  };
  if (!kRegion) {  // its denominator is known: the gradient goes out with the sums
    const double scale = fl::pointwise_scale(term, static_cast<double>(top));
    d.point = static_cast<float>(upstream_of(p) * (weight_of(p, p.pointwise) * scale));
  }
  pixels.again([&](const Place<uint32_t>& at, const Pack<X>& x, uint32_t bits) {
    HotSums sums;
#pragma unroll
    for (int i = 0; i < kVector<X>; ++i)
      if (at.there) add_picked<kRegion>(element, widen(x.x[i]), bits >> i & 1, picked, sums);
    total.add(sums);
    if (!kRegion) store(at, x, bits);
  });
  if (tail.there) {
    HotSums sums;
    add_picked<kRegion>(element, tail.x, tail.label & 1, picked, sums);
    total.add(sums);
  }
  write_record(p, total, s, p.records + blockIdx.x * record_size(p));
  meet();
  if (kRegion) {
    meet();
    d = slopes_of(p, p.dsums + row_at(p, part));
    pixels.again(store);
  }
  if (tail.there) *tail.out = narrow<X>(slope_of_picked<kRegion>(element, tail.x, tail.label & 1, picked, d));
}

}  // namespace fl_cuda

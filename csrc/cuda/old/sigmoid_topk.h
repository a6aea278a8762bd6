// Top-k on hard labels, alone or with region terms, in one launch: margins order the elements, so the levels of the
// selection count keys of the logits that the block holds, without a transcendental. A barrier of the grid parts the
// levels; every block then finds the digit itself.
#pragma once
#include "sigmoid_resident.h"
#include "topk.h"

namespace fl_old {

constexpr size_t kCounterBytes = (sizeof(DigitCounter<float>) + sizeof(Found) + 15) / 16 * 16;

template <class X>
constexpr int kTopkHeld = sizeof(X) == 4 ? 12 : 8;  // as kHeld, of which the compiler would spill some here

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

__device__ __forceinline__ void add_picked(const HotBce& element, float x, bool on, const Picked& picked, HotSums& s) {
  const float weight = picked.weight(margin_key(x, on));
  if (weight == 0.0f) return;
  const fl::Sigmoid<float> a = fl::sigmoid<true>(x);
  s.point += weight * element.value(a.p, a.q, a.nlp, a.nlq, on ? 1.0f : 0.0f);
}
__device__ __forceinline__ float slope_of_picked(const HotBce& element, float x, bool on, const Picked& picked,
                                                 const HotSlopes& d) {
  const fl::Sigmoid<float> a = fl::sigmoid<false>(x);
  const float weight = picked.weight(margin_key(x, on));
  const float slope = weight * d.point * element.slope(a.p, a.q, 0.0f, 0.0f, on ? 1.0f : 0.0f);
  return fl::fma_(a.slope, on ? d.pred + d.inter : d.pred, weight == 0.0f ? 0.0f : slope);
}

// The worker's pixels, wherever they are kept: f(place, vector, labels) for each vector that is there. Where it works
// is computed anew for each pass: registers hold pixels.
template <class X>
struct Pixels {
  static constexpr int kHeld = kTopkHeld<X>;
  const Params& p;
  uint32_t block, bad = 0;
  Held<X, kHeld> held;
  Cache<X> cache;

  __device__ __forceinline__ Pixels(const Params& q, unsigned char* memory)
      : p(q), block(blockIdx.x), cache(memory, q.cached) {}
  __device__ __forceinline__ Share share() {
    renew(block);
    return Share(p, block);
  }

  // In this order the registers that hold pixels are taken last.
  template <class F>
  __device__ __forceinline__ void load(const F& f) {
    const Share own = share();
    rest(own, f);
    for (int i = 0; i < p.cached; i += kBatch) {
      Batch<X, uint32_t> b;
      load_batch<true>(p, own.part, own.self + (p.held + i) * own.step, own.step, b, bad);
      f(b);
      cache.put(i, b);
    }
#pragma unroll
    for (int i = 0; i < kHeld; i += kBatch) {
      held.labels[i / kBatch] = 0;
      if (i >= p.held) continue;
      Batch<X, uint32_t> b;
      load_batch<true>(p, own.part, own.self + i * own.step, own.step, b, bad);
      f(b);
      held.put(i, b);
    }
  }
  template <class F>
  __device__ __forceinline__ void rest(const Share& own, const F& f) {
    for (uint32_t tile = own.self + (p.held + p.cached) * own.step; tile < p.tiles; tile += kBatch * own.step) {
      Batch<X, uint32_t> b;
      load_batch<false>(p, own.part, tile, own.step, b, bad);
      f(b);
    }
  }
  template <class F>
  __device__ __forceinline__ void again(const F& f) {
    const Share own = share();
    const auto visit = [&](uint32_t i, const Pack<X>& x, uint32_t bits) {
      const auto at = place_of<kVector<X>, uint32_t>(p, own.part, own.self + i * own.step);
      if (at.there) f(own.part, at, x, bits);
    };
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      renew(held.x[i].raw), renew(held.labels[i / kBatch]);
      if (i < p.held) visit(i, held.x[i], held.bits(i));
    }
    for (int i = 0; i < p.cached; ++i) visit(p.held + i, cache.pack(i), cache.bits(i));
    rest(own, [&](const Batch<X, uint32_t>& b) {
#pragma unroll
      for (int k = 0; k < kBatch; ++k)
        if (b.there(k)) f(own.part, b.at[k], b.x[k], b.bits(k));
    });
  }

  // The pixels of the plane that do not fill a vector, one a thread of the part's first block: f(x, label, out).
  template <class F>
  __device__ __forceinline__ void tail(const F& f) {
    const Share own = share();
    const int64_t at = p.pixels - p.pixels % kVector<X> + threadIdx.x;
    if (own.self != 0 || at >= p.pixels) return;
    const auto in = [&](const Array& a) { return own.part.sample * a.sample + own.part.channel * a.channel + at; };
    const uint32_t label =
        static_cast<uint32_t>(visit(p.y, in(p.y), [](auto v) { return v == 0 ? 0 : (v == 1 ? 1 : 2); }));
    f(widen(static_cast<const X*>(p.x.data)[in(p.x)]), label, static_cast<X*>(p.out.data) + in(p.out));
  }
};

// What the block without pixels does, meanwhile.
inline __device__ __noinline__ void finish_after_levels(const Params& p, FinishScratch& s) {
  constexpr int kAll = kLevels<float>;
  for (int i = threadIdx.x; i < kAll * fl::kRadixBins; i += blockDim.x) p.histogram[i] = 0;
  for (int i = 0; i < kAll + 2; ++i) grid_barrier();
  finish(p, s);
  if (p.spec.any_region()) grid_barrier();
}

template <class X>
__global__ void __launch_bounds__(kHotThreads, 1) sigmoid_topk_resident(const FL_GRID_CONSTANT Params p) {
  constexpr int kAll = kLevels<float>;
  FL_DYNAMIC_SHARED(memory);
  __shared__ FinishScratch s;
  const bool region = p.spec.any_region();
  if (blockIdx.x == gridDim.x - 1) return finish_after_levels(p, s);
  DigitCounter<float>& counter = *reinterpret_cast<DigitCounter<float>*>(memory);
  Found& found = *reinterpret_cast<Found*>(memory + sizeof(counter));
  Pixels<X> pixels(p, memory + kCounterBytes);
  const NoElement none(p, 0);
  HotTotal total;

  counter.begin(0, 0);
  const auto count = [&](float x, bool on) { counter.count(margin_key(x, on)); };
  const auto count_all = [&](const Pack<X>& x, uint32_t bits) { each(x, bits, count); };
  pixels.load([&](const Batch<X, uint32_t>& b) {
    if (region) add_batch<NoElement, true>(none, b, total);
#pragma unroll
    for (int k = 0; k < kBatch; ++k)
      if (b.there(k)) count_all(b.x[k], b.bits(k));
  });
  total.bad = pixels.bad;
  pixels.tail([&](float x, uint32_t label, X*) {
    HotSums sums;
    if (region) add_one<NoElement, true>(none, x, label & 1, sums);
    total.add(sums);
    total.on += label & 1, total.bad |= label > 1;
    count(x, label & 1);
  });
  grid_barrier();  // the histograms are zero

  const fl::Term& term = p.spec.terms[p.pointwise];
  const int64_t size = static_cast<int64_t>(p.known_valid), top = fl::topk_count(size, term.k_num, term.k_den);
  long long left = top;
  uint32_t prefix = 0;
  for (int level = 0; level < kAll; ++level) {
    if (level > 0) {
      counter.begin(level, prefix);
      pixels.again([&](const Part&, const auto&, const Pack<X>& x, uint32_t bits) { count_all(x, bits); });
      pixels.tail([&](float x, uint32_t label, X*) { count(x, label & 1); });
    }
    counter.flush(p.histogram + level * fl::kRadixBins);
    grid_barrier();
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

  const HotBce element(p, pixels.share().part.channel);
  pixels.again([&](const Part&, const auto&, const Pack<X>& x, uint32_t bits) {
    HotSums sums;
    each(x, bits, [&](float v, bool on) { add_picked(element, v, on, picked, sums); });
    total.add(sums);
  });
  pixels.tail([&](float x, uint32_t label, X*) {
    HotSums sums;
    add_picked(element, x, label & 1, picked, sums);
    total.add(sums);
  });
  write_record(p, total, s, p.records + blockIdx.x * record_size(p));
  grid_barrier();

  HotSlopes d{0.0f, 0.0f, 0.0f};
  if (region) {
    grid_barrier();
    d = slopes_of(p, p.dsums + row_at(p, pixels.share().part));
  } else {  // its denominator is known: the gradient goes out while the sums are finished
    const double scale = fl::pointwise_scale(term, static_cast<double>(top));
    d.point = static_cast<float>(upstream_of(p) * (weight_of(p, p.pointwise) * scale));
  }
  pixels.again([&](const Part& part, const auto& at, const Pack<X>& x, uint32_t bits) {
    store_gradient(p, part, at,
                   map(x, bits, [&](float v, bool on) { return slope_of_picked(element, v, on, picked, d); }));
  });
  pixels.tail(
      [&](float x, uint32_t label, X* out) { *out = narrow<X>(slope_of_picked(element, x, label & 1, picked, d)); });
}

}  // namespace fl_old

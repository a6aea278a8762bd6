// Binary and multilabel as most calls are: hard labels, nothing masked, at most one pointwise term beside the plain
// region terms. Sixteen bytes of logits a thread and step.
#pragma once
#include "../../math/elements.h"
#include "finish.h"
#include "load.h"

namespace fl_old {

constexpr int kHotThreads = 512;
constexpr int kBatch = 4;  // vectors in flight: 32 KiB an SM

struct NoElement {
  static constexpr bool kThere = false;
  __device__ __forceinline__ NoElement(const Params&, int64_t) {}
};
struct HotBce : fl::BceElement<float> {
  static constexpr bool kThere = true;
  __device__ __forceinline__ HotBce(const Params& p, int64_t c)
      : fl::BceElement<float>{static_cast<float>(vector_at(p, p.pointwise, c, 1.0)), 0.0f} {}
};
struct HotFocal : fl::FocalElement<fl::kPower2, true, float> {
  static constexpr bool kThere = true;
  __device__ __forceinline__ HotFocal(const Params& p, int64_t c)
      : fl::FocalElement<fl::kPower2, true, float>{2.0f, static_cast<float>(vector_at(p, p.pointwise, c, 1.0)), 1.0f} {
    if (p.spec.terms[p.pointwise].vector_length) off = 1.0f - on;
  }
};

struct HotSums {
  float inter = 0.0f, pred = 0.0f, point = 0.0f;
};
struct HotSlopes {  // of the loss by the sums, times the upstream gradient
  float inter, pred, point;
};

template <class Element, bool kRegion>
__device__ __forceinline__ void add_one(const Element& element, float x, bool on, HotSums& s) {
  const fl::Sigmoid<float> a = fl::sigmoid<Element::kThere>(x);
  if (kRegion) s.pred += a.p, s.inter += on ? a.p : 0.0f;
  if constexpr (Element::kThere) s.point += element.value(a.p, a.q, a.nlp, a.nlq, on ? 1.0f : 0.0f);
}
// In the order of sigmoid_any.h: the two may do forward and backward of one call.
template <class Element, bool kRegion>
__device__ __forceinline__ float slope_of_one(const Element& element, float x, bool on, const HotSlopes& d) {
  const fl::Sigmoid<float> a = fl::sigmoid<Element::kThere>(x);
  float v = 0.0f;
  if constexpr (Element::kThere) v = d.point * element.slope(a.p, a.q, a.nlp, a.nlq, on ? 1.0f : 0.0f);
  return kRegion ? fl::fma_(a.slope, on ? d.pred + d.inter : d.pred, v) : v;
}

// f(logit, label) for the elements of a vector, and the vector of what it returns. Four at a time: eight unrolled would
// take twice the code and more registers than there are.
template <class X, class F>
__device__ __forceinline__ void each(Pack<X> own, uint32_t bits, const F& f) {
#pragma unroll 1
  for (int done = 0; done < kVector<X>; done += 4, bits >>= 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) f(widen(own.x[i]), (bits >> i & 1) != 0);
    own.raw.x = own.raw.z, own.raw.y = own.raw.w;
  }
}
template <class X, class F>
__device__ __forceinline__ Pack<X> map(Pack<X> own, uint32_t bits, const F& f) {
  Pack<X> result;
#pragma unroll 1
  for (int done = 0; done < kVector<X>; done += 4, bits >>= 4) {
    result.raw.x = result.raw.z, result.raw.y = result.raw.w;
#pragma unroll
    for (int i = 0; i < 4; ++i) result.x[kVector<X> - 4 + i] = narrow<X>(f(widen(own.x[i]), (bits >> i & 1) != 0));
    own.raw.x = own.raw.z, own.raw.y = own.raw.w;
  }
  return result;
}

template <class Element, bool kRegion, class X>
__device__ __forceinline__ void add_sums(const Element& element, const Pack<X>& pack, uint32_t bits, HotSums& s) {
  each(pack, bits, [&](float x, bool on) { add_one<Element, kRegion>(element, x, on, s); });
}
template <class Element, bool kRegion, class X>
__device__ __forceinline__ Pack<X> gradient(const Element& element, const Pack<X>& pack, uint32_t bits,
                                            const HotSlopes& d) {
  return map(pack, bits, [&](float x, bool on) { return slope_of_one<Element, kRegion>(element, x, on, d); });
}

// What a thread has added up, in double: floats only within a batch.
struct HotTotal {
  double inter = 0.0, pred = 0.0, point = 0.0;
  uint32_t on = 0, bad = 0;  // a thread sees less than 2^32 pixels

  __device__ __forceinline__ void add(const HotSums& s) {
    inter += static_cast<double>(s.inter), pred += static_cast<double>(s.pred), point += static_cast<double>(s.point);
  }
};

// The block's record, in the order of math/sums.h.
__device__ __forceinline__ void write_record(const Params& p, const HotTotal& t, FinishScratch& s, double* record) {
  const double own[5] = {t.inter, t.pred, static_cast<double>(t.on), t.point, t.bad ? 1.0 : 0.0};
  block_sums(own, s.sums, s.dsums);
  const int columns = sum_columns(p);
  for (int i = threadIdx.x; i < record_size(p); i += blockDim.x) {
    double v = 0.0;
    if (i == fl::kValid && blockIdx.x % p.blocks == 0) v = static_cast<double>(p.planes) * p.pixels;
    if (i >= fl::kInter && i <= fl::kTarget) v = s.dsums[i - fl::kInter];
    if (i == fl::kFixedSums + p.pointwise && p.pointwise >= 0) v = s.dsums[3];
    if (i == columns + 4) v = s.dsums[4];
    record[i] = v;
  }
}

__device__ __forceinline__ HotSlopes slopes_of(const Params& p, const double* row) {
  const double up = upstream_of(p);
  return {static_cast<float>(up * row[fl::kInter]), static_cast<float>(up * row[fl::kPred]),
          p.pointwise < 0 ? 0.0f : static_cast<float>(up * row[fl::kFixedSums + p.pointwise])};
}
__device__ __forceinline__ int64_t row_at(const Params& p, const Part& part) {
  return (part.row * p.channels + part.channel) * sum_columns(p);
}

// The slope of the only term, pointwise, when its denominator is known beforehand.
__device__ __forceinline__ HotSlopes known_slopes(const Params& p) {
  const double scale = fl::pointwise_scale(p.spec.terms[p.pointwise], p.known_valid);
  return {0.0f, 0.0f, static_cast<float>(upstream_of(p) * (weight_of(p, p.pointwise) * scale))};
}

}  // namespace fl_old

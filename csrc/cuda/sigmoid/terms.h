// The terms that fast kernels know: region terms, with one pointwise term or none. Formulas: csrc/math.
#pragma once
#include "../../math/elements.h"
#include "../topk.h"
#include "walk.h"

namespace fl_cuda {

// The sums of one turn, in float; a label is a bool, or a float in [0, 1].
struct Sums {
  float inter = 0.0f, pred = 0.0f, target = 0.0f, point = 0.0f;
};

// The derivatives of the loss by the sums, times grad_output.
struct Slopes {
  float inter = 0.0f, pred = 0.0f, point = 0.0f;
};

// The sigmoid of |x|, r, of -|x|, s, and with kLog -log r. A hard label turns the sign: with the margin m = -x where it
// is 1, else x, the probability that is missed is sigmoid(m) and -log p_t is softplus(m).
template <bool kLog>
struct Logit {
  float x, r, s, log;
  __device__ __forceinline__ explicit Logit(float v) : x(v), log(0.0f) {
    const float e = fl::exp_minus(fl::abs_(v));
    r = fl::inverse(1.0f + e), s = e * r;
    if (kLog) log = fl::log1p_unit(e);
  }
  __device__ __forceinline__ float p() const { return x >= 0.0f ? r : s; }
  __device__ __forceinline__ float slope() const { return r * s; }
  __device__ __forceinline__ float margin(bool on) const { return on ? -x : x; }
  __device__ __forceinline__ float missed(bool on) const { return margin(on) >= 0.0f ? r : s; }
  __device__ __forceinline__ float caught(bool on) const { return margin(on) >= 0.0f ? s : r; }
  __device__ __forceinline__ float nll(bool on) const { return log + fl::relu(margin(on)); }
  __device__ __forceinline__ fl::Sigmoid<float> all() const {
    return {p(), x >= 0.0f ? s : r, slope(), nll(true), nll(false)};
  }
};

__device__ __forceinline__ void add_region(float p, bool on, Sums& s) {
  s.pred += p;
  if (on) s.inter += p;
}
__device__ __forceinline__ void add_region(float p, float y, Sums& s) {
  s.pred += p, s.target += y, s.inter = fl::fma_(p, y, s.inter);
}
__device__ __forceinline__ float region_slope(bool on, const Slopes& d) { return on ? d.pred + d.inter : d.pred; }
__device__ __forceinline__ float region_slope(float y, const Slopes& d) { return fl::fma_(d.inter, y, d.pred); }

struct NoTerm {
  static constexpr bool kPointwise = false, kTopk = false;
  static constexpr int kShared = 0;                                    // bytes
  static constexpr int kUnroll = 4, kBothUnroll = 4, kGradUnroll = 4;  // packs at a time, if a turn has so many
  __device__ __forceinline__ NoTerm(const Work&, int, int64_t) {}

  // Of the sigmoid alone, whose negative argument needs no symmetry: 1 / (1 + exp(-x)) is accurate for every x.
  template <class Y>
  __device__ __forceinline__ void add(float x, Y y, Sums& s) const {
    add_region(fl::inverse(1.0f + fl::exp_minus(x)), y, s);
  }
  template <class Y>
  __device__ __forceinline__ float grad(float x, Y y, const Slopes& d) const {
    return Logit<false>(x).slope() * region_slope(y, d);
  }
  template <class Y>
  __device__ __forceinline__ float add_grad(float x, Y y, Sums&, const Slopes& d) const {  // nobody's
    return grad(x, y, d);
  }
};

// Term: add_value(Logit, label, Sums) and slope(Logit, label, scale), the scaled derivative of the value by the logit.
template <class Term>
struct WithRegion : Term {
  static constexpr bool kPointwise = true, kTopk = false;
  static constexpr int kShared = 0;
  static constexpr int kUnroll = Term::kLogSlope ? 2 : 4, kBothUnroll = 2, kGradUnroll = 4;
  using Term::Term;

  template <class Y>
  __device__ __forceinline__ void add(float x, Y y, Sums& s) const {
    const Logit<true> a(x);
    this->add_value(a, y, s);
    add_region(a.p(), y, s);
  }
  template <class Y>
  __device__ __forceinline__ float grad(float x, Y y, const Slopes& d) const {
    const Logit<Term::kLogSlope> a(x);
    return fl::fma_(a.slope(), region_slope(y, d), this->slope(a, y, d.point));
  }
  // Without region terms, whose sums the gradient would have to wait for.
  template <class Y>
  __device__ __forceinline__ float add_grad(float x, Y y, Sums& s, const Slopes& d) const {
    const Logit<true> a(x);
    this->add_value(a, y, s);
    return this->slope(a, y, d.point);
  }
};

// Weights of 0, which an infinite value must not meet, are not for these: no product is guarded.
struct Bce {
  static constexpr bool kLogSlope = false;
  float pos_weight;
  __device__ __forceinline__ Bce(const Work& w, int term, int64_t c)
      : pos_weight(static_cast<float>(vector_at(w, term, c, 1.0))) {}

  __device__ __forceinline__ void add_value(const Logit<true>& a, bool on, Sums& s) const {
    s.point = fl::fma_(on ? pos_weight : 1.0f, a.nll(on), s.point);
  }
  template <bool kLog>
  __device__ __forceinline__ float slope(const Logit<kLog>& a, bool on, float scale) const {
    return (on ? -pos_weight * scale : scale) * a.missed(on);
  }
  __device__ __forceinline__ void add_value(const Logit<true>& a, float y, Sums& s) const {
    const fl::Sigmoid<float> at = a.all();
    s.point += fl::bce(at.neg_log_p, at.neg_log_1mp, y, pos_weight);
  }
  template <bool kLog>
  __device__ __forceinline__ float slope(const Logit<kLog>& a, float y, float scale) const {
    const fl::Sigmoid<float> at = a.all();
    return scale * fl::bce_grad(at.p, at.q, y, pos_weight);
  }
};

// Gamma 2.
struct Focal {
  static constexpr bool kLogSlope = true;
  float on_weight, off_weight;
  __device__ __forceinline__ Focal(const Work& w, int term, int64_t c)
      : on_weight(static_cast<float>(vector_at(w, term, c, 1.0))),
        off_weight(w.spec.terms[term].vector_length ? 1.0f - on_weight : 1.0f) {}

  __device__ __forceinline__ void add_value(const Logit<true>& a, bool on, Sums& s) const {
    const float u = a.missed(on);
    s.point = fl::fma_((on ? on_weight : off_weight) * fl::focal_power<fl::kPower2>(u, 2.0f), a.nll(on), s.point);
  }
  __device__ __forceinline__ float slope(const Logit<true>& a, bool on, float scale) const {
    const float u = a.missed(on);
    // fl::focal_slope: u (u + 2 p_t b), where p_t = 0 must not meet an infinite b.
    const float pt = a.caught(on), growth = fl::fma_(pt + pt, ::fminf(a.nll(on), 1e38f), u);
    return (on ? -on_weight * scale : off_weight * scale) * (u * u) * growth;
  }
  __device__ __forceinline__ void add_value(const Logit<true>& a, float y, Sums& s) const {
    const fl::Sigmoid<float> at = a.all();
    s.point += element().value(at.p, at.q, at.neg_log_p, at.neg_log_1mp, y);
  }
  __device__ __forceinline__ float slope(const Logit<true>& a, float y, float scale) const {
    const fl::Sigmoid<float> at = a.all();
    return scale * element().slope(at.p, at.q, at.neg_log_p, at.neg_log_1mp, y);
  }
  __device__ __forceinline__ fl::FocalElement<fl::kPower2, false, float> element() const {
    return {2.0f, on_weight, off_weight};
  }
};

// Top-k of hard labels: the margin orders the elements, so that a threshold on it needs no transcendental.
struct Topk {
  static constexpr bool kPointwise = true, kTopk = true;
  static constexpr int kUnroll = 2, kBothUnroll = 2, kGradUnroll = 2,
                       kShared = (sizeof(Selection<float>) + 15) / 16 * 16;
  Selection<float>* selection;
  float low, high;              // margins outside of them do not have the digits found so far
  float threshold, above, tie;  // what margins above the threshold weigh, and those on it

  __device__ __forceinline__ Topk(const Work&, int, int64_t) {}
  __device__ __forceinline__ void begin(const Work& w, const Launch& l, const Walk& k, unsigned char* memory) {
    selection = reinterpret_cast<Selection<float>*>(memory);
    if (l.phase == kGradPhase) return;
    if (l.finishes) clear_histograms<float>(w, 1);
    selection->clear();
    __syncthreads();
  }

  __device__ __forceinline__ void add(float x, bool on, Sums& s) const {
    add_region(fl::inverse(1.0f + fl::exp_minus(x)), on, s);
  }
  __device__ __forceinline__ void set_bucket(int level) {
    const Digit<float> digit(level - 1);
    const uint32_t prefix = selection->picks[0].prefix;
    low = fl::topk_value<float>(prefix << digit.shift);
    high = fl::topk_value<float>((prefix + 1) << digit.shift);
    if (prefix + 1 == 1u << (32 - digit.shift)) high = INFINITY + -INFINITY;
  }
  // The digit of the elements that have those before; `one`: of the first element alone.
  template <class X, class Y>
  __device__ __forceinline__ void count(const Pack<X>& x, const Y& y, bool one, int level) const {
    bool near[kPack], any = false;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const float m = fl::topk_margin(widen(x.v[i]), y.label(i) ? 1.0f : 0.0f);
      near[i] = y.there(i) && !(one && i > 0) && (level == 0 || (!(m < low) && !(m >= high)));
      any |= near[i];
    }
    if (!any) return;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const uint32_t key = fl::topk_key(fl::topk_margin(widen(x.v[i]), y.label(i) ? 1.0f : 0.0f));
      if (near[i]) selection->count(key, 0, level);
    }
  }

  __device__ __forceinline__ void set_threshold(const Work& w, int term) {
    const double* aux = w.aux + term * fl::kAuxColumns;
    threshold = static_cast<float>(aux[fl::kThreshold]), above = 1.0f, tie = static_cast<float>(aux[fl::kTieWeight]);
    if (aux[fl::kTopCount] == 0.0) threshold = INFINITY, above = tie = 0.0f;
    if (threshold != threshold) threshold = INFINITY, above = tie, tie = 0.0f;  // NaN, the largest
  }
  __device__ __forceinline__ float weight(float m) const {
    return !(m <= threshold) ? above : (m == threshold ? tie : 0.0f);
  }
  __device__ __forceinline__ void add_picked(float x, bool on, Sums& s) const {
    const Logit<true> a(x);
    const float weighs = weight(a.margin(on));
    if (weighs != 0.0f) s.point += weighs * a.nll(on);
  }
  __device__ __forceinline__ float grad(float x, bool on, const Slopes& d) const {
    const Logit<false> a(x);
    const float weighs = weight(a.margin(on)) * (on ? -d.point : d.point);
    return fl::fma_(a.slope(), region_slope(on, d), weighs * a.missed(on));
  }
  __device__ __forceinline__ float add_grad(float x, bool on, Sums& s, const Slopes& d) const {
    add_picked(x, on, s);
    return grad(x, on, d);
  }
};

}  // namespace fl_cuda

// The terms that fast kernels know: region terms, with one pointwise term or none. Formulas: csrc/math.
#pragma once
#include "../../math/elements.h"
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
  static constexpr bool kPointwise = false;
  static constexpr int kUnroll = 4, kGradUnroll = 4;  // packs of a turn at a time, if it has so many
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

// kTerm: value(Logit, label) and slope(Logit, label, scale), the scaled derivative of the value by the logit.
template <class Term>
struct WithRegion : Term {
  static constexpr bool kPointwise = true;
  static constexpr int kUnroll = 2, kGradUnroll = Term::kLogSlope ? 2 : 4;
  using Term::Term;

  template <class Y>
  __device__ __forceinline__ void add(float x, Y y, Sums& s) const {
    const Logit<true> a(x);
    s.point += this->value(a, y);
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
    s.point += this->value(a, y);
    return this->slope(a, y, d.point);
  }
};

// Weights of 0, which an infinite value must not meet, are not for these: no product is guarded.
struct Bce {
  static constexpr bool kLogSlope = false;
  float pos_weight;
  __device__ __forceinline__ Bce(const Work& w, int term, int64_t c)
      : pos_weight(static_cast<float>(vector_at(w, term, c, 1.0))) {}

  template <bool kLog>
  __device__ __forceinline__ float value(const Logit<kLog>& a, bool on) const {
    const float nll = a.nll(on);
    return on ? pos_weight * nll : nll;
  }
  template <bool kLog>
  __device__ __forceinline__ float slope(const Logit<kLog>& a, bool on, float scale) const {
    return (on ? -pos_weight * scale : scale) * a.missed(on);
  }
  template <bool kLog>
  __device__ __forceinline__ float value(const Logit<kLog>& a, float y) const {
    const fl::Sigmoid<float> at = a.all();
    return fl::bce(at.nlp, at.nlq, y, pos_weight);
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

  __device__ __forceinline__ float value(const Logit<true>& a, bool on) const {
    const float u = a.missed(on);
    return (on ? on_weight : off_weight) * fl::focal_power<fl::kPower2>(u, 2.0f) * a.nll(on);
  }
  __device__ __forceinline__ float slope(const Logit<true>& a, bool on, float scale) const {
    const float u = a.missed(on);
    // fl::focal_slope: u (u + 2 p_t b), where p_t = 0 must not meet an infinite b.
    const float pt = a.caught(on), growth = fl::fma_(pt + pt, ::fminf(a.nll(on), 1e38f), u);
    return (on ? -on_weight * scale : off_weight * scale) * (u * u) * growth;
  }
  __device__ __forceinline__ float value(const Logit<true>& a, float y) const {
    const fl::Sigmoid<float> at = a.all();
    return element().value(at.p, at.q, at.nlp, at.nlq, y);
  }
  __device__ __forceinline__ float slope(const Logit<true>& a, float y, float scale) const {
    const fl::Sigmoid<float> at = a.all();
    return scale * element().slope(at.p, at.q, at.nlp, at.nlq, y);
  }
  __device__ __forceinline__ fl::FocalElement<fl::kPower2, false, float> element() const {
    return {2.0f, on_weight, off_weight};
  }
};

}  // namespace fl_cuda

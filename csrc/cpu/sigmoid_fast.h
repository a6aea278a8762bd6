// Unmasked region terms and at most one pointwise term in a single loop over vectors of pixels, nothing laid down in L1
// between them: what most calls are. sigmoid.h has the general form of the same arithmetic.
#pragma once
#include "select.h"
#include "sigmoid.h"
#include "vec.h"

FL_NAMESPACE_BEGIN

constexpr int kSumsAtATime = kLanes > 8 ? 4 : 2;  // accumulators of each sum; more would not fit 16 registers

// Two kinds of labels: bits, or numbers from 0 to 1; -1 where a chunk was filled up.
struct BitLabels {
  using Row = uint8_t;
  const Row* row;
  FL_HD Mask at(int64_t i) const { return mask_at(row, i); }
};
struct SoftLabels {
  using Row = float;
  const Row* row;
  FL_HD Vec at(int64_t i) const { return load_vec(row + i); }
};
FL_HD Mask is_target(Mask y) { return y; }
FL_HD Mask is_target(Vec y) { return y >= Vec(0.5f); }
FL_HD int64_t count_bits(const float*, int64_t) { return 0; }
FL_HD Vec add_labelled(Vec sum, Vec a, Mask y) { return add_where(y, sum, a); }
FL_HD Vec add_labelled(Vec sum, Vec a, Vec y) { return sum + a * y; }

// dL/dp of the region terms: pred + inter y.
struct RegionLine {
  Vec pred, inter, both;
  FL_HD RegionLine(float p, float i) : pred(p), inter(i), both(p + i) {}
  FL_HD Vec at(Mask y) const { return select_(y, both, pred); }
  FL_HD Vec at(Vec y) const { return fma_(inter, y, pred); }
};

// The pointwise term of a pixel, beside what region terms need: p and p (1 - p).
struct FastPixel {
  Vec p, variance, value, grad;
};

// None: the gradient starts as p (1 - p), from which the region terms' follows by a factor.
struct NoElement {
  template <class Label>
  FL_HD FastPixel at(Vec x, Label) const {
    const HardSigmoid<Vec> h = hard_sigmoid<false>(x, negative(x));
    return {h.p, h.slope, h.p, h.slope};
  }
};
// BCE and focal on hard labels: alpha_t (1 - p_t)^gamma (-log p_t); BCE is gamma = 0.
template <FocalPower kPower>
struct HardElement {
  Vec gamma, on, off, grad_on, grad_off;
  HardElement(float g, float a, float b, float scale)
      : gamma(g), on(a), off(b), grad_on(-scale * a), grad_off(scale * b) {}
  FL_HD FastPixel at(Vec x, Mask y) const {
    const HardSigmoid<Vec> h = hard_sigmoid<true>(x, y);
    const Vec value = product(select_(y, on, off) * focal_power<kPower>(h.miss, gamma), h.nll);
    const Vec slope = h.miss * focal_slope<kPower>(h.nll, h.miss, Vec(1) - h.miss, gamma);
    return {h.p, h.slope, value, select_(y, grad_on, grad_off) * slope};
  }
};
// Poly-1 on hard labels: w (-log p_t + eps (1 - p_t)).
struct HardPoly {
  Vec eps, on, grad_on, grad_off;
  HardPoly(float e, float w, float scale) : eps(e), on(w), grad_on(-scale * w), grad_off(scale) {}
  FL_HD FastPixel at(Vec x, Mask y) const {
    const HardSigmoid<Vec> h = hard_sigmoid<true>(x, y);
    const Vec value = product(select_(y, on, Vec(1)), fma_(eps, h.miss, h.nll));
    const Vec slope = h.miss * fma_(eps, Vec(1) - h.miss, Vec(1));
    return {h.p, h.slope, value, select_(y, grad_on, grad_off) * slope};
  }
};
// Top-k on hard labels: -x or x, the margin by which a pixel misses its label, orders the elements as their BCE does.
FL_HD Vec topk_margin(Vec x, Mask y) { return select_(y, -x, x); }
FL_HD Words topk_key(Vec value) {
  const Words bits = bits_of(value + Vec(0)), key = bits ^ ((bits >> 31) | static_cast<int32_t>(0x80000000));
  return bits_of(select_(value == value, of_bits(key), of_bits(Words{} - 1)));
}
struct HardTopk {
  Vec threshold, tie, grad_on, grad_off;
  HardTopk(float t, float share, float scale) : threshold(t), tie(share), grad_on(-scale), grad_off(scale) {}
  FL_HD FastPixel at(Vec x, Mask y) const {
    const HardSigmoid<Vec> h = hard_sigmoid<true>(x, y);
    const Vec margin = topk_margin(x, y), rest = select_(margin == threshold, tie, Vec(0));
    const Vec share = select_(margin <= threshold, rest, Vec(1));  // a NaN is above
    return {h.p, h.slope, product(share, h.nll), select_(y, grad_on, grad_off) * h.miss * share};
  }
};
struct SoftBce {
  Vec pos_weight, smoothing, scale;
  SoftBce(float w, float s, float by) : pos_weight(w), smoothing(s), scale(by) {}
  FL_HD FastPixel at(Vec x, Vec y) const {
    const Sigmoid<Vec> a = sigmoid<true>(x);
    const BceElement<Vec> bce{pos_weight, smoothing};
    const Vec value = select_(y >= Vec(0), bce.value(a.p, a.q, a.neg_log_p, a.neg_log_1mp, y), Vec(0));
    return {a.p, a.p * a.q, value, scale * bce.slope(a.p, a.q, a.neg_log_p, a.neg_log_1mp, y)};
  }
};

// What the region terms add to a gradient g that the pointwise term has begun.
struct Multiply {  // g is p (1 - p)
  FL_HD Vec operator()(Vec g, Vec, Vec slope) const { return g * slope; }
};
struct FromBce {  // g is scale (p - y) of a plain BCE on hard labels: |p - y| is u = 1 - p_t, and p (1 - p) = u (1 - u)
  Vec inverse_scale;
  FL_HD Vec operator()(Vec g, Vec, Vec slope) const {
    const Vec u = abs_(g * inverse_scale);
    return fma_(u * (Vec(1) - u), slope, g);
  }
};
struct FromVariance {
  FL_HD Vec operator()(Vec g, Vec variance, Vec slope) const { return fma_(variance, slope, g); }
};

FL_HD Vec sum_of(const Vec* parts) {
  Vec sum = parts[0];
  for (int k = 1; k < kSumsAtATime; ++k) sum += parts[k];
  return sum;
}

struct FastSums {
  double inter = 0, pred = 0, target = 0, pointwise = 0;
};

// The first step, or under kGrads alone both, with the same bits. n is a multiple of kStrip.
template <int kMode, class E, class Labels, class Element, class Second>
inline FastSums fast_loop(const E* __restrict x, Labels labels, int64_t n, E* __restrict g, Element element,
                          Second second, RegionLine line) {
  Vec inter[kSumsAtATime], pred[kSumsAtATime], total[kSumsAtATime], target[kSumsAtATime];
  for (int k = 0; k < kSumsAtATime; ++k) inter[k] = pred[k] = total[k] = target[k] = Vec(0);
  constexpr bool kSoft = std::is_same<Labels, SoftLabels>::value;
  const auto one = [&](int k, Vec logit, auto y) __attribute__((always_inline)) {
    const FastPixel pixel = element.at(logit, y);
    if (kMode & kValues) {
      pred[k] += pixel.p;
      inter[k] = add_labelled(inter[k], pixel.p, y);
      if constexpr (kSoft) target[k] += relu(y);
      if (!std::is_same<Element, NoElement>::value) total[k] += pixel.value;
    }
    return kMode == kGrads ? second(pixel.grad, pixel.variance, line.at(y)) : pixel.grad;
  };
  for (int64_t i = 0; i < n; i += kUnroll * kLanes) {
#pragma GCC unroll 4
    for (int k = 0; k < kUnroll; ++k) {
      const int64_t at = i + k * kLanes;
      if constexpr (std::is_same<E, BFloat16>::value && !kSoft) {
        if (k % 2) continue;
        const Pair logits = load_pair(x + at);
        const MaskPair y = mask_pair_at(labels.row, at);
        const Vec even = one(k % kSumsAtATime, logits.even, y.even),
                  odd = one((k + 1) % kSumsAtATime, logits.odd, y.odd);
        if (kMode & kGrads) store_pair({even, odd}, g + at);
      } else {
        const Vec grad = one(k % kSumsAtATime, load_vec(x + at), labels.at(at));
        if (kMode & kGrads) store_vec(grad, g + at);
      }
    }
  }
  FastSums s;
  if (kMode & kValues) {
    s.inter = sum_lanes(sum_of(inter)), s.pred = sum_lanes(sum_of(pred)), s.pointwise = sum_lanes(sum_of(total));
    s.target = kSoft ? sum_lanes(sum_of(target)) : static_cast<double>(count_bits(labels.row, n));
  }
  return s;
}

// The second step alone; only FromVariance reads the logits.
template <class Labels, class Second>
inline void second_loop(const float* __restrict x, Labels labels, int64_t n, float* __restrict g, Second second,
                        RegionLine line) {
  for (int64_t i = 0; i < n; i += kLanes) {
    Vec variance = Vec(0);
    if (std::is_same<Second, FromVariance>::value) variance = NoElement().at(load_vec(x + i), 0).variance;
    store_vec(second(load_vec(g + i), variance, line.at(labels.at(i))), g + i);
  }
}

FL_NAMESPACE_END

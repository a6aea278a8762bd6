// The chunks of a problem whose terms have a loop of their own (sigmoid_fast.h): what is read where, and which loop.
#pragma once
#include "sigmoid_fast.h"

FL_NAMESPACE_BEGIN

constexpr int kFastChunk = 2048;  // fewer ends of loops than with kChunk; most of these arrays are not touched

struct FastScratch {
  alignas(64) float x[kFastChunk], g[kFastChunk], y[kFastChunk];
  uint8_t bytes[kFastChunk];
  alignas(64) uint8_t bits[kFastChunk / 8];
};

struct FastSteps {
  using Task = Blocks::Task;

  const Setup<float>& su;
  const Term* term = nullptr;  // the only pointwise term, and its index
  int index = -1;
  bool works, bits, from_bce;
  CallPath path = kFastCall;

  FastSteps(const Setup<float>& setup) : su(setup) {
    int pointwise = 0;
    for (int i = 0; i < su.spec.n_terms; ++i)
      if (!su.spec.terms[i].region()) ++pointwise, term = &su.spec.terms[i], index = i;
    const bool smoothed = term && term->label_smoothing != 0.0;
    bits = su.target.hard && !smoothed;
    if (su.target.masked) path = kMaskedElements;
    if (su.weighted) path = kPixelWeights;
    if (su.spec.any_squared() || su.spec.any_l1()) path = kSquaredSums;
    const bool rare = term && (term->kind == kLogPower || term->kind == kBoundary);
    if (rare || (term && term->kind != kBce && !bits)) path = kOtherTerm;
    if (pointwise > 1) path = kSeveralTerms;
    works = path == kFastCall;
    from_bce = term && term->kind == kBce && bits && !term->vector;
  }

  // The first step of a chunk, as Steps::first; under kGrads alone both steps.
  void first(const Task& task, FastScratch& s, int64_t at, int64_t n, int mode, double* sums) const {
    const bool same =
        su.x.runs.contiguous() && (!(mode & kGrads) || (su.out.runs.contiguous() && su.p.out.dtype == su.p.x.dtype));
    if (same && su.p.x.dtype == kF16) return typed<Half>(task, s, at, n, mode, sums);
    if (same && su.p.x.dtype == kBF16) return typed<BFloat16>(task, s, at, n, mode, sums);
    const float* x = su.x.load(task.sample, task.plane, at, n, s.x);
    float* g = mode & kGrads ? su.out.target(task.sample, task.plane, at, s.g) : nullptr;
    run(task, s, fill_up(x, n, s.x), at, n, mode, g, sums);
    if (mode & kGrads) su.out.store(task.sample, task.plane, at, n, g);
  }

  // The second step over what the first has left in the output.
  void second(const Task& task, FastScratch& s, int64_t at, int64_t n) const {
    float* g = su.out.target(task.sample, task.plane, at, nullptr);
    const double* d = grad_sums(task);
    const float* x = reads_logits() ? fill_up(su.x.load(task.sample, task.plane, at, n, s.x), n, s.x) : nullptr;
    with_whole_strips(g, n, s.g, [&](float* whole) {
      with_labels(task, s, at, n, [&](auto labels) {
        if (!term)
          second_loop(x, labels, strips(n), whole, Multiply(), line(d));
        else if (x)
          second_loop(x, labels, strips(n), whole, FromVariance(), line(d));
        else
          second_loop(x, labels, strips(n), whole, FromBce{Vec(1.0 / scale(d))}, line(d));
      });
    });
  }
  // The keys that order the elements of a chunk in a top-k term.
  void keys(const Task& task, FastScratch& s, int64_t at, int64_t n, uint32_t* out) const {
    const float* x = fill_up(su.x.load(task.sample, task.plane, at, n, s.x), n, s.x);
    su.target.label_bits(task.sample, task.plane, at, n, s.bytes, s.bits);
    for (int64_t i = 0; i < strips(n); i += kLanes) {
      const Words key = topk_key(topk_margin(load_vec(x + i), mask_at(s.bits, i)));
      memcpy(out + i, &key, sizeof(key));
    }
  }

  // The scale of a BCE of weight 0 is 0 in every task.
  bool reads_logits() const { return term && !(from_bce && scale(su.p.grad_sums) != 0.0); }

 private:
  static int64_t strips(int64_t n) { return (n + kStrip - 1) / kStrip * kStrip; }
  const double* grad_sums(const Task& task) const { return su.p.grad_sums + su.view.at(su.row(task), task.plane); }
  double scale(const double* d) const { return su.p.grad_output_value * d[kFixedSums + index]; }
  RegionLine line(const double* d) const {
    return {static_cast<float>(su.p.grad_output_value * d[kPred]),
            static_cast<float>(su.p.grad_output_value * d[kInter])};
  }

  // Logits in whole strips: a pixel of -inf that is no target adds nothing to any sum of hard labels.
  template <class E>
  static const E* fill_up(const E* x, int64_t n, E* buffer) {
    if (n == strips(n)) return x;
    if (x != buffer) memcpy(buffer, x, n * sizeof(E));
    for (int64_t i = n; i < strips(n); ++i) narrow(-INFINITY, buffer + i);
    return buffer;
  }
  template <class E, class F>
  static void with_whole_strips(E* g, int64_t n, E* buffer, const F& f) {
    if (!g || n == strips(n)) return f(g);
    if (g != buffer) memcpy(buffer, g, n * sizeof(E));
    f(buffer);
    if (g != buffer) memcpy(g, buffer, n * sizeof(E));
  }

  template <class E>
  void typed(const Task& task, FastScratch& s, int64_t at, int64_t n, int mode, double* sums) const {
    const E* x = su.x.template base<const E>(task.sample, task.plane) + at;
    E* g = mode & kGrads ? su.out.template base<E>(task.sample, task.plane) + at : nullptr;
    run(task, s, fill_up(x, n, reinterpret_cast<E*>(s.x)), at, n, mode, g, sums);
  }

  template <class E>
  void run(const Task& task, FastScratch& s, const E* x, int64_t at, int64_t n, int mode, E* g, double* sums) const {
    const double* d = mode & kGrads ? grad_sums(task) : nullptr;
    with_whole_strips(g, n, reinterpret_cast<E*>(s.g), [&](E* whole) {
      with_labels(task, s, at, n, [&](auto labels) {
        with_element(labels, task.plane, term && d ? static_cast<float>(scale(d)) : 0.0f, [&](auto element) {
          if (mode == kGrads) return both_steps(x, labels, strips(n), whole, element, d);
          FastSums h;
          if constexpr (std::is_same<E, float>::value)
            if (mode & kGrads)
              h = fast_loop<kValues | kGrads>(x, labels, strips(n), whole, element, Multiply(), RegionLine(0, 0));
          if (!(mode & kGrads))
            h = fast_loop<kValues>(x, labels, strips(n), whole, element, Multiply(), RegionLine(0, 0));
          sums[kInter] += h.inter, sums[kPred] += h.pred, sums[kTarget] += h.target;
          if (term) sums[kFixedSums + index] += h.pointwise;
          if (su.p.counts) count(x, labels, n, sums + su.view.columns);
        });
      });
    });
  }

  template <class E, class Labels, class Element>
  void both_steps(const E* x, Labels labels, int64_t n, E* g, Element element, const double* d) const {
    if constexpr (std::is_same<Element, NoElement>::value)
      fast_loop<kGrads>(x, labels, n, g, element, Multiply(), line(d));
    else if (reads_logits())
      fast_loop<kGrads>(x, labels, n, g, element, FromVariance(), line(d));
    else if constexpr (std::is_same<Element, HardElement<kPower0>>::value)
      fast_loop<kGrads>(x, labels, n, g, element, FromBce{Vec(1.0 / scale(d))}, line(d));
  }

  template <class F>
  void with_labels(const Task& task, FastScratch& s, int64_t at, int64_t n, const F& f) const {
    if (bits) {
      su.target.label_bits(task.sample, task.plane, at, n, s.bytes, s.bits);
      return f(BitLabels{s.bits});
    }
    su.target.labels(task.sample, task.plane, at, n, s.y, nullptr);
    for (int64_t i = n; i < strips(n); ++i) s.y[i] = -1.0f;
    f(SoftLabels{s.y});
  }

  template <class Labels, class F>
  void with_element(Labels, int64_t plane, float scale, const F& f) const {
    if (!term) return f(NoElement());
    const float on = static_cast<float>(term->vector_at(plane, 1.0)), gamma = static_cast<float>(term->gamma);
    if constexpr (std::is_same<Labels, SoftLabels>::value) {
      f(SoftBce(on, static_cast<float>(term->label_smoothing), scale));
    } else if (term->kind == kTopk) {
      const double* aux = su.p.aux + index * kAuxColumns;
      f(HardTopk(static_cast<float>(aux[kThreshold]), static_cast<float>(aux[kTieWeight]), scale));
    } else if (term->kind == kPoly) {
      f(HardPoly(static_cast<float>(term->eps), on, scale));
    } else if (term->kind == kBce) {
      f(HardElement<kPower0>(0.0f, on, 1.0f, scale));
    } else {
      const float off = term->vector ? 1.0f - on : 1.0f;
      if (term->gamma == 2.0) return f(HardElement<kPower2>(gamma, on, off, scale));
      if (term->gamma == 1.0) return f(HardElement<kPower1>(gamma, on, off, scale));
      if (term->gamma == 0.0) return f(HardElement<kPower0>(gamma, on, off, scale));
      f(HardElement<kPowerAny>(gamma, on, off, scale));
    }
  }

  template <class E, class Labels>
  void count(const E* x, Labels labels, int64_t n, double* counts) const {
    const float threshold = logit_threshold<float>(su.p.threshold);
    Vec said = Vec(0), hit = Vec(0), truth = Vec(0);
    for (int64_t i = 0; i < strips(n); i += kLanes) {
      const Vec on = select_(load_vec(x + i) >= Vec(threshold), Vec(1), Vec(0));
      const Mask y = is_target(labels.at(i));
      said += on, hit = add_where(y, hit, on), truth = add_where(y, truth, Vec(1));
    }
    const double tp = sum_lanes(hit), fn = sum_lanes(truth) - tp;
    const double fp = sum_lanes(said) - tp - (threshold == -INFINITY ? strips(n) - n : 0);
    counts[0] += tp, counts[1] += fp, counts[2] += fn, counts[3] += n - tp - fp - fn;
  }
};

FL_NAMESPACE_END

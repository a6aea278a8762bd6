// Binary and multilabel, one chunk: loading it, and the two steps in which its gradient is made. The first writes the
// pointwise terms' part, which waits for no sum over predictions; the second adds the region terms' part, from what the
// first has left where that suffices.
#pragma once
#include "select.h"
#include "sigmoid.h"

FL_NAMESPACE_BEGIN

template <class T>
struct SigmoidSteps {
  using Key = typename KeyOf<T>::type;
  using Task = Blocks::Task;
  using Chunk = SigmoidChunk<T>;
  using Scratch = SigmoidScratch<T>;

  Setup<T> su;
  const bool masked, region, extra, pointwise, topk, margins;

  explicit SigmoidSteps(CpuProblem& p)
      : su(p),
        masked(su.target.masked || su.weighted),
        region(su.spec.any_region()),
        extra(su.spec.any_squared() || su.spec.any_l1()),
        pointwise(su.spec.any_pointwise()),
        topk(su.spec.any(kTopk)),
        margins(su.target.hard && !su.weighted) {}

  Chunk load(const Task& task, Scratch& s, int64_t at, int64_t n, bool logits = true) const {
    su.target.labels(task.sample, task.plane, at, n, s.y, s.valid);
    const T* x = logits ? su.x.load(task.sample, task.plane, at, n, s.x) : nullptr;
    if (masked && logits) x = keep_valid(task, s, x, at, n);
    T* g = su.p.out.data ? su.out.target(task.sample, task.plane, at, s.g) : s.g;
    return {x, s, g, n, at, su.target.hard};
  }

  // Ignored elements become harmless numbers here, so that their own (NaN, inf) never enter the arithmetic.
  const T* keep_valid(const Task& task, Scratch& s, const T* x, int64_t at, int64_t n) const {
    if (!su.target.masked)
      for (int64_t i = 0; i < n; ++i) s.valid[i] = T(1);
    const T* w = s.valid;
    if (su.weighted) w = su.pixel_weight.load(task.sample, task.plane, at, n, s.weight);
    for (int64_t i = 0; i < n; ++i) {
      const bool use = s.valid[i] != T(0);
      s.x[i] = use ? x[i] : T(0);
      s.weight[i] = use ? w[i] : T(0);
    }
    return s.x;
  }

  const double* grad_sums(const Task& task) const { return su.p.grad_sums + su.view.at(su.row(task), task.plane); }

  // The first step. Adds to `sums` under kValues; under kGrads leaves in g the pointwise terms' gradient or, where
  // there are none, p (1 - p).
  void first(const Task& task, const Chunk& k, int mode, double* sums) const {
    const double* d = mode & kGrads ? grad_sums(task) : nullptr;
    if (pointwise)
      activate<true>(k);
    else
      activate<false>(k);
    if (mode & kValues && region) sum_regions(k, sums);
    if (mode & kGrads) leave_variance(k);
    for (int i = 0; i < su.spec.n_terms; ++i) {
      const Term& t = su.spec.terms[i];
      if (t.region()) continue;
      const double scale = d ? su.p.grad_output_value * d[kFixedSums + i] : 0.0;
      const bool picked = t.kind == kTopk;
      if (picked) pick(task, k, t, su.p.aux + i * kAuxColumns);
      const T* weight = picked ? k.s.pick : k.s.weight;
      const double total = masked || picked ? term<true>(k, t, task.plane, weight, scale, mode)
                                            : term<false>(k, t, task.plane, weight, scale, mode);
      if (mode & kValues) sums[kFixedSums + i] += total;
    }
  }

  // The second step. `activated`: p and q of the chunk are in the scratch.
  void second(const Task& task, const Chunk& k, bool activated) const {
    if (!region) return;
    const double* d = grad_sums(task);
    if (!pointwise && !extra) {
      scale_region(k, static_cast<T>(su.p.grad_output_value * d[kPred]),
                   static_cast<T>(su.p.grad_output_value * d[kInter]));
    } else {
      if (!activated) activate<false>(k);
      add_regions(k, d);
    }
  }
  bool second_reads_logits() const { return pointwise || extra; }

  // The value of each element of a pointwise term: into pick. Needs activate<true>.
  void element_values(const Task& task, const Chunk& k, const Term& t) const {
    if (masked)
      pointwise_term_loop<kStore, true>(k, t, task.plane, k.s.weight, 1.0);
    else
      pointwise_term_loop<kStore, false>(k, t, task.plane, k.s.weight, 1.0);
  }

  // The key of each element of a chunk, 0 where it does not take part. Needs activate<true> unless margins order them.
  void keys(const Task& task, const Chunk& k, const Term& t, Key* __restrict out) const {
    if (margins) {
      const T* __restrict x = k.x, * __restrict y = k.s.y;
      for (int64_t i = 0; i < k.n; ++i) out[i] = topk_key(topk_margin(x[i], y[i]));
    } else {
      element_values(task, k, t);
      for (int64_t i = 0; i < k.n; ++i) out[i] = topk_key(k.s.pick[i]);
    }
    if (su.target.masked)
      for (int64_t i = 0; i < k.n; ++i) out[i] = k.s.valid[i] != T(0) ? out[i] : Key(0);
  }

 private:
  void leave_variance(const Chunk& k) const {
    if (pointwise || extra) {
      memset(k.g, 0, k.n * sizeof(T));
      return;
    }
    const T* __restrict p = k.s.p, * __restrict q = k.s.q;
    for (int64_t i = 0; i < k.n; ++i) k.g[i] = p[i] * q[i];
    for (int64_t i = 0; masked && i < k.n; ++i) k.g[i] *= k.s.valid[i];
  }

  // What each element of a chunk weighs in a top-k term: into pick.
  void pick(const Task& task, const Chunk& k, const Term& t, const double* aux) const {
    alignas(64) Key key[kChunk];
    keys(task, k, t, key);
    const Key threshold = topk_key(static_cast<T>(aux[kThreshold]));
    const T tie = static_cast<T>(aux[kTieWeight]);
    T* __restrict out = k.s.pick;
    for (int64_t i = 0; i < k.n; ++i) out[i] = key[i] > threshold ? T(1) : (key[i] == threshold ? tie : T(0));
    for (int64_t i = 0; masked && i < k.n; ++i) out[i] *= k.s.weight[i];
  }

  template <bool kMasked>
  static double term(const Chunk& k, const Term& t, int64_t c, const T* weight, double scale, int mode) {
    switch (mode) {
      case kValues:
        return pointwise_term_loop<kValues, kMasked>(k, t, c, weight, scale);
      case kGrads:
        return pointwise_term_loop<kGrads, kMasked>(k, t, c, weight, scale);
      default:
        return pointwise_term_loop<kValues | kGrads, kMasked>(k, t, c, weight, scale);
    }
  }

  void sum_regions(const Chunk& k, double* sums) const {
    if (masked)
      extra ? region_sums<true, true>(k, sums) : region_sums<true, false>(k, sums);
    else
      extra ? region_sums<false, true>(k, sums) : region_sums<false, false>(k, sums);
  }
  void add_regions(const Chunk& k, const double* d) const {
    const double up = su.p.grad_output_value;
    if (masked)
      extra ? add_region_grad<true, true>(k, d, up) : add_region_grad<true, false>(k, d, up);
    else
      extra ? add_region_grad<false, true>(k, d, up) : add_region_grad<false, false>(k, d, up);
  }
};

FL_NAMESPACE_END

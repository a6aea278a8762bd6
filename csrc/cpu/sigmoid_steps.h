// Binary and multilabel, one chunk: loading it, and the two steps in which its gradient is made. The first writes the
// pointwise terms' part, which waits for no sum over predictions; the second adds the region terms' part, from what the
// first has left where that suffices.
#pragma once
#include "select.h"
#include "sigmoid_hot.h"

FL_NAMESPACE_BEGIN

template <class T>
struct SigmoidSteps {
  using Key = typename KeyOf<T>::type;
  using Task = Blocks::Task;
  using Chunk = SigmoidChunk<T>;
  using Scratch = SigmoidScratch<T>;

  Setup<T> su;
  const bool masked, region, extra, pointwise, topk, margins;
  int last_pointwise = -1;  // index of the last pointwise term
  bool hot;                 // the terms have a loop of their own (sigmoid_hot.h)
  bool from_bce = false;    // the region part follows from the gradient of the only pointwise term, a plain BCE

  explicit SigmoidSteps(Problem& p)
      : su(p),
        masked(su.target.masked || su.weighted),
        region(su.spec.any_region()),
        extra(su.spec.any_squared() || su.spec.any_l1()),
        pointwise(su.spec.any_pointwise()),
        topk(su.spec.any(kTopk)),
        margins(su.target.hard && !su.weighted) {
    int count = 0;
    for (int i = 0; i < su.spec.n_terms; ++i)
      if (su.spec.terms[i].kind != kTversky) ++count, last_pointwise = i;
    const Term* only = count == 1 ? &su.spec.terms[last_pointwise] : nullptr;
    const bool looped = !only || only->kind == kBce || (only->kind == kFocal && su.target.hard);
    hot = std::is_same<T, float>::value && !masked && !extra && count <= 1 && looped;
    from_bce = only && only->kind == kBce && !only->vector && only->label_smoothing == 0.0 && margins && !extra;
  }

  Chunk load(const Task& task, Scratch& s, int64_t at, int64_t n, bool logits = true) const {
    const uint8_t* bytes = hot ? su.target.bytes(task.sample, task.plane, at) : nullptr;
    if (bytes)
      su.target.check_bytes(task.sample, task.plane, at, n);
    else
      su.target.labels(task.sample, task.plane, at, n, s.y, s.valid);
    const T* x = logits ? su.x.load(task.sample, task.plane, at, n, s.x) : nullptr;
    if (masked && logits) x = keep_valid(task, s, x, at, n);
    T* g = su.p.out.data ? su.out.target(task.sample, task.plane, at, s.g) : s.g;
    return {x, bytes, s, g, n, at, su.target.hard};
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

  const double* dsums(const Task& task) const { return su.p.dsums + su.view.at(su.row(task), task.plane); }

  // The first step. Adds to `sums` under kValues; under kGrads leaves in g the pointwise terms' gradient or, where
  // there are none, p (1 - p).
  void first(const Task& task, const Chunk& k, int mode, double* sums) const {
    const double* d = mode & kGrads ? dsums(task) : nullptr;
    if (hot) return k.bytes ? first_hot(task, k, k.bytes, mode, sums, d) : first_hot(task, k, k.s.y, mode, sums, d);
    if (pointwise)
      activate<true>(k);
    else
      activate<false>(k);
    if (mode & kValues && region) sum_regions(k, sums);
    if (mode & kGrads) leave_variance(k);
    for (int i = 0; i < su.spec.n_terms; ++i) {
      const Term& t = su.spec.terms[i];
      if (t.kind == kTversky) continue;
      const double scale = d ? su.p.upstream * d[kFixedSums + i] : 0.0;
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
    const double* d = dsums(task);
    const double scale = from_bce ? su.p.upstream * d[kFixedSums + last_pointwise] : 0.0;
    const T pred = static_cast<T>(su.p.upstream * d[kPred]), inter = static_cast<T>(su.p.upstream * d[kInter]);
    const auto with = [&](const auto* y) {
      if (!pointwise && !extra)
        scale_region(y, k.n, k.g, pred, inter);
      else if (scale != 0.0)
        add_region_from_bce(y, k.n, k.g, static_cast<T>(1.0 / scale), pred, inter);
      else if (hot)
        add_region(k.x, y, k.n, k.g, pred, inter);
      else {
        if (!activated) activate<false>(k);
        add_regions(k, d);
      }
    };
    if (k.bytes)
      with(k.bytes);
    else
      with(static_cast<const T*>(k.s.y));
  }
  // Whether the second step reads the logits; the scale of a BCE of weight 0 is 0 in every task.
  bool second_reads_logits() const {
    if (!pointwise && !extra) return false;
    return !from_bce || su.p.upstream * su.p.dsums[kFixedSums + last_pointwise] == 0.0;
  }

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
  // The single loop of these terms over a chunk; labels as bytes or as T.
  template <class Label>
  void first_hot(const Task& task, const Chunk& k, const Label* y, int mode, double* sums, const double* d) const {
    const Term* t = pointwise ? &su.spec.terms[last_pointwise] : nullptr;
    const T scale = static_cast<T>(t && d ? su.p.upstream * d[kFixedSums + last_pointwise] : 0.0);
    const auto run = [&](const auto& element) {
      const HotSums h = region ? (d ? hot_loop<true, true>(k.x, y, k.n, k.g, scale, element)
                                    : hot_loop<true, false>(k.x, y, k.n, k.g, scale, element))
                               : (d ? hot_loop<false, true>(k.x, y, k.n, k.g, scale, element)
                                    : hot_loop<false, false>(k.x, y, k.n, k.g, scale, element));
      if (!(mode & kValues)) return;
      sums[kInter] += h.inter, sums[kPred] += h.pred, sums[kTarget] += h.target;
      if (t) sums[kFixedSums + last_pointwise] += h.pointwise;
    };
    if (!t) return run(NoElement());
    const T on = static_cast<T>(t->vector_at(task.plane, 1.0)), off = t->vector ? T(1) - on : T(1);
    if (t->kind == kBce)
      run(BceElement<T>{on, static_cast<T>(t->label_smoothing)});
    else if (t->gamma == 2.0)
      run(FocalElement<kPower2, true, T>{T(2), on, off});
    else if (t->gamma == 1.0)
      run(FocalElement<kPower1, true, T>{T(1), on, off});
    else if (t->gamma == 0.0)
      run(FocalElement<kPower0, true, T>{T(0), on, off});
    else
      run(FocalElement<kPowerAny, true, T>{static_cast<T>(t->gamma), on, off});
  }

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
    const double up = su.p.upstream;
    if (masked)
      extra ? region_grad<true, true>(k, d, up) : region_grad<true, false>(k, d, up);
    else
      extra ? region_grad<false, true>(k, d, up) : region_grad<false, false>(k, d, up);
  }
};

FL_NAMESPACE_END

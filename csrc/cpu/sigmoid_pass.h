// Binary and multilabel, whole problems. Before: the number of valid elements and top-k's threshold, if they are needed.
// First pass: the sums, and the gradient of the pointwise terms, which waits for no sum over predictions. Second pass: the
// region terms' part of the gradient, as a factor on what the first pass left where that suffices.
#pragma once
#include "select.h"
#include "sigmoid_hot.h"

FL_NAMESPACE_BEGIN

template <class T>
class SigmoidPass {
  Setup<T> su;
  const bool masked_, region_, extra_, pointwise_, topk_, margins_;
  int pointwise_count_ = 0, pointwise_term_ = -1;  // how many, and the last of them
  bool hot_ = false;  // the terms have a loop of their own (sigmoid_hot.h)
  const Blocks blocks_;

  using Key = typename KeyOf<T>::type;
  using Task = Blocks::Task;
  using Chunk = SigmoidChunk<T>;
  using Scratch = SigmoidScratch<T>;

 public:
  explicit SigmoidPass(Problem& p)
      : su(p), masked_(su.target.masked || su.weighted), region_(su.spec.any_region()),
        extra_(su.spec.any_squared() || su.spec.any_l1()), pointwise_(su.spec.any_pointwise()),
        topk_(su.spec.any(kTopk)), margins_(su.target.hard && !su.weighted), blocks_(p, p.channels) {
    for (int i = 0; i < su.spec.n_terms; ++i)
      if (su.spec.terms[i].kind != kTversky) ++pointwise_count_, pointwise_term_ = i;
    const int kind = pointwise_ ? su.spec.terms[pointwise_term_].kind : kBce;
    hot_ = std::is_same<T, float>::value && !masked_ && !p.counts && p.loss && !extra_ && pointwise_count_ <= 1 &&
           (kind == kBce || (kind == kFocal && su.target.hard));
  }

  void forward() {
    Problem& p = su.p;
    // The gradient goes out in two steps only where the second can find what the first has left.
    const bool early = p.out.data && (!region_ || (su.out.direct && !extra_));
    double valid = static_cast<double>(p.samples * p.channels * blocks_.pixels);
    const bool counted = su.target.masked && ((early && pointwise_) || topk_);
    if (counted) valid = count_valid();
    if (topk_) select(static_cast<int64_t>(valid));
    if (early) {
      denominators(valid);
      finalize(su.spec, su.view, p.sums, p.aux, p.weights, p.values, p.dsums);
    }
    sum_pass(early ? kValues | kGrads : kValues);
    if (!counted) denominators(total_valid());
    if (!p.loss) return;
    *p.loss = finalize(su.spec, su.view, p.sums, p.aux, p.weights, p.values, p.dsums);
    if (!p.out.data) return;
    if (!early) backward();
    else if (region_) finish();
  }

  void backward() {
    each_task([&](int64_t t, Scratch& s) {
      const Task task = blocks_[t];
      each_chunk(task, s, [&](const Chunk& k, int64_t at) {
        terms(task, k, kGrads, nullptr);
        su.out.store(task.sample, task.plane, at, k.n, k.g);
      });
    }, true);
  }

  void elementwise() {
    each_task([&](int64_t t, Scratch& s) {
      const Task task = blocks_[t];
      each_chunk(task, s, [&](const Chunk& k, int64_t at) {
        activate<true>(k);
        element_values(task, k, su.spec.terms[0]);
        su.out.store_from(task.sample, task.plane, at, k.n, s.pick);
      });
    });
  }

 private:
  // f(task index, scratch); reversed, the end of the pass before is still in cache
  template <class F>
  void each_task(const F& f, bool reverse = false) const {
    parallel_tasks(su.p, blocks_.tasks, [&](int64_t begin, int64_t end) {
      Scratch scratch;
      for (int64_t t = begin; t < end; ++t) f(reverse ? blocks_.tasks - 1 - t : t, scratch);
    });
  }

  Chunk load(const Task& task, Scratch& s, int64_t at, int64_t n) const {
    const T* x = su.x.load(task.sample, task.plane, at, n, s.x);
    su.target.labels(task.sample, task.plane, at, n, s.y, s.valid);
    if (masked_) x = mask(task, s, x, at, n);
    T* g = su.p.out.data ? su.out.target(task.sample, task.plane, at, s.g) : s.g;
    return {x, s, g, n, su.target.hard};
  }
  template <class F>
  void each_chunk(const Task& task, Scratch& s, const F& f) const {
    for (int64_t at = task.begin; at < task.end; at += kChunk)
      f(load(task, s, at, at + kChunk < task.end ? kChunk : task.end - at), at);
  }

  // Ignored elements become harmless numbers here, so that their own (NaN, inf) never enter the arithmetic.
  const T* mask(const Task& task, Scratch& s, const T* x, int64_t at, int64_t n) const {
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

  void element_values(const Task& task, const Chunk& k, const Term& t) const {
    if (masked_) pointwise_term_loop<kStore, true>(k, t, task.plane, k.s.weight, 1.0);
    else pointwise_term_loop<kStore, false>(k, t, task.plane, k.s.weight, 1.0);
  }

  // The key of each element of a chunk, 0 where it does not take part. Needs activate<true> unless margins order them.
  void keys(const Task& task, const Chunk& k, const Term& t, Key* __restrict out) const {
    if (margins_) {
      const T *__restrict x = k.x, *__restrict y = k.s.y;
      for (int64_t i = 0; i < k.n; ++i) out[i] = topk_key(topk_margin(x[i], y[i]));
    } else {
      element_values(task, k, t);
      for (int64_t i = 0; i < k.n; ++i) out[i] = topk_key(k.s.pick[i]);
    }
    if (su.target.masked)
      for (int64_t i = 0; i < k.n; ++i) out[i] = k.s.valid[i] != T(0) ? out[i] : Key(0);
  }

  void select(int64_t valid) {
    for (int i = 0; i < su.spec.n_terms; ++i) {
      const Term& t = su.spec.terms[i];
      if (t.kind != kTopk) continue;
      select_topk<T>(su.p, blocks_, t, valid, su.p.aux + i * kAuxColumns, [&](const Task& task, const auto& f) {
        Scratch scratch;
        alignas(64) Key buffer[kChunk];
        each_chunk(task, scratch, [&](const Chunk& k, int64_t) {
          if (!margins_) activate<true>(k);
          keys(task, k, t, buffer);
          f(buffer, k.n);
        });
      });
    }
  }

  // What each element of a chunk weighs in a top-k term: into pick.
  void pick(const Task& task, const Chunk& k, const Term& t, const double* aux) const {
    alignas(64) Key buffer[kChunk];
    keys(task, k, t, buffer);
    const Key threshold = topk_key(static_cast<T>(aux[kThreshold]));
    const T tie = static_cast<T>(aux[kTieWeight]);
    T* __restrict out = k.s.pick;
    for (int64_t i = 0; i < k.n; ++i) out[i] = buffer[i] > threshold ? T(1) : (buffer[i] == threshold ? tie : T(0));
    if (masked_)
      for (int64_t i = 0; i < k.n; ++i) out[i] *= k.s.weight[i];
  }

  // One loaded chunk through all terms. With both modes the region terms leave p (1 - p) if nobody else writes g.
  void terms(const Task& task, const Chunk& k, int mode, double* sums) const {
    const double* d = su.p.dsums ? su.p.dsums + su.view.at(su.row(task), task.plane) : nullptr;
    if (pointwise_) activate<true>(k);
    else activate<false>(k);
    if (mode & kValues && region_) region<kValues>(k, sums, d);
    if (mode == kGrads && region_) region<kGrads>(k, sums, d);
    else if (mode & kGrads && pointwise_) memset(k.g, 0, k.n * sizeof(T));
    else if (mode & kGrads) leave_variance(k);
    for (int i = 0; i < su.spec.n_terms; ++i) {
      const Term& t = su.spec.terms[i];
      if (t.kind == kTversky) continue;
      const double scale = mode & kGrads ? su.p.upstream * d[kFixedSums + i] : 0.0;
      const bool picked = t.kind == kTopk;
      if (picked) pick(task, k, t, su.p.aux + i * kAuxColumns);
      const T* weight = picked ? k.s.pick : k.s.weight;
      const double total = masked_ || picked ? term<true>(k, t, task.plane, weight, scale, mode)
                                             : term<false>(k, t, task.plane, weight, scale, mode);
      if (mode & kValues) sums[kFixedSums + i] += total;
    }
  }

  void leave_variance(const Chunk& k) const {
    const T *__restrict p = k.s.p, *__restrict q = k.s.q;
    for (int64_t i = 0; i < k.n; ++i) k.g[i] = p[i] * q[i];
    if (masked_)
      for (int64_t i = 0; i < k.n; ++i) k.g[i] *= k.s.valid[i];
  }

  // The single loop of these terms over a chunk; labels as bytes or as T.
  template <class Label>
  void hot(const Task& task, const T* x, const Label* y, int64_t n, T* g, int mode, double* sums) const {
    const int i = pointwise_term_;
    const Term* t = i < 0 ? nullptr : &su.spec.terms[i];
    const double* d = su.p.dsums + su.view.at(su.row(task), task.plane);
    const T scale = static_cast<T>(t && mode & kGrads ? su.p.upstream * d[kFixedSums + i] : 0.0);
    const auto run = [&](const auto& element) {
      const HotSums h = region_ ? (mode & kGrads ? hot_loop<true, true>(x, y, n, g, scale, element)
                                                 : hot_loop<true, false>(x, y, n, g, scale, element))
                                : (mode & kGrads ? hot_loop<false, true>(x, y, n, g, scale, element)
                                                 : hot_loop<false, false>(x, y, n, g, scale, element));
      sums[kInter] += h.inter, sums[kPred] += h.pred, sums[kTarget] += h.target;
      if (t) sums[kFixedSums + i] += h.pointwise;
    };
    if (!t) {
      run(NoElement());
    } else if (t->kind == kBce) {
      run(BceElement<T>{static_cast<T>(t->vector_at(task.plane, 1.0)), static_cast<T>(t->label_smoothing)});
    } else {
      const T on = static_cast<T>(t->vector_at(task.plane, 1.0)), off = t->vector ? T(1) - on : T(1);
      if (t->gamma == 2.0) run(FocalElement<kPower2, true, T>{T(2), on, off});
      else run(FocalElement<kPowerAny, true, T>{static_cast<T>(t->gamma), on, off});
    }
  }

  void hot_pass(const Task& task, Scratch& s, int mode, double* sums) const {
    for (int64_t at = task.begin; at < task.end; at += kChunk) {
      const int64_t n = at + kChunk < task.end ? kChunk : task.end - at;
      const T* x = su.x.load(task.sample, task.plane, at, n, s.x);
      T* g = mode & kGrads ? su.out.target(task.sample, task.plane, at, s.g) : s.g;
      sums[kValid] += static_cast<double>(n);
      if (const uint8_t* bytes = su.target.bytes(task.sample, task.plane, at)) {
        su.target.check_bytes(task.sample, task.plane, at, n);
        hot(task, x, bytes, n, g, mode, sums);
      } else {
        su.target.labels(task.sample, task.plane, at, n, s.y, s.valid);
        hot(task, x, s.y, n, g, mode, sums);
      }
      if (mode & kGrads) su.out.store(task.sample, task.plane, at, n, g);
    }
  }

  // The second step of an early gradient.
  void finish() const {
    const Term* only = pointwise_count_ == 1 ? &su.spec.terms[pointwise_term_] : nullptr;
    const bool plain_bce = only && only->kind == kBce && !only->vector && only->label_smoothing == 0.0 && su.target.hard &&
                           !su.weighted;
    each_task([&](int64_t index, Scratch& s) {
      const Task task = blocks_[index];
      const double* d = su.p.dsums + su.view.at(su.row(task), task.plane);
      const T pred = static_cast<T>(su.p.upstream * d[kPred]), inter = static_cast<T>(su.p.upstream * d[kInter]);
      const double scale = only ? su.p.upstream * d[kFixedSums + pointwise_term_] : 0.0;
      const bool from_bce = plain_bce && scale != 0.0;
      const T inverse = static_cast<T>(from_bce ? 1.0 / scale : 0.0);
      const bool needs_logits = pointwise_ && !from_bce;
      for (int64_t at = task.begin; at < task.end; at += kChunk) {
        const int64_t n = at + kChunk < task.end ? kChunk : task.end - at;
        T* g = su.out.target(task.sample, task.plane, at, s.g);
        if (needs_logits && masked_) {
          add_masked_region(load(task, s, at, n), pred, inter);
          continue;
        }
        const auto with = [&](const auto* y) {
          if (needs_logits) add_region(su.x.load(task.sample, task.plane, at, n, s.x), y, n, g, pred, inter);
          else if (from_bce) finish_bce_region(y, n, g, inverse, pred, inter);
          else finish_region(y, n, g, pred, inter);
        };
        if (const uint8_t* bytes = su.target.bytes(task.sample, task.plane, at)) {
          with(bytes);
        } else {
          su.target.labels(task.sample, task.plane, at, n, s.y, s.valid);
          with(static_cast<const T*>(s.y));
        }
      }
    }, true);
  }

  void add_masked_region(const Chunk& k, T pred, T inter) const {
    activate<false>(k);
    const T *__restrict p = k.s.p, *__restrict q = k.s.q, *__restrict y = k.s.y, *__restrict valid = k.s.valid;
    for (int64_t i = 0; i < k.n; ++i) k.g[i] += p[i] * q[i] * (pred + inter * y[i]) * valid[i];
  }

  template <bool kMasked>
  static double term(const Chunk& k, const Term& t, int64_t c, const T* weight, double scale, int mode) {
    switch (mode) {
      case kValues: return pointwise_term_loop<kValues, kMasked>(k, t, c, weight, scale);
      case kGrads: return pointwise_term_loop<kGrads, kMasked>(k, t, c, weight, scale);
      default: return pointwise_term_loop<kValues | kGrads, kMasked>(k, t, c, weight, scale);
    }
  }

  template <int kMode>
  void region(const Chunk& k, double* sums, const double* d) const {
    const auto run = [&](auto masked, auto extra) {
      if (kMode == kValues) region_sums<masked.value, extra.value>(k, sums);
      else region_grad<masked.value, extra.value>(k, d, su.p.upstream);
    };
    using No = std::false_type;
    using Yes = std::true_type;
    if (masked_) extra_ ? run(Yes(), Yes()) : run(Yes(), No());
    else extra_ ? run(No(), Yes()) : run(No(), No());
  }

  void sum_pass(int mode) {
    Problem& p = su.p;
    const int columns = su.view.columns, row = columns + 4;  // the sums and the four counts
    std::vector<double> partial(blocks_.tasks * row, 0.0);
    const T cut = probability_cut<T>(p.threshold);
    each_task([&](int64_t t, Scratch& s) {
      const Task task = blocks_[t];
      double* sums = partial.data() + t * row;
      if (hot_) return hot_pass(task, s, mode, sums);
      each_chunk(task, s, [&](const Chunk& k, int64_t at) {
        sums[kValid] += valid_in(k);
        terms(task, k, mode, sums);
        if (p.counts) count_chunk(k, su.target.masked, cut, sums + columns);
        if (mode & kGrads) su.out.store(task.sample, task.plane, at, k.n, k.g);
      });
    });
    for (int64_t t = 0; t < blocks_.tasks; ++t) {
      const Task task = blocks_[t];
      const double* from = partial.data() + t * row;
      double* to = p.sums + su.view.at(su.row(task), task.plane);
      for (int i = 0; i < columns; ++i) to[i] += from[i];
      for (int i = 0; i < 4 && p.counts; ++i)
        p.counts[(task.sample * p.channels + task.plane) * 4 + i] += static_cast<int64_t>(from[columns + i]);
    }
  }

  double valid_in(const Chunk& k) const {
    if (!su.target.masked) return static_cast<double>(k.n);
    T total = 0;
    for (int64_t i = 0; i < k.n; ++i) total += k.s.valid[i];
    return static_cast<double>(total);
  }

  double count_valid() const {
    std::vector<double> partial(blocks_.tasks, 0.0);
    each_task([&](int64_t t, Scratch& s) {
      const Task task = blocks_[t];
      for (int64_t at = task.begin; at < task.end; at += kChunk) {
        const int64_t n = at + kChunk < task.end ? kChunk : task.end - at;
        su.target.labels(task.sample, task.plane, at, n, s.y, s.valid);
        partial[t] += valid_in(Chunk{s.x, s, s.g, n, su.target.hard});
      }
    });
    double total = 0.0;
    for (double v : partial) total += v;
    return total;
  }
  double total_valid() const {
    double total = 0.0;
    for (int64_t g = 0; g < su.view.groups; ++g)
      for (int64_t c = 0; c < su.view.channels; ++c) total += su.p.sums[su.view.at(g, c) + kValid];
    return total;
  }
  void denominators(double valid) {
    for (int i = 0; i < su.spec.n_terms; ++i)
      if (su.spec.terms[i].kind != kTopk) su.p.aux[i * kAuxColumns + kDenominator] = valid;
  }
};

FL_NAMESPACE_END

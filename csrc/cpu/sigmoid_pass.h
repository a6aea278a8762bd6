// Binary and multilabel, whole problems. Forward makes the first step of the gradient while it sums and the second in
// another pass; backward makes both at once, with the same bits.
#pragma once
#include "sigmoid_fast_steps.h"
#include "sigmoid_steps.h"

FL_NAMESPACE_BEGIN

template <class T>
class SigmoidPass {
  using Steps = SigmoidSteps<T>;
  using Task = Blocks::Task;
  using Chunk = SigmoidChunk<T>;
  using Scratch = SigmoidScratch<T>;

  static constexpr bool kFloat = std::is_same<T, float>::value;

  Steps steps_;
  Setup<T>& su;
  const Blocks blocks_;
  const std::conditional_t<kFloat, FastSteps, std::nullptr_t> fast_;

 public:
  explicit SigmoidPass(CpuProblem& p) : steps_(p), su(steps_.su), blocks_(p, p.channels), fast_(fast_steps(su)) {}

  CallPath path() const {
    if constexpr (kFloat)
      return fast_.path;
    else
      return kWideLogits;
  }

  void forward() {
    CpuProblem& p = su.p;
    const bool early = p.out.data && su.out.direct;  // the second step must find what the first has written
    double valid = static_cast<double>(p.samples * p.channels * blocks_.pixels);
    const bool counted = su.target.masked && ((early && steps_.pointwise) || steps_.topk);
    if (counted) valid = count_valid();
    if (steps_.topk) select(static_cast<int64_t>(valid));
    if (early) {
      denominators(valid);
      finalize(su.spec, su.view, p.sums, p.aux, p.effective, p.values, p.grad_sums);
    }
    sum_pass(early ? kValues | kGrads : kValues);
    if (!early) denominators(counted ? valid : total_valid());
    if (!p.loss) return;
    *p.loss = finalize(su.spec, su.view, p.sums, p.aux, p.effective, p.values, p.grad_sums);
    if (!p.out.data) return;
    if (!early)
      backward();
    else if (steps_.region)
      second_pass();
  }

  void backward() {
    if constexpr (kFloat)
      if (fast_.works)
        return each_fast_chunk([&](int64_t, const Task& task, FastScratch& s, int64_t at,
                                   int64_t n) { fast_.first(task, s, at, n, kGrads, nullptr); },
                               true);
    each_task(
        [&](int64_t t, Scratch& s) {
          const Task task = blocks_[t];
          each_chunk(task, s, true, [&](const Chunk& k) {
            steps_.first(task, k, kGrads, nullptr);
            steps_.second(task, k, true);
            su.out.store(task.sample, task.plane, k.at, k.n, k.g);
          });
        },
        true);
  }

  void elementwise() {
    each_task([&](int64_t t, Scratch& s) {
      const Task task = blocks_[t];
      each_chunk(task, s, true, [&](const Chunk& k) {
        activate<true>(k);
        steps_.element_values(task, k, su.spec.terms[0]);
        su.out.store_from(task.sample, task.plane, k.at, k.n, s.pick);
      });
    });
  }

 private:
  static auto fast_steps(const Setup<T>& su) {
    if constexpr (kFloat)
      return FastSteps(su);
    else
      return nullptr;
  }

  // f(task index, scratch); reversed, the end of the pass before is still in cache
  template <class S = Scratch, class F>
  void each_task(const F& f, bool reverse = false) const {
    parallel_tasks(su.p, blocks_.tasks, [&](int64_t begin, int64_t end) {
      S scratch;
      for (int64_t t = begin; t < end; ++t) f(reverse ? blocks_.tasks - 1 - t : t, scratch);
    });
  }
  template <class F>
  void each_chunk(const Task& task, Scratch& s, bool logits, const F& f) const {
    for (int64_t at = task.begin; at < task.end; at += kChunk)
      f(steps_.load(task, s, at, at + kChunk < task.end ? kChunk : task.end - at, logits));
  }

  // f(task index, task, scratch, first pixel, pixels)
  template <class F>
  void each_fast_chunk(const F& f, bool reverse = false) const {
    each_task<FastScratch>(
        [&](int64_t t, FastScratch& s) {
          const Task task = blocks_[t];
          for (int64_t at = task.begin; at < task.end; at += kFastChunk)
            f(t, task, s, at, at + kFastChunk < task.end ? kFastChunk : task.end - at);
        },
        reverse);
  }

  void second_pass() {
    if constexpr (kFloat)
      if (fast_.works)
        return each_fast_chunk(
            [&](int64_t, const Task& task, FastScratch& s, int64_t at, int64_t n) { fast_.second(task, s, at, n); },
            true);
    const bool logits = steps_.second_reads_logits();
    each_task(
        [&](int64_t t, Scratch& s) {
          const Task task = blocks_[t];
          each_chunk(task, s, logits, [&](const Chunk& k) { steps_.second(task, k, false); });
        },
        true);
  }

  void select(int64_t valid) {
    for (int i = 0; i < su.spec.n_terms; ++i) {
      const Term& term = su.spec.terms[i];
      if (term.kind != kTopk) continue;
      double* aux = su.p.aux + i * kAuxColumns;
      if constexpr (kFloat)
        if (fast_.works)
          return select_topk<T>(su.p, blocks_, term, valid, aux, [&](const Task& task, const auto& f) {
            FastScratch scratch;
            alignas(64) uint32_t keys[kFastChunk];
            for (int64_t at = task.begin; at < task.end; at += kFastChunk) {
              const int64_t n = at + kFastChunk < task.end ? kFastChunk : task.end - at;
              fast_.keys(task, scratch, at, n, keys);
              f(keys, n);
            }
          });
      select_topk<T>(su.p, blocks_, term, valid, aux, [&](const Task& task, const auto& f) {
        Scratch scratch;
        alignas(64) typename Steps::Key keys[kChunk];
        each_chunk(task, scratch, true, [&](const Chunk& k) {
          if (!steps_.margins) activate<true>(k);
          steps_.keys(task, k, term, keys);
          f(keys, k.n);
        });
      });
    }
  }

  void sum_pass(int mode) {
    CpuProblem& p = su.p;
    const int columns = su.view.columns, row = columns + 4;  // the sums and the four counts
    std::vector<double> partial(blocks_.tasks * row, 0.0);
    bool done = false;
    if constexpr (kFloat)
      if (fast_.works) {
        done = true;
        each_fast_chunk([&](int64_t t, const Task& task, FastScratch& s, int64_t at, int64_t n) {
          double* sums = partial.data() + t * row;
          sums[kValid] += static_cast<double>(n);
          fast_.first(task, s, at, n, mode, sums);
        });
      }
    if (!done) general_sum_pass(mode, partial.data(), row);
    for (int64_t t = 0; t < blocks_.tasks; ++t) {
      const Task task = blocks_[t];
      const double* from = partial.data() + t * row;
      double* to = p.sums + su.view.at(su.row(task), task.plane);
      for (int i = 0; i < columns; ++i) to[i] += from[i];
      for (int i = 0; i < 4 && p.counts; ++i)
        p.counts[(task.sample * p.channels + task.plane) * 4 + i] += static_cast<int64_t>(from[columns + i]);
    }
  }

  void general_sum_pass(int mode, double* partial, int row) {
    const T threshold = logit_threshold<T>(su.p.threshold);
    each_task([&](int64_t t, Scratch& s) {
      const Task task = blocks_[t];
      double* sums = partial + t * row;
      each_chunk(task, s, true, [&](const Chunk& k) {
        sums[kValid] += valid_in(k);
        steps_.first(task, k, mode, sums);
        if (su.p.counts) count_chunk(k, su.target.masked, threshold, sums + su.view.columns);
      });
    });
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
      each_chunk(blocks_[t], s, false, [&](const Chunk& k) { partial[t] += valid_in(k); });
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

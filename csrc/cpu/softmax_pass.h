// Multiclass, whole problems; the order of passes is that of sigmoid_pass.h.
#pragma once
#include "softmax_steps.h"

FL_NAMESPACE_BEGIN

template <class T>
class SoftmaxPass {
  using Key = typename KeyOf<T>::type;
  using Task = Blocks::Task;
  using Chunk = SoftmaxChunk<T>;
  using Scratch = SoftmaxScratch<T>;

  SoftmaxSteps<T> steps_;
  Setup<T>& su;
  const Blocks blocks_;

 public:
  explicit SoftmaxPass(CpuProblem& p) : steps_(p), su(steps_.su), blocks_(p, 1) {}

  CallPath path() const { return steps_.dense ? kDenseTarget : kFastCall; }

  void forward() {
    CpuProblem& p = su.p;
    // The gradient goes out in two steps only where the second can find what the first has left: the probabilities in
    // `out`, and of the pointwise terms one number per pixel.
    const bool early = p.out.data && (!steps_.region || (su.out.direct && !steps_.dense));
    std::vector<double> valid(p.channels + 1, 0.0);  // per class, then all
    valid[p.channels] = static_cast<double>(p.samples * blocks_.pixels);
    const bool counted = steps_.weighted_ce || (steps_.masked && ((early && steps_.pointwise) || steps_.topk));
    if (counted) count_valid(valid);
    if (steps_.topk) select(static_cast<int64_t>(valid[p.channels]));
    if (early) {
      denominators(valid);
      finalize(su.spec, su.view, p.sums, p.aux, p.effective, p.values, p.grad_sums);
    }
    if (early && steps_.region && steps_.pointwise) steps_.slopes.reset(new T[p.samples * blocks_.pixels]);
    sum_pass(early ? kValues | kGrads : kValues);
    if (!early) {
      if (steps_.masked && !counted) valid[p.channels] = total_valid();
      denominators(valid);
    }
    if (!p.loss) return;
    *p.loss = finalize(su.spec, su.view, p.sums, p.aux, p.effective, p.values, p.grad_sums);
    if (!p.out.data) return;
    if (!early)
      backward();
    else if (steps_.region)
      finish();
  }

  void backward() {
    each_task(
        [&](int64_t t, Scratch& s) {
          const Task task = blocks_[t];
          each_chunk(task, s, kGrads, nullptr,
                     [&](const Chunk& k, int64_t at) { steps_.terms(task, k, at, kGrads, nullptr); });
        },
        steps_.rows(true), true);
  }

  void elementwise() {
    each_task(
        [&](int64_t t, Scratch& s) {
          const Task task = blocks_[t];
          each_chunk(task, s, 0, nullptr, [&](const Chunk& k, int64_t at) {
            steps_.element_values(k, su.spec.terms[0]);
            su.out.store_from(task.sample, 0, at, k.n, s.pick);
          });
        },
        steps_.rows(false));
  }

 private:
  template <class F>
  void each_task(const F& f, bool rows, bool reverse = false) const {
    parallel_tasks(su.p, blocks_.tasks, [&](int64_t begin, int64_t end) {
      Scratch scratch(su.p.channels, steps_.dense, rows);
      for (int64_t t = begin; t < end; ++t) f(reverse ? blocks_.tasks - 1 - t : t, scratch);
    });
  }

  template <class F>
  void each_chunk(const Task& task, Scratch& s, int mode, double* sums, const F& f) const {
    for (int64_t at = task.begin; at < task.end; at += s.length) {
      const int64_t n = at + s.length < task.end ? s.length : task.end - at;
      const Chunk k{s, n, su.p.channels};
      steps_.labels(task, k, at);
      steps_.activate_chunk(task, k, at, mode, sums);
      f(k, at);
    }
  }

  // The elements' keys are kept between the digits of the selection (one per pixel): a softmax is dearer than a read.
  void select(int64_t valid) {
    auto stored = std::unique_ptr<Key[]>(new Key[su.p.samples * blocks_.pixels]);
    bool filled = false;
    for (int i = 0; i < su.spec.n_terms; ++i) {
      const Term& t = su.spec.terms[i];
      if (t.kind != kTopk) continue;
      if (!filled)
        each_task(
            [&](int64_t index, Scratch& s) {
              const Task task = blocks_[index];
              each_chunk(task, s, 0, nullptr, [&](const Chunk& k, int64_t at) {
                steps_.keys(k, t, stored.get() + task.sample * blocks_.pixels + at);
              });
            },
            steps_.rows(false));
      filled = true;
      select_topk<T>(su.p, blocks_, t, valid, su.p.aux + i * kAuxColumns, [&](const Task& task, const auto& f) {
        f(stored.get() + task.sample * blocks_.pixels + task.begin, task.end - task.begin);
      });
    }
  }

  // The second step of an early gradient.
  void finish() const {
    each_task(
        [&](int64_t index, Scratch& s) {
          const Task task = blocks_[index];
          for (int64_t at = task.begin; at < task.end; at += s.length) {
            const Chunk k{s, at + s.length < task.end ? s.length : task.end - at, su.p.channels};
            steps_.labels(task, k, at);
            steps_.finish(task, k, at);
          }
        },
        steps_.rows(false), true);
  }

  void sum_pass(int mode) {
    CpuProblem& p = su.p;
    const int64_t size = p.channels * su.view.columns, row = size + (p.counts ? 4 * p.channels : 0);
    std::vector<double> partial(blocks_.tasks * row, 0.0);
    each_task(
        [&](int64_t t, Scratch& s) {
          const Task task = blocks_[t];
          double* sums = partial.data() + t * row;
          each_chunk(task, s, mode, sums, [&](const Chunk& k, int64_t at) {
            const double valid = steps_.valid_pixels(k);
            for (int64_t c = 0; c < k.channels; ++c) sums[c * su.view.columns + kValid] += valid;
            steps_.terms(task, k, at, mode, sums);
            if (p.counts) steps_.count_chunk(k, sums + size);
          });
        },
        steps_.rows(mode & kGrads && !steps_.region));
    for (int64_t t = 0; t < blocks_.tasks; ++t) {
      const Task task = blocks_[t];
      const double* from = partial.data() + t * row;
      double* to = p.sums + su.view.at(su.row(task), 0);
      for (int64_t i = 0; i < size; ++i) to[i] += from[i];
      for (int64_t i = size; i < row; ++i)
        p.counts[task.sample * 4 * p.channels + i - size] += static_cast<int64_t>(from[i]);
    }
  }

  // Valid pixels, and where the mean asks for it those of each class, from the labels alone. Libraries ignore some
  // label by default: where it does not occur, nothing needs masking any more.
  void count_valid(std::vector<double>& valid) {
    const int64_t row = su.p.channels + 1;
    std::vector<double> partial(blocks_.tasks * row, 0.0);
    parallel_tasks(su.p, blocks_.tasks, [&](int64_t begin, int64_t end) {
      int32_t id[kLongRow];
      for (int64_t t = begin; t < end; ++t) {
        const Task task = blocks_[t];
        double* counts = partial.data() + t * row;
        for (int64_t at = task.begin; at < task.end; at += kLongRow) {
          const int64_t n = at + kLongRow < task.end ? kLongRow : task.end - at;
          counts[row - 1] += steps_.count_valid(task, at, n, id);
          for (int64_t i = 0; steps_.weighted_ce && i < n; ++i)
            if (id[i] >= 0) counts[id[i]] += 1.0;
        }
      }
    });
    valid.assign(row, 0.0);
    for (int64_t t = 0; t < blocks_.tasks; ++t)
      for (int64_t c = 0; c < row; ++c) valid[c] += partial[t * row + c];
    if (valid[row - 1] == static_cast<double>(su.p.samples * blocks_.pixels)) steps_.masked = false;
  }

  double total_valid() const {
    double total = 0.0;
    for (int64_t g = 0; g < su.view.groups; ++g) total += su.p.sums[su.view.at(g, 0) + kValid];
    return total;
  }

  // Means divide by the valid pixels; cross-entropies on ids with class weights by the weights of their classes.
  void denominators(const std::vector<double>& valid) {
    for (int i = 0; i < su.spec.n_terms; ++i) {
      const Term& t = su.spec.terms[i];
      if (t.kind == kTopk) continue;
      double& out = su.p.aux[i * kAuxColumns + kDenominator];
      out = valid[su.p.channels];
      if (!t.weighted_mean() || !su.p.ids) continue;
      out = 0.0;
      for (int64_t c = 0; c < su.p.channels; ++c) out += t.vector_at(c, 1.0) * valid[c];
    }
  }
};

FL_NAMESPACE_END

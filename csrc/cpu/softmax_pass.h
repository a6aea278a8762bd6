// Multiclass, whole problems; the order of passes is that of sigmoid_pass.h.
#pragma once
#include "select.h"
#include "softmax.h"

FL_NAMESPACE_BEGIN

template <class T>
class SoftmaxPass {
  Setup<T> su;
  const bool masked_, region_, extra_, pointwise_, topk_;
  bool dense_, weighted_ce_ = false;
  const Blocks blocks_;
  std::unique_ptr<T[]> slopes_;  // one per pixel, between the two steps of an early gradient

  using Key = typename KeyOf<T>::type;
  using Task = Blocks::Task;
  using Chunk = SoftmaxChunk<T>;
  using Scratch = SoftmaxScratch<T>;

 public:
  explicit SoftmaxPass(Problem& p)
      : su(p), masked_(su.target.masked), region_(su.spec.any_region()),
        extra_(su.spec.any_squared() || su.spec.any_l1()), pointwise_(su.spec.any_pointwise()), topk_(su.spec.any(kTopk)),
        dense_(!p.ids), blocks_(p, 1) {
    for (int i = 0; i < su.spec.n_terms; ++i) {
      const Term& t = su.spec.terms[i];
      dense_ |= t.kind == kCe && t.label_smoothing != 0.0;
      weighted_ce_ |= t.kind == kCe && t.vector && p.ids;
    }
  }

  void forward() {
    Problem& p = su.p;
    // The gradient goes out in two steps only where the second can find what the first has left: the probabilities in
    // `out`, and of the pointwise terms one number per pixel.
    const bool early = p.out.data && (!region_ || (su.out.direct && !dense_));
    std::vector<double> valid(p.channels + 1, 0.0);  // per class, then all
    valid[p.channels] = static_cast<double>(p.samples * blocks_.pixels);
    const bool counted = weighted_ce_ || (masked_ && ((early && pointwise_) || topk_));
    if (counted) count_valid(valid);
    if (topk_) select(static_cast<int64_t>(valid[p.channels]));
    if (early) {
      denominators(valid);
      finalize(su.spec, su.view, p.sums, p.aux, p.weights, p.values, p.dsums);
    }
    if (early && region_ && pointwise_) slopes_.reset(new T[p.samples * blocks_.pixels]);
    sum_pass(early ? kValues | kGrads : kValues);
    if (!early) {
      if (masked_ && !counted) valid[p.channels] = total_valid();
      denominators(valid);
    }
    if (!p.loss) return;
    *p.loss = finalize(su.spec, su.view, p.sums, p.aux, p.weights, p.values, p.dsums);
    if (!p.out.data) return;
    if (!early) backward();
    else if (region_) finish();
  }

  void backward() {
    each_task([&](int64_t t, Scratch& s) {
      const Task task = blocks_[t];
      each_chunk(task, s, [&](const Chunk& k, int64_t at) { terms(task, k, at, kGrads, nullptr); });
    }, true);
  }

  void elementwise() {
    each_task([&](int64_t t, Scratch& s) {
      const Task task = blocks_[t];
      each_chunk(task, s, [&](const Chunk& k, int64_t at) {
        element_values(k, su.spec.terms[0]);
        su.out.store_from(task.sample, 0, at, k.n, s.pick);
      });
    });
  }

 private:
  template <class F>
  void each_task(const F& f, bool reverse = false) const {
    parallel_tasks(su.p, blocks_.tasks, [&](int64_t begin, int64_t end) {
      Scratch scratch(su.p.channels, dense_);
      for (int64_t t = begin; t < end; ++t) f(reverse ? blocks_.tasks - 1 - t : t, scratch);
    });
  }

  template <class F>
  void each_chunk(const Task& task, Scratch& s, const F& f) const {
    for (int64_t at = task.begin; at < task.end; at += s.stride) {
      const int64_t n = at + s.stride < task.end ? s.stride : task.end - at;
      const Chunk k{s, n, su.p.channels};
      labels(task, k, at);
      activate_chunk(task, k, at);
      f(k, at);
    }
  }

  // Ids or probabilities, validity and pixel weights of a chunk.
  void labels(const Task& task, const Chunk& k, int64_t at) const {
    Scratch& s = k.s;
    for (int64_t i = 0; i < k.n; ++i) s.valid[i] = T(1);
    if (su.p.ids) {
      su.target.class_ids(task.sample, at, k.n, s.id);
      for (int64_t i = 0; i < k.n; ++i) s.valid[i] = s.id[i] >= 0 ? T(1) : T(0);
    } else {
      su.target.apply_mask(task.sample, 0, at, k.n, s.valid);
      su.target.probabilities(task.sample, at, k.n, s.stride, s.valid, s.y);
    }
    if (dense_ && su.p.ids)
      for (int64_t c = 0; c < k.channels; ++c)
        for (int64_t i = 0; i < k.n; ++i) s.y[c * s.stride + i] = s.id[i] == c ? T(1) : T(0);
    const T* w = s.valid;
    if (su.weighted) w = su.pixel_weight.load(task.sample, 0, at, k.n, s.weight);
    for (int64_t i = 0; i < k.n; ++i) s.weight[i] = s.valid[i] != T(0) ? w[i] : T(0);
  }

  // Rows are copied side by side first: planes often lie a power of two apart and would share the sets of a cache.
  void activate_chunk(const Task& task, const Chunk& k, int64_t at) const {
    Scratch& s = k.s;
    for (int64_t c = 0; c < k.channels; ++c) {
      T* p = s.p + c * s.stride;
      const T* x = su.x.load(task.sample, c, at, k.n, p);
      if (masked_) keep_valid(k, x, p);
      const T* row = masked_ ? p : x;
      if (su.p.counts) take_row<true>(k, row, p, c);
      else take_row<false>(k, row, p, c);
    }
    const bool more = su.x.direct && at + k.n < task.end;
    const T* next = more ? su.x.template base<const T>(task.sample, 0) + at + k.n : nullptr;
    if (dense_) activate<false>(k, next, su.p.x.channel);
    else activate<true>(k, next, su.p.x.channel);
  }
  // Ignored pixels become harmless numbers.
  void keep_valid(const Chunk& k, const T* x, T* p) const {
    const T* __restrict valid = k.s.valid;
    for (int64_t i = 0; i < k.n; ++i) p[i] = valid[i] != T(0) ? x[i] : T(0);
  }

  void fill_class_weight(const Chunk& k, const Term& t) const {
    T* cw = k.s.class_weight;
    for (int64_t i = 0; i < k.n; ++i)
      cw[i] = k.s.id[i] < 0 ? T(0) : static_cast<T>(t.vector_at(k.s.id[i], 1.0));
  }

  template <int kMode>
  double pointwise(const Chunk& k, const Term& t, const T* weight, double scale) const {
    if (!dense_) {
      fill_class_weight(k, t);
      return target_term<kMode>(k, t, weight, scale);
    }
    T total[kLongRow];
    for (int64_t i = 0; i < k.n; ++i) total[i] = T(0);
    dense_term<kMode>(k, t, weight, scale, total);
    T sum = 0;
    for (int64_t i = 0; i < k.n; ++i) sum += total[i];
    if (kMode & kStore) memcpy(k.s.pick, total, k.n * sizeof(T));
    return sum;
  }

  inline void element_values(const Chunk& k, const Term& t) const { pointwise<kStore>(k, t, k.s.weight, 1.0); }

  // Keys of a chunk's elements, 0 where they do not take part.
  void keys(const Chunk& k, const Term& t, Key* out) const {
    element_values(k, t);
    for (int64_t i = 0; i < k.n; ++i) out[i] = k.s.valid[i] != T(0) ? topk_key(k.s.pick[i]) : Key(0);
  }

  // The elements' keys are kept between the digits of the selection (one per pixel): a softmax is dearer than a read.
  void select(int64_t valid) {
    auto stored = std::unique_ptr<Key[]>(new Key[su.p.samples * blocks_.pixels]);
    bool filled = false;
    for (int i = 0; i < su.spec.n_terms; ++i) {
      const Term& t = su.spec.terms[i];
      if (t.kind != kTopk) continue;
      if (!filled)
        each_task([&](int64_t index, Scratch& s) {
          const Task task = blocks_[index];
          each_chunk(task, s, [&](const Chunk& k, int64_t at) { keys(k, t, stored.get() + task.sample * blocks_.pixels + at); });
        });
      filled = true;
      select_topk<T>(su.p, blocks_, t, valid, su.p.aux + i * kAuxColumns, [&](const Task& task, const auto& f) {
        f(stored.get() + task.sample * blocks_.pixels + task.begin, task.end - task.begin);
      });
    }
  }

  void pick(const Chunk& k, const Term& t, const double* aux) const {
    Key key[kLongRow];
    keys(k, t, key);
    const Key threshold = topk_key(static_cast<T>(aux[kThreshold]));
    const T tie = static_cast<T>(aux[kTieWeight]);
    for (int64_t i = 0; i < k.n; ++i) {
      const T share = key[i] > threshold ? T(1) : (key[i] == threshold ? tie : T(0));
      k.s.pick[i] = k.s.valid[i] != T(0) ? share * k.s.weight[i] : T(0);
    }
  }

  // sums: [C, columns] of the task, or null
  void terms(const Task& task, const Chunk& k, int64_t at, int mode, double* sums) const {
    const int64_t row = su.row(task);
    const int columns = su.view.columns;
    const double* d = su.p.dsums ? su.p.dsums + su.view.at(row, 0) : nullptr;
    if (mode & kGrads) {
      memset(k.s.slope, 0, k.n * sizeof(T));
      if (dense_) memset(k.s.h, 0, k.channels * k.s.stride * sizeof(T));
    }
    for (int i = 0; i < su.spec.n_terms; ++i) {
      const Term& t = su.spec.terms[i];
      if (t.kind == kTversky) continue;
      const double scale = mode & kGrads ? su.p.upstream * d[kFixedSums + i] : 0.0;
      const bool picked = t.kind == kTopk;
      if (picked) pick(k, t, su.p.aux + i * kAuxColumns);
      const T* weight = picked ? k.s.pick : k.s.weight;
      // Two loops, so that the sum has the same bits with and without a gradient.
      if (mode & kValues) sums[kFixedSums + i] += pointwise<kValues>(k, t, weight, scale);
      if (mode & kGrads) pointwise<kGrads>(k, t, weight, scale);
    }
    if (mode & kValues && region_) with_form([&](auto dense, auto masked, auto extra) {
      for (int64_t c = 0; c < k.channels; ++c)
        class_sums<dense.value, masked.value, extra.value>(k, static_cast<int32_t>(c), sums + c * columns);
    });
    if (mode == kGrads || (mode & kGrads && !region_)) gradient(task, k, at, d);
    else if (mode & kGrads) leave(task, k, at);
  }

  // From p and slope (and h) in the scratch.
  void gradient(const Task& task, const Chunk& k, int64_t at, const double* d, bool more = false) const {
    const int columns = su.view.columns;
    with_form([&](auto dense, auto masked, auto extra) {
      memset(k.s.dot, 0, k.n * sizeof(T));
      for (int64_t c = 0; c < k.channels && region_; ++c)
        region_dot<dense.value, extra.value>(k, static_cast<int32_t>(c), d + c * columns, su.p.upstream,
                                             more ? su.out.target(task.sample, c, at + k.n, nullptr) : nullptr);
      for (int64_t c = 0; c < k.channels; ++c) {
        T* g = su.out.target(task.sample, c, at, k.s.row);
        if (region_)
          class_grad<dense.value, masked.value, extra.value>(k, static_cast<int32_t>(c), d + c * columns, su.p.upstream, g);
        else target_grad<dense.value>(k, static_cast<int32_t>(c), g);
        su.out.store(task.sample, c, at, k.n, g);
      }
    });
  }

  void leave(const Task& task, const Chunk& k, int64_t at) const {
    for (int64_t c = 0; c < k.channels; ++c)
      memcpy(su.out.target(task.sample, c, at, nullptr), k.s.p + c * k.s.stride, k.n * sizeof(T));
    if (slopes_) memcpy(slopes_.get() + task.sample * blocks_.pixels + at, k.s.slope, k.n * sizeof(T));
  }

  // The second step of an early gradient.
  void finish() const {
    each_task([&](int64_t index, Scratch& s) {
      const Task task = blocks_[index];
      const double* d = su.p.dsums + su.view.at(su.row(task), 0);
      for (int64_t at = task.begin; at < task.end; at += s.stride) {
        const Chunk k{s, at + s.stride < task.end ? s.stride : task.end - at, su.p.channels};
        labels(task, k, at);
        for (int64_t c = 0; c < k.channels; ++c)
          memcpy(s.p + c * s.stride, su.out.target(task.sample, c, at, nullptr), k.n * sizeof(T));
        if (slopes_) memcpy(s.slope, slopes_.get() + task.sample * blocks_.pixels + at, k.n * sizeof(T));
        else memset(s.slope, 0, k.n * sizeof(T));
        gradient(task, k, at, d, at + k.n < task.end);
      }
    }, true);
  }

  template <class F>
  void with_form(const F& f) const {
    using No = std::false_type;
    using Yes = std::true_type;
    const auto masked = [&](auto dense, auto extra) { masked_ ? f(dense, Yes(), extra) : f(dense, No(), extra); };
    if (dense_) extra_ ? masked(Yes(), Yes()) : masked(Yes(), No());
    else extra_ ? masked(No(), Yes()) : masked(No(), No());
  }

  void sum_pass(int mode) {
    Problem& p = su.p;
    const int64_t size = p.channels * su.view.columns, row = size + (p.counts ? 4 * p.channels : 0);
    std::vector<double> partial(blocks_.tasks * row, 0.0);
    each_task([&](int64_t t, Scratch& s) {
      const Task task = blocks_[t];
      double* sums = partial.data() + t * row;
      each_chunk(task, s, [&](const Chunk& k, int64_t at) {
        double valid = 0.0;
        for (int64_t i = 0; i < k.n; ++i) valid += s.valid[i];
        for (int64_t c = 0; c < k.channels; ++c) sums[c * su.view.columns + kValid] += valid;
        terms(task, k, at, mode, sums);
        if (p.counts) count_chunk(k, sums + size);
      });
    });
    for (int64_t t = 0; t < blocks_.tasks; ++t) {
      const Task task = blocks_[t];
      const double* from = partial.data() + t * row;
      double* to = p.sums + su.view.at(su.row(task), 0);
      for (int64_t i = 0; i < size; ++i) to[i] += from[i];
      for (int64_t i = size; i < row; ++i) p.counts[task.sample * 4 * p.channels + i - size] += static_cast<int64_t>(from[i]);
    }
  }

  // counts: [C, 4] of tp, fp, fn, tn, by argmax
  void count_chunk(const Chunk& k, double* counts) const {
    for (int64_t i = 0; i < k.n; ++i) {
      if (k.s.valid[i] == T(0)) continue;
      int64_t truth = k.s.id[i];
      if (!su.p.ids) {
        truth = 0;
        for (int64_t c = 1; c < k.channels; ++c)
          if (k.s.y[c * k.s.stride + i] > k.s.y[truth * k.s.stride + i]) truth = c;
      }
      const int64_t said = k.s.arg[i];
      for (int64_t c = 0; c < k.channels; ++c) ++counts[c * 4 + 3];
      --counts[said * 4 + 3];
      if (said == truth) {
        ++counts[truth * 4];
      } else {
        ++counts[said * 4 + 1], ++counts[truth * 4 + 2], --counts[truth * 4 + 3];
      }
    }
  }

  void count_valid(std::vector<double>& valid) const {
    const int64_t row = su.p.channels + 1;
    std::vector<double> partial(blocks_.tasks * row, 0.0);
    each_task([&](int64_t t, Scratch& s) {
      const Task task = blocks_[t];
      double* counts = partial.data() + t * row;
      for (int64_t at = task.begin; at < task.end; at += s.stride) {
        const int64_t n = at + s.stride < task.end ? s.stride : task.end - at;
        labels(task, Chunk{s, n, su.p.channels}, at);
        for (int64_t i = 0; i < n; ++i) {
          if (s.valid[i] == T(0)) continue;
          counts[row - 1] += 1.0;
          if (su.p.ids) counts[s.id[i]] += 1.0;
        }
      }
    });
    valid.assign(row, 0.0);
    for (int64_t t = 0; t < blocks_.tasks; ++t)
      for (int64_t c = 0; c < row; ++c) valid[c] += partial[t * row + c];
  }

  double total_valid() const {
    double total = 0.0;
    for (int64_t g = 0; g < su.view.groups; ++g) total += su.p.sums[su.view.at(g, 0) + kValid];
    return total;
  }

  // Means divide by the valid pixels; cross-entropy on ids with class weights by the weights of their classes.
  void denominators(const std::vector<double>& valid) {
    for (int i = 0; i < su.spec.n_terms; ++i) {
      const Term& t = su.spec.terms[i];
      if (t.kind == kTopk) continue;
      double& out = su.p.aux[i * kAuxColumns + kDenominator];
      out = valid[su.p.channels];
      if (t.kind != kCe || !t.vector || !su.p.ids) continue;
      out = 0.0;
      for (int64_t c = 0; c < su.p.channels; ++c) out += t.vector_at(c, 1.0) * valid[c];
    }
  }
};

FL_NAMESPACE_END

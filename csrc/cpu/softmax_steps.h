// Multiclass, one chunk: loading it, its terms and its gradient.
#pragma once
#include "select.h"
#include "softmax_ids.h"

FL_NAMESPACE_BEGIN

template <class T>
struct SoftmaxSteps : SoftmaxIds<T> {
  using Base = SoftmaxIds<T>;
  using Base::dense, Base::extra, Base::masked, Base::pixels, Base::region, Base::slopes, Base::su, Base::leaves,
      Base::plain;
  using Key = typename KeyOf<T>::type;
  using Task = Blocks::Task;
  using Chunk = SoftmaxChunk<T>;
  using Scratch = SoftmaxScratch<T>;

  explicit SoftmaxSteps(CpuProblem& p) : Base(p) {}

  // Ids or probabilities, validity and pixel weights of a chunk.
  void labels(const Task& task, const Chunk& k, int64_t at) const {
    Scratch& s = k.s;
    for (int64_t i = 0; i < k.n; ++i) s.valid[i] = T(1);
    if (su.p.ids) {
      su.target.class_ids(task.sample, at, k.n, s.id);
      for (int64_t i = k.n; i % kStrip; ++i) s.id[i] = -1;
      for (int64_t i = 0; i < k.n; ++i) s.valid[i] = s.id[i] >= 0 ? T(1) : T(0);
    } else {
      su.target.apply_mask(task.sample, 0, at, k.n, s.valid);
      su.target.probabilities(task.sample, at, k.n, s.stride, s.valid, s.y);
    }
    if (dense && su.p.ids)
      for (int64_t c = 0; c < k.channels; ++c)
        for (int64_t i = 0; i < k.n; ++i) s.y[c * s.stride + i] = s.id[i] == c ? T(1) : T(0);
    const T* w = s.valid;
    if (su.weighted) w = su.pixel_weight.load(task.sample, 0, at, k.n, s.weight);
    for (int64_t i = 0; i < k.n; ++i) s.weight[i] = s.valid[i] != T(0) ? w[i] : T(0);
  }

  void activate_chunk(const Task& task, const Chunk& k, int64_t at, int mode, double* sums) const {
    if (!dense) return this->activate_ids(task, k, at, mode, sums);
    Scratch& s = k.s;
    for (int64_t c = 0; c < k.channels; ++c) {
      T* p = s.p + c * s.stride;
      const T* x = su.x.load(task.sample, c, at, k.n, p);
      if (masked) keep_valid(k, x, p);
      const T* row = masked ? p : x;
      if (su.p.counts)
        take_row<true>(k, row, p, c);
      else
        take_row<false>(k, row, p, c);
    }
    const bool more = su.x.direct && at + k.n < task.end;
    activate(k, more ? su.x.template base<const T>(task.sample, 0) + at + k.n : nullptr, su.p.x.channel);
  }
  // Ignored pixels become harmless numbers.
  void keep_valid(const Chunk& k, const T* x, T* p) const {
    const T* __restrict valid = k.s.valid;
    for (int64_t i = 0; i < k.n; ++i) p[i] = valid[i] != T(0) ? x[i] : T(0);
  }

  double valid_pixels(const Chunk& k) const {
    const T* __restrict valid = k.s.valid;
    T total = 0;  // whole numbers: exact in any order
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < k.n; ++i) total += valid[i];
    return total;
  }

  // The valid ones of n pixels; their class ids go to `id`.
  double count_valid(const Task& task, int64_t at, int64_t n, int32_t* id) const {
    int32_t total = 0;
    if (su.p.ids) {
      su.target.class_ids(task.sample, at, n, id);
      for (int64_t i = 0; i < n; ++i) total += id[i] >= 0;
    } else {
      T valid[kLongRow];
      for (int64_t i = 0; i < n; ++i) valid[i] = T(1);
      su.target.apply_mask(task.sample, 0, at, n, valid);
      for (int64_t i = 0; i < n; ++i) total += valid[i] != T(0);
    }
    return total;
  }

  void fill_class_weight(const Chunk& k, const Term& t) const {
    T* cw = k.s.class_weight;
    for (int64_t i = 0; !t.vector && i < k.n; ++i) cw[i] = T(1);
    for (int64_t i = 0; t.vector && i < k.n; ++i)
      cw[i] = k.s.id[i] < 0 ? T(0) : static_cast<T>(t.vector_at(k.s.id[i], 1.0));
  }

  template <int kMode>
  double element_sum(const Chunk& k, const Term& t, const T* weight, double scale) const {
    if (!dense) return target_term<kMode>(k, t, weight, scale);
    T total[kLongRow];
    for (int64_t i = 0; i < k.n; ++i) total[i] = T(0);
    dense_term<kMode>(k, t, weight, scale, total);
    T sum = 0;
    for (int64_t i = 0; i < k.n; ++i) sum += total[i];
    if (kMode & kStore) memcpy(k.s.pick, total, k.n * sizeof(T));
    return sum;
  }

  void element_values(const Chunk& k, const Term& t) const {
    if (!dense) fill_class_weight(k, t);
    element_sum<kStore>(k, t, k.s.weight, 1.0);
  }

  // Keys of a chunk's elements, 0 where they do not take part.
  void keys(const Chunk& k, const Term& t, Key* out) const {
    element_values(k, t);
    const T *valid = k.s.valid, *value = k.s.pick;
#pragma omp simd
    for (int64_t i = 0; i < k.n; ++i) out[i] = valid[i] != T(0) ? topk_key(value[i]) : Key(0);
  }

  void pick(const Chunk& k, const Term& t, const double* aux) const {
    Key key[kLongRow];
    keys(k, t, key);
    const Key threshold = topk_key(static_cast<T>(aux[kThreshold]));
    const T tie = static_cast<T>(aux[kTieWeight]);
    const T *valid = k.s.valid, *weight = k.s.weight;
    T* pick = k.s.pick;
#pragma omp simd
    for (int64_t i = 0; i < k.n; ++i) {
      const T share = key[i] > threshold ? T(1) : (key[i] == threshold ? tie : T(0));
      pick[i] = valid[i] != T(0) ? share * weight[i] : T(0);
    }
  }

  // sums: [C, columns] of the task, or null
  void terms(const Task& task, const Chunk& k, int64_t at, int mode, double* sums) const {
    const int64_t row = su.row(task);
    const int columns = su.view.columns;
    const double* d = su.p.grad_sums ? su.p.grad_sums + su.view.at(row, 0) : nullptr;
    if (mode & kGrads) {
      memset(k.s.slope, 0, k.n * sizeof(T));
      if (dense) memset(k.s.h, 0, k.channels * k.s.stride * sizeof(T));
    }
    for (int i = 0; i < su.spec.n_terms; ++i) {
      const Term& t = su.spec.terms[i];
      if (t.region()) continue;
      const double scale = mode & kGrads ? su.p.grad_output_value * d[kFixedSums + i] : 0.0;
      const bool picked = t.kind == kTopk;
      if (picked) pick(k, t, su.p.aux + i * kAuxColumns);
      const T* weight = picked ? k.s.pick : k.s.weight;
      if (!dense && !picked) fill_class_weight(k, t);
      // Two loops, so that the sum has the same bits with and without a gradient.
      if (mode & kValues) sums[kFixedSums + i] += element_sum<kValues>(k, t, weight, scale);
      if (mode & kGrads) element_sum<kGrads>(k, t, weight, scale);
    }
    if (mode & kValues && region && dense)
      with_form([&](auto masked, auto extra) {
        for (int64_t c = 0; c < k.channels; ++c) class_sums<masked.value, extra.value>(k, c, sums + c * columns);
      });
    if (mode & kGrads && !leaves(mode))
      gradient(task, k, at, d);
    else if (mode & kGrads)
      leave(task, k, at);
  }

  // From p and slope (and h) in the scratch.
  void gradient(const Task& task, const Chunk& k, int64_t at, const double* d) const {
    for (int64_t c = 0; c < k.channels; ++c) k.s.lines[c] = {d + c * su.view.columns, su.p.grad_output_value};
    if (!dense) return this->ids_gradients(task, k, at, {k.s.p, k.s.stride}, k.s.slope);
    with_form([&](auto masked, auto extra) {
      memset(k.s.dot, 0, k.n * sizeof(T));
      for (int64_t c = 0; c < k.channels && region; ++c) region_dot<extra.value>(k, c);
      for (int64_t c = 0; c < k.channels; ++c) {
        T* g = su.out.target(task.sample, c, at, k.s.row);
        if (region)
          class_grad<masked.value, extra.value>(k, c, g);
        else
          target_grad(k, c, g);
        su.out.store(task.sample, c, at, k.n, g);
      }
    });
  }

  void leave(const Task& task, const Chunk& k, int64_t at) const {
    for (int64_t c = 0; !plain(k) && c < k.channels; ++c)
      memcpy(su.out.target(task.sample, c, at, nullptr), k.s.p + c * k.s.stride, k.n * sizeof(T));
    if (slopes) memcpy(slopes.get() + task.sample * pixels + at, k.s.slope, k.n * sizeof(T));
  }

  template <class F>
  void with_form(const F& f) const {
    using No = std::false_type;
    using Yes = std::true_type;
    const auto call = [&](auto is_extra) { masked ? f(Yes(), is_extra) : f(No(), is_extra); };
    extra ? call(Yes()) : call(No());
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
};

FL_NAMESPACE_END

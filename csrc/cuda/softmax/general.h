// Any multiclass call: probabilities as targets, squared terms, several smoothed cross-entropies, float64, hundreds of
// classes, any strides. Like fast.h, but a thread's classes lie in shared memory, [class of the thread][thread], and
// the loops over them are not unrolled. Where they do not fit they are read again from memory each time.
#pragma once
#include "pixels.h"

namespace fl_cuda {

template <class T>
struct General : SharedPixels<T> {
  using Base = SharedPixels<T>;
  using Base::id, Base::said, Base::weight, Base::first, Base::bad;
  using Base::kV, Base::w, Base::l, Base::p, Base::s, Base::memory, Base::tables, Base::terms, Base::points, Base::unit;
  using Row = typename Base::Row;

  T max[kV], inv[kV], log_sum[kV];

  using Base::Base;

  // Rows of the thread: logits (then their distance to the maximum), labels; sums of T by slot.
  __device__ __forceinline__ Row& row(int what, int k) const {
    return shared_at<Row>(memory, p.stage)[(what * p.share + k) * blockDim.x + threadIdx.x];
  }
  __device__ __forceinline__ T& sum(int slot, int k) const {
    return shared_at<T>(memory, p.rows)[(slot * p.share + k) * blockDim.x + threadIdx.x];
  }
  __device__ __forceinline__ T& factor(int j, int i) const {
    return shared_at<T>(memory, p.kept)[(j * kV + i) * blockDim.x + threadIdx.x];
  }
  __device__ __forceinline__ void read_logits(int k, T (&x)[kV]) const {
    load_numbers<T, kV>(w, p, w.x, p.x, unit, s.first + k, x);
#pragma unroll
    for (int i = 0; i < kV; ++i) x[i] = id[i] >= 0 ? x[i] : T(0);  // whatever lies there
  }
  __device__ __forceinline__ void read_labels(int k, T (&y)[kV]) const {
    if (p.dense) {
      load_numbers<T, kV>(w, p, w.y, p.y, unit, s.first + k, y);
      const bool distances = p.terms && terms[0].form == kLinearForm;  // any number
      const T near = distances ? T(-1) : T(tolerance_of(w.y.dtype));
#pragma unroll
      for (int i = 0; i < kV; ++i) y[i] = id[i] >= 0 ? fl::clamp_label(y[i], near) : T(0);
    } else {
#pragma unroll
      for (int i = 0; i < kV; ++i) y[i] = id[i] == s.first + k ? T(1) : T(0);
    }
  }
  __device__ __forceinline__ void labels(int k, T (&y)[kV]) const {
    if (!p.staged || !p.dense) return read_labels(k, y);
    const Row own = row(1, k);
#pragma unroll
    for (int i = 0; i < kV; ++i) y[i] = own.x[i];
  }
  // Distances to the maximum (at most 0), and probabilities.
  __device__ __forceinline__ void shifted(int k, T (&x)[kV]) const {
    if (p.staged) {
      const Row own = row(0, k);
#pragma unroll
      for (int i = 0; i < kV; ++i) x[i] = own.x[i];
    } else {
      read_logits(k, x);
#pragma unroll
      for (int i = 0; i < kV; ++i) x[i] = fl::softmax_shift<true>(x[i], max[i]);
    }
  }
  __device__ __forceinline__ void probabilities(int k, T (&x)[kV], T (&q)[kV]) const {
    shifted(k, x);
#pragma unroll
    for (int i = 0; i < kV; ++i) q[i] = fl::exp_minus(fl::abs_(x[i])) * inv[i];
  }

  __device__ __forceinline__ void load(uint32_t turn) {
    const Turns& turns = this->turns;
    unit = turns.there(turn) ? unit_of<kV>(w, l, turns.sample, turns.unit(turn)) : Unit{0, 0, 0, false};
    this->load_targets();
    T most[2 * kV], truth[2 * kV];  // the largest logit and label, and whose they are
#pragma unroll
    for (int i = 0; i < kV; ++i) most[i] = truth[i] = -INFINITY, most[kV + i] = truth[kV + i] = static_cast<T>(s.first);
#pragma unroll 1
    for (int k = 0; k < s.count; ++k) {
      T x[kV], y[kV];
      read_logits(k, x);
      if (p.dense) read_labels(k, y);
      Row own;
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        own.x[i] = x[i];
        if (x[i] > most[i]) most[i] = x[i], most[kV + i] = static_cast<T>(s.first + k);
      }
      if (p.staged) row(0, k) = own;
      if (!p.dense) continue;
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        own.x[i] = y[i];
        if (y[i] > truth[i]) truth[i] = y[i], truth[kV + i] = static_cast<T>(s.first + k);
      }
      if (p.staged) row(1, k) = own;
    }
    this->template join<true, true>(most);
    if (p.dense && w.counting) this->template join<true, true>(truth);
    T found[kV] = {};
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      max[i] = most[i], said[i] = static_cast<int>(most[kV + i]);
      if (p.dense && id[i] >= 0) id[i] = static_cast<int>(truth[kV + i]);  // for the statistics
    }
#pragma unroll 2
    for (int k = 0; k < s.count; ++k) {
      T x[kV];
      Row own;
      if (p.staged) {
        own = row(0, k);
#pragma unroll
        for (int i = 0; i < kV; ++i) x[i] = own.x[i];
      } else {
        read_logits(k, x);
      }
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        own.x[i] = fl::softmax_shift<true>(x[i], max[i]);
        found[i] += fl::exp_minus(fl::abs_(own.x[i]));
      }
      if (p.staged) row(0, k) = own;
    }
    this->template join<false, false>(found);
#pragma unroll
    for (int i = 0; i < kV; ++i) inv[i] = id[i] >= 0 ? T(1) / found[i] : T(0), log_sum[i] = fl::log_(found[i]);
  }

  // The label of a class in a term: smoothed, or from the row of a matrix that the pixel's class names.
  __device__ __forceinline__ T label_in(const PointTerm<T>& t, int k, int i, T y) const {
    if (t.form != kMatrixForm) return fl::fma_(y, t.keep, t.spread);
    return id[i] < 0 ? T(0) : static_cast<T>(vector_at(w, t.index, id[i] * w.channels + s.first + k, 0.0));
  }

  // The pointwise terms: their values, and what their gradient needs of all classes.
  __device__ __forceinline__ void add_terms(bool values, bool slopes, T (&value_of)[kV], T (&slope)[kV]) {
#pragma unroll
    for (int i = 0; i < kV; ++i) slope[i] = T(0);
#pragma unroll 1
    for (int j = 0; j < p.terms; ++j) {
      const PointTerm<T>& t = terms[j];
      T found[2 * kV] = {};
      t.visit_any([&](const auto& element) {
#pragma unroll 1
        for (int k = 0; k < s.count; ++k) {
          T x[kV], y[kV], q[kV];
          labels(k, y), probabilities(k, x, q);
          const T class_weight = t.form == kMatrixForm ? T(1) : tables.weights(j)[s.first + k];
#pragma unroll
          for (int i = 0; i < kV; ++i) {
            const T own = label_in(t, k, i, y[i]), cost = log_sum[i] - x[i], miss = fl::relu(T(1) - q[i]);
            if (own != T(0)) found[i] += own * element.value(cost, miss, class_weight);
            if (slopes) found[kV + i] += own * element.slope(cost, miss, class_weight);
          }
        }
      });
      this->template join<false, false>(found);
      double total = 0.0;
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        const T value = id[i] >= 0 ? found[i] * weight[i] : T(0), share = slopes ? t.share(value) : T(1);
        if (t.picks || p.terms == 1) value_of[i] = value;
        const T pull = share * weight[i] * t.scale;
        if (slopes) factor(j, i) = pull, slope[i] = fl::fma_(pull, found[kV + i], slope[i]);
        total += static_cast<double>(value);
      }
      if (values && first && !t.picks) points.at(j) += static_cast<T>(total);
    }
  }

  __device__ __forceinline__ T region(int k, T y, T q) const {
    const int c = s.first + k;
    return fl::region_grad<true>(q, y, tables.inter()[c], tables.pred()[c], tables.square()[c], tables.cross()[c],
                                 tables.diff()[c]);
  }

  __device__ __forceinline__ void add_classes(const BlockSums& block) const {
    const int8_t* column = w.slots.column;
#pragma unroll 1
    for (int k = 0; k < s.count; ++k) {
      T x[kV], y[kV], q[kV];
      labels(k, y), probabilities(k, x, q);
      const auto put = [&](int c, const auto& f) {
        const int slot = column[c];
        if (slot < 0) return;
        T total = T(0);
#pragma unroll
        for (int i = 0; i < kV; ++i) total += f(q[i], y[i]);
        if (p.staged) {
          sum(slot, k) += total;
          return;
        }
        const double all = warp_sum(static_cast<double>(total));
        if (threadIdx.x % kWarp == 0) block.at(w.slots.at(slot, w.channels, s.first + k)) += all;
      };
      put(fl::kInter, [](T a, T b) { return a * b; });
      put(fl::kPred, [](T a, T) { return a; });
      put(fl::kTarget, [](T, T b) { return b; });
      put(fl::kPredSq, [](T a, T) { return a * a; });
      put(fl::kTargetSq, [](T, T b) { return b * b; });
      put(fl::kAbsDiff, [](T a, T b) { return fl::abs_(a - b); });
      put(fl::kPredSqTarget, [](T a, T b) { return a * a * b; });
    }
  }

  // g_c = p_c (dL/dp_c - dot - slope) + h_c
  __device__ __forceinline__ void store_gradient(const T (&slope)[kV]) {
    T less[kV] = {};
#pragma unroll 1
    for (int k = 0; k < s.count; ++k) {
      T x[kV], y[kV], q[kV];
      labels(k, y), probabilities(k, x, q);
#pragma unroll
      for (int i = 0; i < kV; ++i) less[i] = fl::fma_(q[i], region(k, y[i], q[i]), less[i]);
    }
    this->template join<false, false>(less);
#pragma unroll
    for (int i = 0; i < kV; ++i) less[i] += slope[i];
#pragma unroll 1
    for (int k = 0; k < s.count; ++k) {
      T x[kV], y[kV], q[kV], g[kV] = {};
      labels(k, y), probabilities(k, x, q);
#pragma unroll 1
      for (int j = 0; j < p.terms; ++j) {
        const PointTerm<T>& t = terms[j];
        const T class_weight = t.form == kMatrixForm ? T(1) : tables.weights(j)[s.first + k];
        t.visit_any([&](const auto& element) {
#pragma unroll
          for (int i = 0; i < kV; ++i)
            g[i] += factor(j, i) *
                    (label_in(t, k, i, y[i]) * element.slope(log_sum[i] - x[i], fl::relu(T(1) - q[i]), class_weight));
        });
      }
#pragma unroll
      for (int i = 0; i < kV; ++i) g[i] = id[i] >= 0 ? fl::fma_(q[i], region(k, y[i], q[i]) - less[i], g[i]) : T(0);
      store_numbers<T, kV>(w, p, w.out, p.out, unit, s.first + k, g);
    }
  }
};

// The sums, or the values of a single term. Whether a label is bad.
template <class T>
__device__ __forceinline__ bool add_sums(General<T>& a) {
  const Work& w = a.w;
  const Plan& p = a.p;
  constexpr int kV = General<T>::kV;
  const BlockSums block(w, a.l, p, a.memory);
  const int slots = p.staged ? w.slots.per_class - (w.counting ? 4 : 0) : 0;
  const auto clear = [&] {
    a.points.clear();
    if (w.counting && p.staged) a.seen.clear();
    for (int k = 0; k < slots * p.share; ++k) a.sum(0, k) = T(0);
  };
  clear();
#pragma unroll 1
  for (uint32_t turn = 0; turn < a.turns.count; ++turn) {
    a.load(turn);
    T value[kV], slope[kV];
    a.add_terms(true, false, value, slope);
    a.keep_values(value);
    a.add_classes(block);
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      if (!w.counting) continue;
      if (!p.staged)
        count_far(w, block, a.s, a.id[i], a.id[i] < 0 ? -1 : a.said[i]);
      else if (a.id[i] >= 0)
        a.seen.count(a.id[i] - a.s.first, a.said[i] - a.s.first);
    }
    a.count_valid();
    if (turn % kFlushSteps != kFlushSteps - 1 && turn + 1 < a.turns.count) continue;
    __syncthreads();
    for (int slot = 0; slot < slots; ++slot)
      add_rows(w, p, block, slot, [&](int k, int t) {
        return static_cast<double>(shared_at<T>(a.memory, p.rows)[(slot * p.share + k) * blockDim.x + t]);
      });
    add_points(w, block, a.points, a.terms);
    if (w.counting && p.staged) a.seen.flush(w, p, block);
    __syncthreads();
    clear();
  }
  return a.bad;
}

template <class T>
__device__ __forceinline__ void add_gradient(General<T>& a) {
#pragma unroll 1
  for (uint32_t turn = a.turns.count; turn-- > 0;) {
    a.load(turn);
    T value[General<T>::kV], slope[General<T>::kV];
    a.add_terms(false, true, value, slope);
    a.store_gradient(slope);
  }
}

}  // namespace fl_cuda

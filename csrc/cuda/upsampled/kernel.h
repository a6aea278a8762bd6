// Sums and gradient of a loss of interpolated logits, tile by tile (tile.h). The logits are mixed again in each walk
// over the classes; nothing of full size is stored.
#pragma once
#include "../reduce.h"
#include "../softmax/terms.h"
#include "pixels.h"

namespace fl_cuda {

// Multiclass: a thread's outputs walk over the classes for the maximum, for the sum of the exponentials, and for what
// leaves: the classes' sums, or the gradient.
template <int kV>
struct TileSoftmax {
  const Work& w;
  const Tiling& t;
  const Tile& b;
  const TileMemory& m;
  const PointTerm<float>* terms;
  const Pixels<kV>& p;
  const bool hard, extra;
  float max[kV], inv[kV], log_sum[kV];
  float less[kV], pull[kV];  // gradient: what all classes lose; what the class of a hard label gains

  __device__ __forceinline__ void mix(int c, float (&x)[kV]) const { p.group.mix(t, m.logits + c * t.reads, x); }
  // Distances to the maximum (at most 0), and probabilities: 0 in outputs that do not count.
  __device__ __forceinline__ void probabilities(int c, float (&x)[kV], float (&q)[kV]) const {
    mix(c, x);
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      x[i] = fl::softmax_shift<true>(x[i], max[i]);
      q[i] = p.valid(i) ? fl::exp_minus(fl::abs_(x[i])) * inv[i] : 0.0f;
    }
  }
  __device__ __forceinline__ float label(int c, int i) const {
    return hard ? (p.id[i] == c ? 1.0f : 0.0f) : (p.valid(i) ? p.dense_label(w, b, c, i) : 0.0f);
  }
  __device__ __forceinline__ float region(int c, float y, float q) const {
    return extra ? fl::region_grad<true>(q, y, m.inter[c], m.pred[c], m.square[c], m.cross[c], m.diff[c])
                 : fl::region_grad<false>(q, y, m.inter[c], m.pred[c], 0.0f, 0.0f, 0.0f);
  }

  __device__ __forceinline__ void normalise(bool gradient) {
    const int channels = static_cast<int>(w.channels);
    float x[kV], found[kV];
#pragma unroll
    for (int i = 0; i < kV; ++i) max[i] = -INFINITY, found[i] = less[i] = pull[i] = 0.0f;
#pragma unroll 2
    for (int c = 0; c < channels; ++c) {
      mix(c, x);
#pragma unroll
      for (int i = 0; i < kV; ++i) max[i] = x[i] > max[i] ? x[i] : max[i];
    }
#pragma unroll
    for (int i = 0; i < kV; ++i) max[i] = p.bad(i) ? static_cast<float>(NAN) : max[i];
    const bool dot = gradient && hard && !extra;
#pragma unroll 2
    for (int c = 0; c < channels; ++c) {
      const float slope = dot ? m.pred[c] : 0.0f;
      mix(c, x);
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        const float e = fl::exp_minus(fl::abs_(fl::softmax_shift<true>(x[i], max[i])));
        found[i] += e, less[i] = fl::fma_(e, slope, less[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kV; ++i) inv[i] = 1.0f / found[i], log_sum[i] = fl::log_(found[i]), less[i] *= inv[i];
    if (!gradient) return;
    if (dot) {
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        const int c = p.id[i] < 0 ? 0 : p.id[i];
        mix(c, x);
        less[i] =
            fl::fma_(m.inter[c], fl::exp_minus(fl::abs_(fl::softmax_shift<true>(x[i], max[i]))) * inv[i], less[i]);
      }
      return;
    }
#pragma unroll 1
    for (int c = 0; c < channels; ++c) {
      float q[kV];
      probabilities(c, x, q);
#pragma unroll
      for (int i = 0; i < kV; ++i) less[i] = fl::fma_(q[i], region(c, label(c, i), q[i]), less[i]);
    }
  }

  // Each pointwise term: its values go to the thread's columns; or what its gradient needs of all classes.
  __device__ __forceinline__ void points(bool gradient) {
#pragma unroll 1
    for (int j = 0; j < t.terms; ++j) {
      const PointTerm<float>& term = terms[j];
      const bool target = hard && term.spread == 0.0f;
      float value[kV] = {}, slope[kV] = {};
      term.visit([&](const auto& element) {
        const auto add = [&](int c, int i, float own, float x, float q) {
          const float class_weight = static_cast<float>(vector_at(w, term.index, c, 1.0));
          const float cost = log_sum[i] - x, miss = fl::relu(1.0f - q);
          if (own != 0.0f) value[i] += own * element.value(cost, miss, class_weight);
          slope[i] += own * element.slope(cost, miss, class_weight);
        };
        float x[kV], q[kV];
#pragma unroll
        for (int i = 0; i < kV && target; ++i) {
          const int c = p.id[i] < 0 ? 0 : p.id[i];
          probabilities(c, x, q);
          add(c, i, 1.0f, x[i], q[i]);
        }
#pragma unroll 1
        for (int c = 0; c < w.channels && !target; ++c) {
          probabilities(c, x, q);
#pragma unroll
          for (int i = 0; i < kV; ++i) add(c, i, fl::fma_(label(c, i), term.keep, term.spread), x[i], q[i]);
        }
      });
      float total = 0.0f;
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        if (p.valid(i)) total += fl::product(p.weight[i], value[i]);
        const float own = p.weight[i] * term.scale * slope[i];
        less[i] += own;
        if (target) pull[i] += own;
      }
      if (!gradient) p.column(m, w.slots.column[fl::kFixedSums + term.index] - w.slots.per_class) += total;
    }
  }

  __device__ __forceinline__ void leave_sums(int c, float* to) const {
    const int8_t* column = w.slots.column;
    float x[kV], q[kV], y[kV];
    probabilities(c, x, q);
#pragma unroll
    for (int i = 0; i < kV; ++i) y[i] = label(c, i);
    const auto put = [&](int which, const auto& f) {
      if (column[which] < 0) return;
      float total = 0.0f;
#pragma unroll
      for (int i = 0; i < kV; ++i) total += f(q[i], y[i]);  // both 0 where it does not count
      to[column[which] * kTileThreads] = total;
    };
    put(fl::kInter, [](float a, float b) { return a * b; });
    put(fl::kPred, [](float a, float) { return a; });
    put(fl::kTarget, [](float, float b) { return b; });
    put(fl::kPredSq, [](float a, float) { return a * a; });
    put(fl::kTargetSq, [](float, float b) { return b * b; });
    put(fl::kAbsDiff, [](float a, float b) { return fl::abs_(a - b); });
    put(fl::kPredSqTarget, [](float a, float b) { return a * a * b; });
  }

  // g_c = p_c (dL/dp_c - less) + what the terms give the label's classes
  __device__ __forceinline__ void leave_gradient(int c, float* to) const {
    float x[kV], q[kV], g[kV], y[kV];
    probabilities(c, x, q);
#pragma unroll
    for (int i = 0; i < kV; ++i)
      y[i] = label(c, i), g[i] = fl::fma_(y[i], pull[i], q[i] * (region(c, y[i], q[i]) - less[i]));
#pragma unroll 1
    for (int j = 0; j < t.terms; ++j) {
      const PointTerm<float>& term = terms[j];
      if (hard && term.spread == 0.0f) continue;
      const float class_weight = static_cast<float>(vector_at(w, term.index, c, 1.0));
      term.visit([&](const auto& element) {
#pragma unroll
        for (int i = 0; i < kV; ++i)
          g[i] += p.weight[i] * term.scale * fl::fma_(y[i], term.keep, term.spread) *
                  element.slope(log_sum[i] - x[i], fl::relu(1.0f - q[i]), class_weight);
      });
    }
#pragma unroll
    for (int i = 0; i < kV; ++i) g[i] = p.valid(i) ? g[i] : 0.0f;
    p.group.unmix(g, to[0], to[kTileThreads]);
  }
};

template <int kV, bool kSoftmax, bool kGradient>
__global__ void __launch_bounds__(kTileThreads, 2)
    upsampled(const FL_GRID_CONSTANT Work w, const FL_GRID_CONSTANT Launch l, const FL_GRID_CONSTANT Tiling t) {
  FL_DYNAMIC_SHARED(memory);
  __shared__ Tile b;
  __shared__ PointTerms<float> terms;
  const TileMemory m(w, t, kGradient, memory);
  const uint32_t number = blockIdx.x / l.blocks;
  const Part part = part_of(w, number);
  const int channels = kSoftmax ? static_cast<int>(w.channels) : 1, me = threadIdx.x;
  const double* grads = kGradient ? w.grad_sums + (part.row * w.channels + part.channel) * columns_of(w) : nullptr;
  if (me == 0) fill_terms(w, terms.term);
  if (me == 0 && kGradient) set_scales(w, grads, t.terms, terms.term);
  if (kGradient) fill_slopes(w, m, grads, channels);
  const int per_class = kSoftmax ? w.slots.per_class * channels : 0;
  const int columns = kSoftmax ? w.slots.scalars : w.slots.count(1);
  if (!kGradient) clear_sums(w, m, per_class, columns);
  const int8_t* column = w.slots.column;
  const bool hard = w.class_indices;
  const bool extra = column[fl::kPredSq] >= 0 || column[fl::kAbsDiff] >= 0 || column[fl::kPredSqTarget] >= 0;
  const int rows = kGradient ? 2 : (kSoftmax ? w.slots.per_class : 0), owned = t.size[0] * t.size[1] * t.size[2];
  __syncthreads();
#pragma unroll 1
  for (uint32_t tile = blockIdx.x % l.blocks; tile < l.tiles; tile += l.blocks) {
    place<kV>(t, kGradient, part.sample, tile, b, m);
    load_inputs(t, b, m, part.channel, channels);
    for (int i = me; i < channels * owned && kGradient; i += kTileThreads) m.grads[i] = 0.0f;
    __syncthreads();
    const int items = b.outputs[0] * b.outputs[1] * b.group_begin[b.cells[2]];
#pragma unroll 1
    for (int base = 0; base < items; base += kTileThreads) {
      const Pixels<kV> p(w, t, b, m, base + me, items, kSoftmax, part.channel);
      const int n = min(kTileThreads, items - base);
      if constexpr (kSoftmax) {
        TileSoftmax<kV> a{w, t, b, m, terms.term, p, hard, extra};
        if (!kGradient) p.count(w, m, w.slots.per_class);
        if (p.bits) a.normalise(kGradient), a.points(kGradient);
#pragma unroll 1
        for (int c = 0; c < channels && rows; c += kTogether) {
          const int classes = min(kTogether, channels - c);
#pragma unroll 1
          for (int k = 0; k < classes; ++k) {
            float* to = m.values + k * rows * kTileThreads + me;
            if (kGradient)
              a.leave_gradient(c + k, to);
            else
              a.leave_sums(c + k, to);
          }
          __syncthreads();
          if (kGradient)
            gather(t, b, m, c, classes, base, n);
          else
            add_rows(w, m, c, classes);
          __syncthreads();
        }
      } else if constexpr (kGradient) {
        sigmoid_gradient(w, t, m, terms.term, p, part.channel, m.values + me);
        __syncthreads();
        gather(t, b, m, 0, 1, base, n);
        __syncthreads();
      } else {
        p.count(w, m, 0);
        sigmoid_sums(w, t, m, terms.term, p, part.channel);
      }
    }
    if (kGradient) store_gradient(t, b, m, part.channel, channels);
    __syncthreads();
  }
  if (!kGradient) leave_sums(w, l, m, per_class, columns);
}

}  // namespace fl_cuda

// The labels of a thread's outputs; binary and multilabel elements; what a block leaves.
#pragma once
#include "../../math/elements.h"
#include "../reduce.h"
#include "../softmax/terms.h"
#include "tile.h"

namespace fl_cuda {

template <int kV>
struct Pixels {
  Group<kV> group;
  uint32_t bits = 0;  // of the outputs that count; from kV on, of those whose label is none
  int id[kV];         // class, -1: none
  float y[kV], weight[kV];

  __device__ __forceinline__ bool valid(int i) const { return bits >> i & 1; }
  __device__ __forceinline__ bool bad(int i) const { return bits >> (kV + i) & 1; }

  __device__ __forceinline__ Pixels(const Work& w, const Tiling& t, const Tile& b, const TileMemory& m, int item,
                                    int items, bool softmax, int64_t channel)
      : group(t, b, m, item, items) {
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      id[i] = -1, y[i] = 0.0f, weight[i] = 0.0f;
      if (i >= group.count) continue;
      if (w.mask.data && !static_cast<const uint8_t*>(w.mask.data)[group.offset(w.mask, b.sample, channel, i)])
        continue;
      bool none = false;
      const int64_t at = group.offset(w.y, b.sample, channel, i);
      if (!fl::is_float(w.y.dtype)) {
        const int64_t v = integer_at(w.y, at);
        if (w.spec.has_ignore && v == w.spec.ignore_index) continue;
        none = v < 0 || v >= (softmax ? w.channels : 2);
        id[i] = none ? -1 : static_cast<int>(v), y[i] = v == 1 ? 1.0f : 0.0f;
      } else if (!softmax) {
        const float v = float_at(w.y, at);
        if (w.spec.has_ignore && v == static_cast<float>(w.spec.ignore_index)) continue;
        y[i] = fl::clamp_label(v, tolerance(w));
        none = !(y[i] >= 0.0f && y[i] <= 1.0f);
      }
      weight[i] =
          w.pixel_weight.data ? float_at(w.pixel_weight, group.offset(w.pixel_weight, b.sample, channel, i)) : 1.0f;
      bits |= 1u << i | uint32_t(none) << (kV + i);
    }
  }
  static __device__ __forceinline__ float tolerance(const Work& w) {
    return static_cast<float>(tolerance_of(w.y.dtype));
  }
  __device__ __forceinline__ float dense_label(const Work& w, const Tile& b, int c, int i) const {
    return fl::clamp_label(float_at(w.y, group.offset(w.y, b.sample, c, i)), tolerance(w));
  }
  static __device__ __forceinline__ double& column(const TileMemory& m, int at) {
    return m.columns[at * kTileThreads + threadIdx.x];
  }
  __device__ __forceinline__ void count(const Work& w, const TileMemory& m, int before) const {
    column(m, w.slots.column[fl::kValid] - before) += __popc(bits & ((1u << kV) - 1));
    if (bits >> kV) column(m, w.slots.bad - before) += 1.0;
  }
};

// Calls f with the functions of a term of binary elements; `on`: the weight of label 1, or alpha.
template <class F>
__device__ __forceinline__ void with_element(const Work& w, const PointTerm<float>& term, int64_t channel, const F& f) {
  const fl::Term& t = w.spec.terms[term.index];
  const float on = static_cast<float>(vector_at(w, term.index, channel, 1.0)), off = t.vector_length ? 1.0f - on : 1.0f;
  const float gamma = term.gamma;
  if (t.kind != fl::kFocal) return f(fl::BceElement<float>{on, static_cast<float>(t.label_smoothing)});
  if (t.gamma == 0.0) return f(fl::FocalElement<fl::kPower0, false, float>{gamma, on, off});
  if (t.margin && fl::is_float(w.y.dtype)) return f(fl::MarginElement<fl::kPowerAny, float>{gamma, on, off});
  if (t.gamma == 1.0) return f(fl::FocalElement<fl::kPower1, false, float>{gamma, on, off});
  if (t.gamma == 2.0) return f(fl::FocalElement<fl::kPower2, false, float>{gamma, on, off});
  f(fl::FocalElement<fl::kPowerAny, false, float>{gamma, on, off});
}

template <int kV>
__device__ __forceinline__ void sigmoids(const Tiling& t, const TileMemory& m, const Pixels<kV>& p,
                                         fl::Sigmoid<float> (&a)[kV]) {
  float x[kV];
  p.group.mix(t, m.logits, x);
#pragma unroll
  for (int i = 0; i < kV; ++i)
    a[i] = fl::sigmoid<true>(p.valid(i) ? (p.bad(i) ? static_cast<float>(NAN) : x[i]) : 0.0f);
}

template <int kV>
__device__ __forceinline__ void sigmoid_sums(const Work& w, const Tiling& t, const TileMemory& m,
                                             const PointTerm<float>* terms, const Pixels<kV>& p, int64_t channel) {
  fl::Sigmoid<float> a[kV];
  sigmoids(t, m, p, a);
  const auto put = [&](int which, const auto& f) {
    if (w.slots.column[which] < 0) return;
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < kV; ++i) total += p.valid(i) ? f(a[i].p, p.y[i]) : 0.0f;
    p.column(m, w.slots.column[which]) += total;
  };
  put(fl::kInter, [](float q, float y) { return q * y; });
  put(fl::kPred, [](float q, float) { return q; });
  put(fl::kTarget, [](float, float y) { return y; });
  put(fl::kPredSq, [](float q, float) { return q * q; });
  put(fl::kTargetSq, [](float, float y) { return y * y; });
  put(fl::kAbsDiff, [](float q, float y) { return fl::abs_(q - y); });
  put(fl::kPredSqTarget, [](float q, float y) { return q * q * y; });
#pragma unroll 1
  for (int j = 0; j < t.terms; ++j)
    with_element(w, terms[j], channel, [&](const auto& element) {
      float total = 0.0f;
#pragma unroll
      for (int i = 0; i < kV; ++i)
        if (p.weight[i] != 0.0f)
          total += p.weight[i] * element.value(a[i].p, a[i].q, a[i].neg_log_p, a[i].neg_log_1mp, p.y[i]);
      p.column(m, w.slots.column[fl::kFixedSums + terms[j].index]) += total;
    });
}

template <int kV>
__device__ __forceinline__ void sigmoid_gradient(const Work& w, const Tiling& t, const TileMemory& m,
                                                 const PointTerm<float>* terms, const Pixels<kV>& p, int64_t channel,
                                                 float* to) {
  fl::Sigmoid<float> a[kV];
  float g[kV];
  sigmoids(t, m, p, a);
#pragma unroll
  for (int i = 0; i < kV; ++i)
    g[i] =
        a[i].slope * fl::region_grad<true>(a[i].p, p.y[i], m.inter[0], m.pred[0], m.square[0], m.cross[0], m.diff[0]);
#pragma unroll 1
  for (int j = 0; j < t.terms; ++j)
    with_element(w, terms[j], channel, [&](const auto& element) {
#pragma unroll
      for (int i = 0; i < kV; ++i)
        if (p.weight[i] != 0.0f)
          g[i] = fl::fma_(p.weight[i] * terms[j].scale,
                          element.slope(a[i].p, a[i].q, a[i].neg_log_p, a[i].neg_log_1mp, p.y[i]), g[i]);
    });
#pragma unroll
  for (int i = 0; i < kV; ++i) g[i] = p.valid(i) ? g[i] : 0.0f;
  p.group.unmix(g, to[0], to[kTileThreads]);
}

// The derivatives by the sums, of each class, by the block.
__device__ __forceinline__ void fill_slopes(const Work& w, const TileMemory& m, const double* grads, int channels) {
  const double up = grad_output_of(w);
  for (int c = threadIdx.x; c < channels; c += kTileThreads) {
    const double* d = grads + static_cast<int64_t>(c) * columns_of(w);
    m.pred[c] = static_cast<float>(up * d[fl::kPred]), m.inter[c] = static_cast<float>(up * d[fl::kInter]);
    m.square[c] = static_cast<float>(2.0 * up * d[fl::kPredSq]), m.diff[c] = static_cast<float>(up * d[fl::kAbsDiff]);
    m.cross[c] = static_cast<float>(2.0 * up * d[fl::kPredSqTarget]);
  }
}

__device__ __forceinline__ void clear_sums(const Work& w, const TileMemory& m, int per_class, int columns) {
  for (int i = threadIdx.x; i < per_class; i += kTileThreads) m.sums[i] = 0.0;
  for (int i = 0; i < columns; ++i) m.columns[i * kTileThreads + threadIdx.x] = 0.0;
}

// Adds what the threads left of the sums of `classes` classes: a warp for each number.
__device__ __forceinline__ void add_rows(const Work& w, const TileMemory& m, int first, int classes) {
  const int slots = w.slots.per_class, lane = threadIdx.x % kWarp;
  for (int r = threadIdx.x / kWarp; r < classes * slots; r += kTileThreads / kWarp) {
    double sum = 0.0;
#pragma unroll
    for (int i = lane; i < kTileThreads; i += kWarp) sum += static_cast<double>(m.values[r * kTileThreads + i]);
    sum = warp_sum(sum);
    if (lane == 0) m.sums[first * slots + r] += sum;
  }
}

// The partial sums of the block: those of the classes, then those of the threads' columns.
__device__ __forceinline__ void leave_sums(const Work& w, const Launch& l, const TileMemory& m, int per_class,
                                           int columns) {
  const int lane = threadIdx.x % kWarp;
  for (int i = threadIdx.x; i < per_class; i += kTileThreads) *partial_at(w, l, i) = m.sums[i];
  for (int r = threadIdx.x / kWarp; r < columns; r += kTileThreads / kWarp) {
    double sum = 0.0;
    for (int i = lane; i < kTileThreads; i += kWarp) sum += m.columns[r * kTileThreads + i];
    sum = warp_sum(sum);
    if (lane == 0) *partial_at(w, l, per_class + r) = sum;
  }
}

// Adds what the groups `base` to `base + n` left of `classes` classes to the gradient of the inputs that the block
// owns: an input and class a thread, in the order of the groups.
__device__ __forceinline__ void gather(const Tiling& t, const Tile& b, const TileMemory& m, int first, int classes,
                                       int base, int n) {
  const int all = t.size[0] * t.size[1] * t.size[2];
  const int owned = b.owned[0] * b.owned[1] * b.owned[2], groups = b.group_begin[b.cells[2]];
  const auto before = [&](int axis, int p) { return t.mixes[axis] && p > 0 ? p - 1 : p; };  // first cell that reaches p
  const int first_row = base / groups, last_row = (base + n - 1) / groups;
  for (int u = threadIdx.x; u < owned * classes; u += blockDim.x) {
    const int k = u / owned, p = u - k * owned, row = p / b.owned[2];
    const int px = b.own[2] + p - row * b.owned[2], py = b.own[1] + row % b.owned[1], pz = b.own[0] + row / b.owned[1];
    const float *left = m.values + 2 * k * kTileThreads - base, *right = left + kTileThreads;
    const int g0 = b.group_begin[before(2, px)], g1 = b.group_begin[px], g2 = b.group_begin[min(px + 1, b.cells[2])];
    float sum = 0.0f;
    for (int z = b.begin[0][before(0, pz)]; z < b.begin[0][min(pz + 1, b.cells[0])]; ++z) {
      const float wz = m.weight[0][z];
      const float sz = m.cell[0][z] != pz ? wz : (pz + 1 < b.reads[0] ? 1.0f - wz : 1.0f);
      const int begin = max(b.begin[1][before(1, py)], first_row - z * b.outputs[1]);
      const int end = min(b.begin[1][min(py + 1, b.cells[1])], last_row - z * b.outputs[1] + 1);
      for (int y = begin; y < end; ++y) {
        const float wy = m.weight[1][y];
        const float sy = m.cell[1][y] != py ? wy : (py + 1 < b.reads[1] ? 1.0f - wy : 1.0f);
        const int from = (z * b.outputs[1] + y) * groups;
        float own = 0.0f;
        for (int i = max(from + g0, base); i < min(from + g1, base + n); ++i) own += right[i];
        for (int i = max(from + g1, base); i < min(from + g2, base + n); ++i) own += left[i];
        sum = fl::fma_(sz * sy, own, sum);
      }
    }
    m.grads[(first + k) * all + p] += sum;
  }
}

__device__ __forceinline__ void store_gradient(const Tiling& t, const Tile& b, const TileMemory& m, int64_t channel,
                                               int channels) {
  const Array& g = t.out;
  const int plane = b.owned[1] * b.owned[2], all = b.owned[0] * plane, size = t.size[0] * t.size[1] * t.size[2];
  for (int i = threadIdx.x; i < all * channels; i += kTileThreads) {
    const int c = i / all, p = i - c * all, z = p / plane, y = p % plane / b.owned[2], x = p % b.owned[2];
    const int64_t at = b.sample * g.sample + (channel + c) * g.channel + (b.low[0] + b.own[0] + z) * g.space[0] +
                       (b.low[1] + b.own[1] + y) * g.space[1] + (b.low[2] + b.own[2] + x) * g.space[2];
    const float v = m.grads[c * size + p];
    if (g.dtype == fl::kF32)
      static_cast<float*>(g.data)[at] = v;
    else if (g.dtype == fl::kF16)
      static_cast<__half*>(g.data)[at] = __float2half_rn(v);
    else
      static_cast<__nv_bfloat16*>(g.data)[at] = __float2bfloat16_rn(v);
  }
}

}  // namespace fl_cuda

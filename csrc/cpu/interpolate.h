// Interpolation of boxes of outputs and its transpose, one axis after the other: along the rows for the few inputs that
// a box reads, then whole rows at a time.
#pragma once
#include <algorithm>
#include <vector>

#include "../math/interpolate.h"
#include "load.h"

FL_NAMESPACE_BEGIN

struct Box {
  int64_t begin[3], end[3];
  int64_t size(int axis) const { return end[axis] - begin[axis]; }
  int64_t pixels() const { return size(0) * size(1) * size(2); }
};

template <class T>
struct AxisTable {
  int64_t inputs, outputs;
  bool identity, linear;
  std::vector<int32_t> first, second;  // of each output
  std::vector<T> weight;
  // The transpose: input j gets share[k * inputs + j] of output begin[j] + k, k < run.
  int64_t run = 0;
  std::vector<int32_t> begin;
  std::vector<T> share;
  int64_t ratio = 0;  // 2, 4 or 8 where that many outputs repeat the weights of the ones before

  AxisTable(int64_t in, int64_t out, int mode, bool align_corners)
      : inputs(in), outputs(out), identity(in == out), linear(mode >= kInterpolateLinear) {
    for (int64_t o = 0; o < out; ++o) {
      const Interpolated at = interpolated(o, in, out, mode, align_corners);
      first.push_back(static_cast<int32_t>(at.first)), second.push_back(static_cast<int32_t>(at.second));
      weight.push_back(static_cast<T>(at.weight));
    }
    if (linear && !align_corners && in > 1 && out % in == 0 && (out / in == 2 || out / in == 4 || out / in == 8))
      ratio = out / in;
    transpose();
  }

  // The inputs that outputs begin to end read, as begin and end.
  int64_t low(int64_t o) const { return identity ? o : first[o]; }
  int64_t high(int64_t o) const { return identity ? o : second[o - 1] + 1; }

 private:
  void transpose() {
    std::vector<int32_t> end(inputs, 0);
    begin.assign(inputs, static_cast<int32_t>(outputs));
    for (int64_t o = 0; o < outputs; ++o)
      for (const int32_t j : {first[o], second[o]}) {
        begin[j] = std::min(begin[j], static_cast<int32_t>(o));
        end[j] = std::max(end[j], static_cast<int32_t>(o + 1));
      }
    for (int64_t j = 0; j < inputs; ++j) run = std::max<int64_t>(run, end[j] - begin[j]);
    for (int64_t j = 0; j < inputs; ++j) begin[j] = std::min(begin[j], static_cast<int32_t>(outputs - run));
    share.assign(run * inputs, T(0));
    for (int64_t o = 0; o < outputs; ++o) {
      share[(o - begin[first[o]]) * inputs + first[o]] += T(1) - weight[o];
      share[(o - begin[second[o]]) * inputs + second[o]] += weight[o];
    }
  }
};

// Outputs begin to end of one row; in[0] is input `low`.
template <class T>
inline void spread_row(const AxisTable<T>& t, const T* __restrict in, int64_t low, int64_t begin, int64_t end,
                       T* __restrict out) {
  const int32_t* __restrict first = t.first.data() + begin;
  const int32_t* __restrict second = t.second.data() + begin;
  const T* __restrict weight = t.weight.data() + begin;
  const int32_t offset = static_cast<int32_t>(low);
  const int64_t n = end - begin;
  if (t.identity) {
    memcpy(out, in, n * sizeof(T));
  } else if (!t.linear) {
    for (int64_t i = 0; i < n; ++i) out[i] = in[first[i] - offset];
  } else {
    for (int64_t i = 0; i < n; ++i)
      out[i] = in[first[i] - offset] * (T(1) - weight[i]) + in[second[i] - offset] * weight[i];
  }
}

// A whole row whose outputs repeat their weights every kRatio: no gathers.
template <int kRatio, class T>
inline void spread_evenly(const AxisTable<T>& t, const T* __restrict in, T* __restrict out) {
  constexpr int kHalf = kRatio / 2;
  T w[kRatio];
  for (int k = 0; k < kRatio; ++k) w[k] = t.weight[kHalf + k];
  for (int k = 0; k < kHalf; ++k) out[k] = in[0];
  T* __restrict inner = out + kHalf;
  for (int64_t j = 0; j + 1 < t.inputs; ++j)
    for (int k = 0; k < kRatio; ++k) inner[kRatio * j + k] = in[j] * (T(1) - w[k]) + in[j + 1] * w[k];
  for (int k = 0; k < kHalf; ++k) out[t.outputs - 1 - k] = in[t.inputs - 1];
}

// Adds what the gradient of outputs gives the inputs low to high; out[0] is input `low`, g[0] the output that the first
// of them begins with, and g is 0 for outputs that are not in the box.
template <class T>
inline void gather_row(const AxisTable<T>& t, const T* __restrict g, int64_t low, int64_t high, T* __restrict out) {
  const int64_t n = high - low;
  const int32_t* __restrict begin = t.begin.data() + low;
  const int32_t offset = begin[0];
  for (int64_t k = 0; k < t.run; ++k) {
    const T* __restrict share = t.share.data() + k * t.inputs + low;
    for (int64_t j = 0; j < n; ++j) out[j] += share[j] * g[begin[j] - offset + k];
  }
}

template <int kRatio, class T>
inline void gather_evenly(const AxisTable<T>& t, const T* __restrict g, T* __restrict out) {
  constexpr int kHalf = kRatio / 2;
  T w[kRatio], edge[2] = {T(0), T(0)};
  for (int k = 0; k < kRatio; ++k) w[k] = t.weight[kHalf + k];
  for (int k = 0; k < kHalf; ++k) edge[0] += g[k], edge[1] += g[t.outputs - 1 - k];
  const T* __restrict inner = g + kHalf;
  out[0] += edge[0];
  for (int64_t j = 0; j + 1 < t.inputs; ++j) {
    T left = T(0);
    for (int k = 0; k < kRatio; ++k) left += (T(1) - w[k]) * inner[kRatio * j + k];
    out[j] += left;
  }
  for (int64_t j = 0; j + 1 < t.inputs; ++j) {
    T right = T(0);
    for (int k = 0; k < kRatio; ++k) right += w[k] * inner[kRatio * j + k];
    out[j + 1] += right;
  }
  out[t.inputs - 1] += edge[1];
}

template <class T>
inline void mix_rows(const T* __restrict a, const T* __restrict b, T weight, int64_t n, T* __restrict out) {
  if (weight == T(0)) {
    memcpy(out, a, n * sizeof(T));
    return;
  }
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] * (T(1) - weight) + b[i] * weight;
}
template <class T>
inline void share_row(const T* __restrict g, T weight, int64_t n, T* __restrict a, T* __restrict b) {
  for (int64_t i = 0; i < n; ++i) a[i] += (T(1) - weight) * g[i];
  if (weight != T(0))
    for (int64_t i = 0; i < n; ++i) b[i] += weight * g[i];
}

// Planes of T or half types, interpolated; the gradient is added to contiguous planes of T.
template <class T>
class Interpolation3 {
  AxisTable<T> axes_[3];
  FloatPlanes<T> x_;

 public:
  struct Scratch {
    std::vector<T> row, first, second;
    T* at_least(std::vector<T>& v, int64_t n) {
      if (static_cast<int64_t>(v.size()) < n) v.resize(n);
      return v.data();
    }
  };

  Interpolation3(const Array& x, const int64_t* inputs, const int64_t* outputs, int mode, bool align_corners)
      : axes_{{inputs[0], outputs[0], mode, align_corners},
              {inputs[1], outputs[1], mode, align_corners},
              {inputs[2], outputs[2], mode, align_corners}},
        x_(x, inputs) {}

  Box reads(const Box& box) const {
    Box r;
    for (int a = 0; a < 3; ++a) r.begin[a] = axes_[a].low(box.begin[a]), r.end[a] = axes_[a].high(box.end[a]);
    return r;
  }

  void logits(int64_t sample, int64_t channel, const Box& box, T* out, Scratch& s) const {
    const auto& [az, ay, aw] = axes_;
    const Box low = reads(box);
    const int64_t width = box.size(2), rows = low.size(1), height = box.size(1), narrow = low.size(2);
    const bool whole = width == aw.outputs;
    T* slabs = az.identity ? out : s.at_least(s.second, low.size(0) * height * width);
    T* lines = ay.identity ? slabs : s.at_least(s.first, rows * width);
    T* buffer = s.at_least(s.row, narrow);
    for (int64_t z = 0; z < low.size(0); ++z) {
      T* slab = slabs + z * height * width;
      if (ay.identity) lines = slab;
      for (int64_t y = 0; y < rows; ++y) {
        const int64_t at = ((low.begin[0] + z) * ay.inputs + low.begin[1] + y) * aw.inputs + low.begin[2];
        const T* in = x_.load(sample, channel, at, narrow, buffer);
        T* line = lines + y * width;
        if (whole && aw.ratio == 4)
          spread_evenly<4>(aw, in, line);
        else if (whole && aw.ratio == 2)
          spread_evenly<2>(aw, in, line);
        else if (whole && aw.ratio == 8)
          spread_evenly<8>(aw, in, line);
        else
          spread_row(aw, in, low.begin[2], box.begin[2], box.end[2], line);
      }
      for (int64_t y = 0; !ay.identity && y < height; ++y) {
        const int64_t o = box.begin[1] + y;
        mix_rows(lines + (ay.first[o] - low.begin[1]) * width, lines + (ay.second[o] - low.begin[1]) * width,
                 ay.weight[o], width, slab + y * width);
      }
    }
    for (int64_t z = 0; !az.identity && z < box.size(0); ++z) {
      const int64_t o = box.begin[0] + z, slab = height * width;
      mix_rows(slabs + (az.first[o] - low.begin[0]) * slab, slabs + (az.second[o] - low.begin[0]) * slab, az.weight[o],
               slab, out + z * slab);
    }
  }

  // Adds the gradient g of a box to `plane`, [inputs] of one sample and channel.
  void add_gradient(const T* g, const Box& box, T* plane, Scratch& s) const {
    const auto& [az, ay, aw] = axes_;
    const Box low = reads(box);
    const int64_t width = box.size(2), rows = low.size(1), height = box.size(1), slab = height * width;
    const bool whole = width == aw.outputs;
    const T* slabs = g;
    if (!az.identity) {
      T* sums = s.at_least(s.second, low.size(0) * slab);
      std::fill_n(sums, low.size(0) * slab, T(0));
      for (int64_t z = 0; z < box.size(0); ++z) {
        const int64_t o = box.begin[0] + z;
        share_row(g + z * slab, az.weight[o], slab, sums + (az.first[o] - low.begin[0]) * slab,
                  sums + (az.second[o] - low.begin[0]) * slab);
      }
      slabs = sums;
    }
    const int64_t from = aw.begin[low.begin[2]], to = aw.begin[low.end[2] - 1] + aw.run;  // outputs of these inputs
    T* padded = nullptr;
    if (!whole) std::fill_n(padded = s.at_least(s.row, to - from), to - from, T(0));
    for (int64_t z = 0; z < low.size(0); ++z) {
      const T* lines = slabs + z * slab;
      if (!ay.identity) {
        T* sums = s.at_least(s.first, rows * width);
        std::fill_n(sums, rows * width, T(0));
        for (int64_t y = 0; y < height; ++y) {
          const int64_t o = box.begin[1] + y;
          share_row(lines + y * width, ay.weight[o], width, sums + (ay.first[o] - low.begin[1]) * width,
                    sums + (ay.second[o] - low.begin[1]) * width);
        }
        lines = sums;
      }
      for (int64_t y = 0; y < rows; ++y) {
        const T* line = lines + y * width;
        T* out = plane + ((low.begin[0] + z) * ay.inputs + low.begin[1] + y) * aw.inputs;
        if (whole && aw.ratio == 4) {
          gather_evenly<4>(aw, line, out);
        } else if (whole && aw.ratio == 2) {
          gather_evenly<2>(aw, line, out);
        } else if (whole && aw.ratio == 8) {
          gather_evenly<8>(aw, line, out);
        } else {
          if (!whole) memcpy(padded + box.begin[2] - from, line, width * sizeof(T));
          gather_row(aw, whole ? line : padded, low.begin[2], low.end[2], out + low.begin[2]);
        }
      }
    }
  }
};

FL_NAMESPACE_END

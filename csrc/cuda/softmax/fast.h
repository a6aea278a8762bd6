// Class indices and float32 or 16-bit logits: what a turn of the loops over pixels (fast_loops.h) makes of the softmax.
#pragma once
#include "exponentials.h"

namespace fl_cuda {

template <class X>
struct Fast : Exponentials<X> {
  using Base = Exponentials<X>;
  using Base::Base;
  using Base::first, Base::id, Base::inv, Base::kV, Base::log_sum, Base::more, Base::nll, Base::numbers;
  using Base::own, Base::p, Base::points, Base::s, Base::tables, Base::terms, Base::tile, Base::unit, Base::w;
  using Base::weight;
  using Row = typename Base::Row;

  // The pointwise terms: their values into the thread's points, what they pull at log p_t into `slope`. The values of
  // top-k are left out, whose thresholds are not known yet.
  template <bool kGrad>
  __device__ __forceinline__ void add_terms(bool values, float (&value_of)[kV], float (&slope)[kV]) const {
    float miss[kV];
#pragma unroll
    for (int i = 0; i < kV; ++i) slope[i] = 0.0f, miss[i] = fl::relu(1.0f - own[i]);
#pragma unroll 1
    for (int j = 0; j < p.terms; ++j) {
      const PointTerm<float>& t = terms[j];
      const float* weights = tables.weights(j);
      t.visit([&](const auto& element) {
        float total = 0.0f;
#pragma unroll
        for (int i = 0; i < kV; ++i) {
          const float of = weights[id[i] < 0 ? 0 : id[i]];
          float share = weight[i], value = 0.0f;
          if (values || t.picks) {
            value = element.value(nll[i], miss[i], of);
            if (!kGrad && j == p.smooth)
              value = fl::fma_(t.keep, value, t.spread * fl::fma_(t.all, log_sum[i], more[i]));
            value = share != 0.0f ? value * share : 0.0f;
            if (kGrad) share *= t.share(value);
            total += value;
          }
          if (!kGrad && (t.picks || p.terms == 1)) value_of[i] = value;
          if (kGrad) slope[i] = fl::fma_(share * t.scale * t.keep, element.slope(nll[i], miss[i], of), slope[i]);
        }
        if (values && first && !t.picks) points.at(j) += total;
      });
    }
  }
  // g_c = p_c (dL/dp_c - less) + flat_c + [c is the target's] extra. flats: the sum of flat_c.
  __device__ __forceinline__ void store_gradient(const float (&slope)[kV], float flats) const {
    float less[kV], extra[kV];
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      const float inter = own[i] * tables.inter()[id[i] < 0 ? 0 : id[i]];
      less[i] = -inv[i] * (more[i] + inter + fl::fma_(flats, weight[i], slope[i]));
      extra[i] = inter + slope[i];
    }
    each_row(s, [&](int k, auto n) {
      const Row of = this->template numbers<n.count>(tables.pred(), k, true);
#pragma unroll
      for (int j = 0; j < n.count; ++j) {
        Row e = tile.row(s.first + k + j);
#pragma unroll
        for (int i = 0; i < kV; ++i) e.x[i] *= fl::fma_(inv[i], of.x[j], less[i]);
        tile.row(s.first + k + j) = e;
      }
    });
#pragma unroll 1
    for (int k = 0; p.flats && k < s.count; ++k) {
      Row e = tile.row(s.first + k);
#pragma unroll
      for (int i = 0; i < kV; ++i) e.x[i] = fl::fma_(tables.flat()[s.first + k], weight[i], e.x[i]);
      tile.row(s.first + k) = e;
    }
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      const int k = id[i] - s.first;
      if (k >= 0 && k < s.count) tile.number(id[i], i) += extra[i];
    }
    if (sizeof(X) == 2 && p.brain)
      tile.template store<true>(w, p, s, unit);
    else
      tile.template store<false>(w, p, s, unit);
  }
};

}  // namespace fl_cuda

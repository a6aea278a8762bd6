// The pointwise terms as general kernels take them: four elements at once, a branch on the term outside of them.
#pragma once
#include "../../math/elements.h"
#include "walk.h"

namespace fl_cuda {

template <class T>
struct Four {  // elements: what is read, and the sigmoid of each
  T x[kPack], y[kPack], weight[kPack], p[kPack], q[kPack], neg_log_p[kPack], neg_log_1mp[kPack];
};

// The value of a term at each element, or its slope by the logit; `on`: the weight of label 1, or alpha.
template <class T>
__device__ __forceinline__ void pointwise(const Walk& k, const fl::Term& t, bool slope, const Four<T>& e, T on,
                                          T (&to)[kPack]) {
  if (t.kind == fl::kPoly || t.kind == fl::kLogPower || t.kind == fl::kBoundary) {
    const fl::PolyElement<T> poly{on, static_cast<T>(t.label_smoothing), static_cast<T>(t.eps)};
    const fl::LogPowerElement<T> power{on, static_cast<T>(t.gamma)};
    const auto take = [&](const auto& element) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        if (slope)
          to[i] = element.slope(e.p[i], e.q[i], e.neg_log_p[i], e.neg_log_1mp[i], e.y[i]);
        else
          to[i] = element.value(e.p[i], e.q[i], e.neg_log_p[i], e.neg_log_1mp[i], e.y[i]);
      }
    };
    if (t.kind == fl::kBoundary) return take(fl::LinearElement<T>{on});
    return t.kind == fl::kPoly ? take(poly) : take(power);
  }
  if (t.kind != fl::kFocal) {
    const T smoothing = static_cast<T>(t.label_smoothing);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const T y = fl::smooth_label(e.y[i], smoothing);
      if (slope)
        to[i] = fl::bce_grad(e.p[i], e.q[i], y, on);
      else
        to[i] = fl::bce(e.neg_log_p[i], e.neg_log_1mp[i], y, on);
    }
    return;
  }
  const T off = t.vector_length ? T(1) - on : T(1), gamma = static_cast<T>(t.gamma);
  const bool margin = t.margin && fl::is_float(k.label_dtype);
  T b[kPack], u[kPack];
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    b[i] = fl::bce(e.neg_log_p[i], e.neg_log_1mp[i], e.y[i], T(1));
    if (margin)
      u[i] = fl::margin_miss(e.p[i], e.q[i], e.neg_log_p[i], e.neg_log_1mp[i], e.y[i]);
    else
      u[i] = fl::focal_miss(e.p[i], e.q[i], e.y[i], b[i]);
    to[i] = on * e.y[i] + off * (T(1) - e.y[i]);
  }
  if (t.gamma == 1.0 || t.gamma == 2.0) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) to[i] *= t.gamma == 1.0 ? u[i] : u[i] * u[i];
  } else if (t.gamma != 0.0) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) to[i] *= fl::focal_power<fl::kPowerAny>(u[i], gamma);
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const T b_grad = fl::bce_grad(e.p[i], e.q[i], e.y[i], T(1));
    if (!slope)
      to[i] = fl::product(to[i], b[i]);
    else if (margin)
      to[i] *= fl::margin_slope(b[i], u[i], e.y[i], gamma, b_grad);
    else
      to[i] = to[i] * b_grad * fl::focal_growth(b[i], u[i], T(1) - u[i], gamma);
  }
}

}  // namespace fl_cuda

// The pointwise terms as general kernels take them: four elements at once, a branch on the term outside of them.
#pragma once
#include "../../math/elements.h"
#include "walk.h"

namespace fl_cuda {

template <class T>
struct Four {  // elements: what is read, and the sigmoid of each
  T x[kPack], y[kPack], weight[kPack], p[kPack], q[kPack], nlp[kPack], nlq[kPack];
};

// values[i] and, with kSlope, slopes[i] = d value / d logit; `on`: the weight of label 1, or alpha.
template <bool kSlope, class T>
__device__ __forceinline__ void pointwise(const Work& w, const fl::Term& t, const Four<T>& e, T on, T (&to)[kPack]) {
  if (t.kind != fl::kFocal) {
    const T smoothing = static_cast<T>(t.label_smoothing);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const T y = fl::smooth_label(e.y[i], smoothing);
      to[i] = kSlope ? fl::bce_grad(e.p[i], e.q[i], y, on) : fl::bce(e.nlp[i], e.nlq[i], y, on);
    }
    return;
  }
  const T off = t.vector_length ? T(1) - on : T(1), gamma = static_cast<T>(t.gamma);
  const bool margin = t.margin && fl::is_float(w.y.dtype);
  T b[kPack], u[kPack], power[kPack];
#pragma unroll
  for (int i = 0; i < kPack; ++i) b[i] = fl::bce(e.nlp[i], e.nlq[i], e.y[i], T(1));
  if (margin) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) u[i] = fl::margin_miss(e.p[i], e.q[i], e.nlp[i], e.nlq[i], e.y[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kPack; ++i) u[i] = fl::focal_miss(e.p[i], e.q[i], e.y[i], b[i]);
  }
  if (t.gamma == 0.0 || t.gamma == 1.0 || t.gamma == 2.0) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) power[i] = t.gamma == 0.0 ? T(1) : (t.gamma == 1.0 ? u[i] : u[i] * u[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kPack; ++i) power[i] = fl::focal_power<fl::kPowerAny>(u[i], gamma);
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const T weighted = (on * e.y[i] + off * (T(1) - e.y[i])) * power[i];
    if (!kSlope) {
      to[i] = weighted * b[i];
      continue;
    }
    const T b_grad = fl::bce_grad(e.p[i], e.q[i], e.y[i], T(1));
    to[i] = margin ? weighted * fl::margin_slope(b[i], u[i], e.y[i], gamma, b_grad)
                   : weighted * b_grad * fl::focal_growth(b[i], u[i], T(1) - u[i], gamma);
  }
}

}  // namespace fl_cuda

// The pointwise terms of multiclass losses, as many as there are, by loops over a table in shared memory: on class ids
// they are one number per pixel, next to which a loop costs nothing.
#pragma once
#include "../../math/elements.h"
#include "../../math/topk.h"
#include "load.h"

namespace fl_old {

template <class T>
struct PointTerm {
  using Key = typename fl::KeyOf<T>::type;
  int index, form;      // form: 0 for cross-entropy, else 1 + FocalPower
  bool picks;           // top-k
  T gamma, scale, tie;  // scale: of the gradient
  T keep, spread;       // label smoothing
  Key threshold;

  // Calls f with the element's functions.
  template <class F>
  __device__ __forceinline__ void visit(const F& f) const {
    switch (form) {
      case 0:
        return f(fl::CeElement());
      case 1 + fl::kPower0:
        return f(fl::FocalTargetElement<fl::kPower0, T>{gamma});
      case 1 + fl::kPower1:
        return f(fl::FocalTargetElement<fl::kPower1, T>{gamma});
      case 1 + fl::kPower2:
        return f(fl::FocalTargetElement<fl::kPower2, T>{gamma});
      default:
        return f(fl::FocalTargetElement<fl::kPowerAny, T>{gamma});
    }
  }
  // What an element of this value counts in a top-k term.
  __device__ __forceinline__ T share(T value) const {
    if (!picks) return T(1);
    const Key key = fl::topk_key(value);
    return key > threshold ? T(1) : (key == threshold ? tie : T(0));
  }
};

// Lies in shared memory.
template <class T>
struct PointTerms {
  int count;
  bool region;
  PointTerm<T> term[fl::kMaxTerms];
};

__device__ inline int form_of(const fl::Term& t) {
  if (t.kind != fl::kFocal) return 0;
  if (t.gamma == 2.0) return 1 + fl::kPower2;
  if (t.gamma == 1.0) return 1 + fl::kPower1;
  return 1 + (t.gamma == 0.0 ? fl::kPower0 : fl::kPowerAny);
}

// By one thread. `row`: the cotangents of the sums of the first class, or null where the slopes are those of means over
// a known number of elements.
template <class T>
__device__ __noinline__ void fill_terms(const Params& p, const double* row, bool slopes, PointTerms<T>& terms) {
  int count = 0;
  terms.region = false;
  const double up = slopes ? upstream_of(p) : 0.0;
  for (int i = 0; i < p.spec.n_terms; ++i) {
    const fl::Term& t = p.spec.terms[i];
    if (t.kind == fl::kTversky) {
      terms.region = true;
      continue;
    }
    PointTerm<T>& out = terms.term[count++];
    out.index = i;
    out.form = form_of(t);
    out.gamma = static_cast<T>(t.gamma);
    out.keep = static_cast<T>(1.0 - t.label_smoothing);
    out.spread = static_cast<T>(t.label_smoothing / static_cast<double>(p.channels));
    out.picks = t.kind == fl::kTopk;
    const bool found = out.picks && (row || !p.selecting);  // else they are searched for in this launch
    const double* aux = found ? p.aux + i * fl::kAuxColumns : nullptr;
    out.threshold = found ? fl::topk_key(static_cast<T>(aux[fl::kThreshold])) : 0;
    out.tie = found ? static_cast<T>(aux[fl::kTieWeight]) : T(1);
    double scale = 0.0;
    if (slopes && row) scale = row[fl::kFixedSums + i];
    if (slopes && !row) scale = weight_of(p, i) * fl::pointwise_scale(t, found ? aux[fl::kDenominator] : p.known_valid);
    out.scale = static_cast<T>(up * scale);
  }
  terms.count = count;
}

// Sums of the terms, one slot per thread and term: [count, blockDim.x].
__device__ __forceinline__ void clear_points(double* points, int count) {
  for (int j = 0; j < count; ++j) points[j * blockDim.x + threadIdx.x] = 0.0;
}
// totals[j]: of all threads. A barrier must lie before; another one is needed after.
__device__ __forceinline__ void add_up_points(const double* points, int count, double* totals) {
  const int lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  for (int j = threadIdx.x / kWarp; j < count; j += warps) {
    double sum = 0.0;
    for (int t = lane; t < static_cast<int>(blockDim.x); t += kWarp) sum += points[j * blockDim.x + t];
    sum = warp_sum(sum);
    if (lane == 0) totals[j] = sum;
  }
}

// A warp adds up kCount numbers, a power of two up to 32, of each lane; lane l then holds in v[0] the sum of number
// l / (32 / kCount). Lanes swap halves of what they hold, so that it takes about kCount exchanges and not 5 kCount.
template <int kCount, int kDistance = kWarp / 2, int kSize, class T>
__device__ __forceinline__ void warp_sums(T (&v)[kSize]) {
  if constexpr (kCount > 1) {
    constexpr int kHalf = kCount / 2;
    const bool upper = threadIdx.x & kDistance;
#pragma unroll
    for (int k = 0; k < kHalf; ++k) {
      const T send = upper ? v[k] : v[k + kHalf], keep = upper ? v[k + kHalf] : v[k];
      v[k] = keep + __shfl_xor_sync(kAllLanes, send, kDistance);
    }
    if constexpr (kDistance > 1) warp_sums<kHalf, kDistance / 2>(v);
  } else {
    v[0] += __shfl_xor_sync(kAllLanes, v[0], kDistance);
    if constexpr (kDistance > 1) warp_sums<1, kDistance / 2>(v);
  }
}

}  // namespace fl_old

// Multiclass in full: any number of classes, any strides, dense targets, masks, pixel weights, every term and setting,
// statistics. The kernels of softmax_small_kernel.h are quicker where they apply. A softmax takes one read for the
// maximum and the sum, together, and a second one, from L1, for what is made of them.
#pragma once
#include "softmax_sums.h"

namespace fl_old {

template <class T>
struct AnyShared {
  PointTerms<T> terms;
  double totals[fl::kMaxTerms], valid[kMaxWarps + 1];
  // What each thread has found of its pixel
  T max[kPixelThreads], sum[kPixelThreads], dot[kPixelThreads];
  int arg[kPixelThreads];
};

// What the slices of a pixel have found, put together in their order.
template <class T>
__device__ __forceinline__ void join(Online<T>& o, int lanes, AnyShared<T>& s) {
  if (lanes == kPixelThreads) return;
  const int t = threadIdx.x;
  __syncthreads();
  s.max[t] = o.max, s.sum[t] = o.sum, s.dot[t] = o.dot, s.arg[t] = static_cast<int>(o.arg);
  __syncthreads();
  o = Online<T>();
  for (int k = t % lanes; k < kPixelThreads; k += lanes) {
    Online<T> other;
    other.max = s.max[k], other.sum = s.sum[k], other.dot = s.dot[k], other.arg = s.arg[k];
    o.add(other);
  }
}
template <class T>
__device__ __forceinline__ T join_sum(T v, int lanes, AnyShared<T>& s) {
  if (lanes == kPixelThreads) return v;
  __syncthreads();
  s.sum[threadIdx.x] = v;
  __syncthreads();
  T total = T(0);
  for (int k = threadIdx.x % lanes; k < kPixelThreads; k += lanes) total += s.sum[k];
  return total;
}

// Slopes of the sums, times the upstream gradient: [C][kSlopes] in shared memory, or straight from p.dsums.
constexpr int kSlopes = 4;
template <class T>
struct ClassSlopes {
  T* table;
  const double* row;
  double up;
  int columns;

  __device__ __forceinline__ T from_row(int64_t c, int k) const {
    const int column = k < 2 ? fl::kInter + k : (k == 2 ? fl::kPredSq : fl::kAbsDiff);
    return static_cast<T>((k == 2 ? 2.0 * up : up) * row[c * columns + column]);
  }
  __device__ __forceinline__ T operator()(int64_t c, int k) const {
    return table ? table[c * kSlopes + k] : from_row(c, k);
  }
  __device__ __forceinline__ void fill(int64_t channels) {
    for (int64_t i = threadIdx.x; table && i < channels * kSlopes; i += blockDim.x)
      table[i] = from_row(i / kSlopes, static_cast<int>(i % kSlopes));
  }
};

// With few classes the maximum is taken first, as in softmax_small.h, so that a pixel on the threshold of top-k has the
// same bits there and here: statistics take forward here, but not backward.
constexpr int kExactClasses = 16;

template <bool kDot, bool kArg, class T>
__device__ __forceinline__ void activate(const Params& p, Pixel<T>& x, int lanes, const ClassSlopes<T>* slopes,
                                         AnyShared<T>& s, int64_t& arg) {
  const int slice = threadIdx.x / lanes, slices = kPixelThreads / lanes;
  Online<T> o;
  if (p.channels <= kExactClasses) {
    each_chunk(p, slice, slices, [&](int64_t c, int count) {
      T v[kClassChunk];
      x.logits(c, count, v);
#pragma unroll
      for (int k = 0; k < kClassChunk; ++k)
        if (k < count && v[k] > o.max) o.max = v[k], o.arg = c + k;
    });
  }
  each_chunk(p, slice, slices, [&](int64_t c, int count) {
    T v[kClassChunk];
    x.logits(c, count, v);
#pragma unroll
    for (int k = 0; k < kClassChunk; ++k)
      if (k < count) o.template add<kDot, kArg>(v[k], kDot ? (*slopes)(c + k, 1) : T(0), c + k);
  });
  join(o, lanes, s);
  x.finish(o);
  x.dot = o.dot * x.inv;
  arg = o.arg;
}

// Adds a warp's pixels to the sums of all classes of its slice.
template <bool kGeneral, class T>
__device__ __forceinline__ void add_classes(const Params& p, const Pixel<T>& x, int lanes, bool extra,
                                            const ClassSlots& slots) {
  const int slice = threadIdx.x / lanes, slices = kPixelThreads / lanes;
  const int warp = threadIdx.x % lanes / kWarp, lane = threadIdx.x % kWarp;
  constexpr int kShare = kWarp / kClassChunk;
  each_chunk(p, slice, slices, [&](int64_t c, int count) {
    T v[kClassChunk], pred[kClassChunk], work[kClassChunk];
    x.logits(c, count, v);
    const auto put = [&](int column) {
      warp_sums<kClassChunk>(work);
      if (lane % kShare == 0 && lane / kShare < count)
        slots.at(warp, c + lane / kShare, column) += static_cast<double>(work[0]);
    };
#pragma unroll
    for (int k = 0; k < kClassChunk; ++k)
      work[k] = pred[k] = x.valid && k < count ? x.probability(x.shift(v[k])) : T(0);
    put(fl::kPred);
    if constexpr (kGeneral) {
      if (p.ids && !extra) return;
#pragma unroll
      for (int k = 0; k < kClassChunk; ++k) v[k] = k < count ? x.label(c + k) : T(0);
      const auto put_all = [&](int column, const auto& f) {
#pragma unroll
        for (int k = 0; k < kClassChunk; ++k) work[k] = f(pred[k], v[k]);
        put(column);
      };
      if (!p.ids) {
        put_all(fl::kInter, [](T a, T b) { return a * b; });
        put_all(fl::kTarget, [](T, T b) { return b; });
      }
      if (!extra) return;
      if (!p.ids) put_all(fl::kTargetSq, [](T, T b) { return b * b; });
      put_all(fl::kPredSq, [](T a, T) { return a * a; });
      put_all(fl::kAbsDiff, [](T a, T b) { return fl::abs_(a - b); });
    }
  });
}

// By the target's class: only that one has a share in these sums.
template <class T>
__device__ __forceinline__ void add_targets(const Pixel<T>& x, int lanes, const ClassSlots& slots) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (static_cast<int>(threadIdx.x) >= lanes) return;  // the first slice only
  each_id(x.id, [&](int c, unsigned same) {
    const T inter = warp_sum(x.id == c ? x.target_p : T(0));
    if (lane != 0) return;
    slots.at(warp, c, fl::kInter) += static_cast<double>(inter);
    slots.at(warp, c, fl::kTarget) += __popc(same);
  });
}
template <class T>
__device__ __forceinline__ void count_pixel(const Params& p, const Pixel<T>& x, int64_t arg, int lanes,
                                            const ClassSlots& slots) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (static_cast<int>(threadIdx.x) >= lanes) return;
  int truth = x.id;
  if (!p.ids && x.valid) {
    T most = x.label(0);
    truth = 0;
    for (int64_t c = 1; c < p.channels; ++c) {
      const T y = x.label(c);
      if (y > most) most = y, truth = static_cast<int>(c);
    }
  }
  const int said = x.valid ? static_cast<int>(arg) : -1, right = said == truth ? said : -1;
  const int more = p.cached ? 0 : sum_columns(p) - kSaid;  // in a record they lie behind the terms
  const auto put = [&](int id, int column) {
    each_id(id, [&](int c, unsigned same) {
      if (lane == 0) slots.at(warp, c, column + more) += __popc(same);
    });
  };
  put(said, kSaid), put(truth, kTruth), put(right, kRight);
}

}  // namespace fl_old

// Top-k in the kernel of softmax_small.h: the keys of the pixels stay with the threads that made them, and all blocks
// find the thresholds together, between barriers of the grid.
#pragma once
#include "softmax_small_tiles.h"
#include "topk.h"

namespace fl_old {

constexpr int64_t kSelectBytes = (sizeof(DigitCounter<float>) + sizeof(Found) + 15) / 16 * 16;

// What orders the pixels: their cross-entropy. 0 where they do not count.
template <int kC>
__device__ __forceinline__ Vector<uint32_t, kSmallWidth<kC>> keys_of(const SmallShared<kC>& s,
                                                                     const SmallSoftmax<kC>& a) {
  int j = 0;
  while (!s.terms.term[j].picks) ++j;  // all terms of top-k order the pixels alike
  Vector<uint32_t, kSmallWidth<kC>> key;
#pragma unroll
  for (int i = 0; i < kSmallWidth<kC>; ++i) {
    const float value = fl::ce(a.nll[i], s.weight[j][a.id[i] < 0 ? 0 : a.id[i]]);
    key.x[i] = a.id[i] < 0 ? 0 : fl::topk_key(value);
  }
  return key;
}

template <int kV>
__device__ __forceinline__ void count_keys(DigitCounter<float>& counter, const Vector<uint32_t, kV>& key) {
#pragma unroll
  for (int i = 0; i < kV; ++i)
    if (key.x[i]) counter.count(key.x[i]);
}

// By one thread.
inline __device__ __noinline__ void set_threshold(const Params& p, PointTerm<float>& t, const Pick<float>& pick) {
  t.threshold = pick.threshold(), t.tie = static_cast<float>(pick.tie());
  const double scale =
      weight_of(p, t.index) * fl::pointwise_scale(p.spec.terms[t.index], static_cast<double>(pick.top));
  t.scale = p.at_once ? static_cast<float>(upstream_of(p) * scale) : 0.0f;
  if (blockIdx.x == 0) store_pick(p, t.index, pick);
}

// The thresholds of all terms, for this block in `s`. The counter holds the first digits of all keys.
template <class X, int kC>
__device__ __forceinline__ void select(const Params& p, SmallShared<kC>& s, DigitCounter<float>& counter, Found& found,
                                       const SmallTiles<X, kC>& tiles) {
  grid_barrier();  // the histograms are empty
  counter.flush(p.histogram);
  grid_barrier();
  unsigned long long* further = p.histogram;
#pragma unroll 1
  for (int j = 0; j < s.terms.count; ++j) {
    PointTerm<float>& t = s.terms.term[j];
    if (!t.picks) continue;
    const Pick<float> pick = find_threshold<float, kSomeThreads>(
        p.spec.terms[t.index], p.histogram, further, counter, found,
        [&] { tiles.each_key([&](const auto& key) { count_keys(counter, key); }); });
    if (threadIdx.x == 0) set_threshold(p, t, pick);
  }
  __syncthreads();
}

// The sums of the top-k terms: a key holds the value of its pixel.
template <class X, int kC>
__device__ __forceinline__ void add_picked(const SmallShared<kC>& s, const SmallTiles<X, kC>& tiles) {
#pragma unroll 1
  for (int j = 0; j < s.terms.count; ++j) {
    const PointTerm<float>& t = s.terms.term[j];
    if (!t.picks) continue;
    double sum = 0.0;
    tiles.each_key([&](const auto& key) {
      float total = 0.0f;
#pragma unroll
      for (int i = 0; i < kSmallWidth<kC>; ++i) {
        const float value = key.x[i] ? fl::topk_value<float>(key.x[i]) : 0.0f;
        const float share = key.x[i] ? t.share(value) : 0.0f;
        total += share != 0.0f ? share * value : 0.0f;
      }
      sum += static_cast<double>(total);
    });
    tiles.points[j * blockDim.x + threadIdx.x] = sum;
  }
}

}  // namespace fl_old

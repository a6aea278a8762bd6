// Top-k of multiclass losses. The first digit is counted while the keys are made, further ones are read from the keys
// alone.
#pragma once
#include "../topk.h"
#include "sums.h"
#include "terms.h"

namespace fl_cuda {

// Calls f(key) for the block's pixels that take part.
template <int kV, class T, class F>
__device__ __forceinline__ void each_key(const Work& w, const Launch& l, const Plan& p, const F& f) {
  using Key = typename fl::KeyOf<T>::type;
  const Turns turns(w, l, p);
  if (threadIdx.x / kWarp % p.slices != 0) return;
#pragma unroll 1
  for (uint32_t turn = 0; turn < turns.count; ++turn) {
    if (!turns.there(turn)) continue;
    const Unit u = unit_of<kV>(w, l, turns.sample, turns.unit(turn));
    const Key* keys = static_cast<const Key*>(p.keys) + u.sample * p.key_sample + u.at;
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      const Key key = i < u.count ? keys[i] : 0;
      if (key) f(key);
    }
  }
}

// After the first digits are counted: step 0 hands them over, each further one takes the digit of a level off the
// histograms and counts the next; the last one has the thresholds and adds up what lies above them.
template <int kV, class T>
__device__ __noinline__ void select(const Work& w, const Launch& l, const Plan& p, PointTerm<T>* terms,
                                    Selection<T>& s) {
  __shared__ double scratch[kMaxWarps];
  int known = 0;
#pragma unroll 1
  for (int step = p.first; step <= p.last; ++step) {
    if (l.finishes) grid_barrier();  // first: the histograms are empty
    if (step == 0) {
      s.flush(histogram_of<T>(w, 0, 0));
      continue;
    }
    int nth = 0;
#pragma unroll 1
    for (int j = 0; j < p.terms; ++j) {
      PointTerm<T>& t = terms[j];
      if (!t.picks) continue;
#pragma unroll 1
      for (int level = known; level < step; ++level)
        s.advance(histogram_of<T>(w, nth, level), nth, level, w.spec.terms[t.index]);
      const auto& pick = s.picks[nth];
      if (step < kLevels<T>) {
        if (pick.top > 0) each_key<kV, T>(w, l, p, [&](auto key) { s.count(key, nth, step); });
        s.flush(histogram_of<T>(w, nth, step));
      } else {
        if (threadIdx.x == 0) {
          t.threshold = pick.top ? pick.prefix : fl::topk_key(T(0)), t.tie = static_cast<T>(pick.tie_weight());
          if (blockIdx.x == 0) s.store(w, nth, t.index);
        }
        __syncthreads();
        double sum = 0.0;
        each_key<kV, T>(w, l, p, [&](auto key) {
          const T value = fl::topk_value<T>(key), share = t.share(value);
          if (share != T(0)) sum += static_cast<double>(share * value);
        });
        sum = block_sum(sum, scratch);
        if (threadIdx.x == 0)
          *partial_at(w, l, w.slots.at(w.slots.column[fl::kFixedSums + t.index], w.channels, 0)) = sum;
      }
      ++nth;
    }
    known = step;
  }
}

}  // namespace fl_cuda

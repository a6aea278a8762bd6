// What a block adds up. Threads add in float, in rows of their own in shared memory or in registers; now and then a
// warp adds up each row, in a fixed order, in double.
#pragma once
#include "terms.h"

namespace fl_cuda {

// The numbers that the block leaves (Slots::at), in shared memory, or already in their place where they are too many.
struct BlockSums {
  double* base;
  int64_t step;
  int count;
  __device__ __forceinline__ BlockSums(const Work& w, const Launch& l, const Plan& p, unsigned char* memory)
      : base(p.in_shared ? shared_at<double>(memory, p.sums) : partial_at(w, l, 0)),
        step(p.in_shared ? 1 : w.parts * l.blocks),
        count(partials_of(w)) {}
  __device__ __forceinline__ double& at(int i) const { return base[i * step]; }
  __device__ __forceinline__ void clear() const {
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += blockDim.x) at(i) = 0.0;
  }
};

// Adds value(k, thread) of all threads that have class slice * share + k to number `slot` of each class.
template <class F>
__device__ __forceinline__ void add_rows(const Work& w, const Plan& p, const BlockSums& sums, int slot,
                                         const F& value) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  const int channels = static_cast<int>(w.channels);
#pragma unroll 1
  for (int c = warp; c < channels; c += warps) {
    const int slice = c / p.share, k = c - slice * p.share;
    double sum = 0.0;
#pragma unroll 1
    for (int other = slice; other < warps; other += p.slices) sum += value(k, other * kWarp + lane);
    sum = warp_sum(sum);
    if (lane == 0) sums.at(w.slots.at(slot, channels, c)) += sum;
  }
}

// Numbers of each thread that belong to no class: the pointwise terms, then the pixels that count. [terms + 1][thread]
template <class T>
struct Points {
  T* base;
  int count;
  __device__ __forceinline__ Points(const Plan& p, unsigned char* memory)
      : base(shared_at<T>(memory, p.points)), count(p.terms + 1) {}
  __device__ __forceinline__ T& at(int j) const { return base[j * blockDim.x + threadIdx.x]; }
  __device__ __forceinline__ T& valid() const { return at(count - 1); }
  __device__ __forceinline__ void clear() const {
#pragma unroll 1
    for (int j = 0; j < count; ++j) at(j) = T(0);
  }
};

template <class T>
__device__ __forceinline__ void add_points(const Work& w, const BlockSums& sums, const Points<T>& points,
                                           const PointTerm<T>* terms) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
#pragma unroll 1
  for (int j = warp; j < points.count; j += warps) {
    double sum = 0.0;
#pragma unroll 1
    for (int t = lane; t < static_cast<int>(blockDim.x); t += kWarp) sum += points.base[j * blockDim.x + t];
    sum = warp_sum(sum);
    const int column = j == points.count - 1 ? fl::kValid : fl::kFixedSums + terms[j].index;
    if (lane == 0 && w.slots.column[column] >= 0) sums.at(w.slots.at(w.slots.column[column], w.channels, 0)) += sum;
  }
}

// What the statistics have counted of each class, [class of the thread][thread]: pixels of it, said to be it, both.
struct Seen {
  uint32_t* base;
  int share;
  __device__ __forceinline__ Seen(const Plan& p, unsigned char* memory)
      : base(shared_at<uint32_t>(memory, p.seen)), share(p.share) {}
  __device__ __forceinline__ uint32_t& row(int what, int k) const {
    return base[(what * share + k) * blockDim.x + threadIdx.x];
  }
  __device__ __forceinline__ void clear() const {
#pragma unroll 1
    for (int k = 0; k < 3 * share; ++k) row(0, k) = 0;
  }
  // k of a class, as far as it is one of this thread's.
  __device__ __forceinline__ void count(int truth, int said) const {
    if (truth >= 0 && truth < share) ++row(0, truth);
    if (said >= 0 && said < share) ++row(1, said);
    if (truth >= 0 && truth < share && said == truth) ++row(2, truth);
  }
  __device__ __forceinline__ void flush(const Work& w, const Plan& p, const BlockSums& sums) const {
#pragma unroll 1
    for (int what = 0; what < 3; ++what)
      add_rows(w, p, sums, w.slots.counts + what,
               [&](int k, int t) { return static_cast<double>(base[(what * share + k) * blockDim.x + t]); });
  }
};

// The same where no thread has rows of its own: each class is one warp's. id, said: -1 where there is none.
__device__ inline void count_far(const Work& w, const BlockSums& sums, const Slice& s, int id, int said) {
#pragma unroll 1
  for (int d = 0; d < kWarp; ++d) {
    const int truth = __shfl_sync(kAllLanes, id, d), guess = __shfl_sync(kAllLanes, said, d);
    const auto put = [&](int what, int c) {
      if (c >= s.first && c < s.first + s.count) sums.at(w.slots.at(w.slots.counts + what, w.channels, c)) += 1.0;
    };
    if (threadIdx.x % kWarp != 0) continue;
    put(0, truth), put(1, guess);
    if (truth == guess) put(2, truth);
  }
}

// The partial sums from those of the block. hard: a label is 0 or 1.
__device__ inline void leave_sums(const Work& w, const Launch& l, const BlockSums& sums, bool in_shared, bool hard,
                                  bool bad) {
  const auto number = [&](int slot, int64_t c) -> double& { return sums.at(w.slots.at(slot, w.channels, c)); };
  const int8_t* column = w.slots.column;
#pragma unroll 1
  for (int64_t c = threadIdx.x; c < w.channels; c += blockDim.x) {
    if (hard && column[fl::kTargetSq] >= 0) number(column[fl::kTargetSq], c) = number(column[fl::kTarget], c);
    if (hard && column[fl::kAbsDiff] >= 0)
      number(column[fl::kAbsDiff], c) =
          number(column[fl::kPred], c) - 2.0 * number(column[fl::kInter], c) + number(column[fl::kTarget], c);
    if (w.slots.counts < 0) continue;
    const double truth = number(w.slots.counts, c), said = number(w.slots.counts + 1, c),
                 both = number(w.slots.counts + 2, c);
    number(w.slots.counts, c) = both, number(w.slots.counts + 1, c) = said - both;
    number(w.slots.counts + 2, c) = truth - both;
    number(w.slots.counts + 3, c) = number(column[fl::kValid], 0) - said - truth + both;
  }
  if (threadIdx.x == 0) number(w.slots.bad, 0) = bad ? 1.0 : 0.0;
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x; in_shared && i < sums.count; i += blockDim.x) *partial_at(w, l, i) = sums.at(i);
}

}  // namespace fl_cuda

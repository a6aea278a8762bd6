// The two loops over pixels of fast.h: the sums, and the gradient.
#pragma once
#include "fast.h"

namespace fl_cuda {

// The sums by class since the last flush, in shared memory: of p and of the target's p, [warp][2][class of it][lane],
// and how many pixels each class has, of the block.
struct ClassSums {
  float* rows;
  uint32_t* pixels;
  int share;
  __device__ __forceinline__ ClassSums(const Work& w, const Plan& p, unsigned char* memory)
      : rows(shared_at<float>(memory, p.rows)), pixels(shared_at<uint32_t>(memory, p.pixels)), share(p.share) {}
  __device__ __forceinline__ float& at(int what, int k, int t) const {
    return rows[((t / kWarp * 2 + what) * share + k) * kWarp + t % kWarp];
  }
  __device__ __forceinline__ float& pred(int k) const { return at(0, k, threadIdx.x); }
  __device__ __forceinline__ float& inter(int k) const { return at(1, k, threadIdx.x); }
  // By the block, which meets after it.
  __device__ __forceinline__ void clear(const Work& w, const Plan& p) const {
#pragma unroll 1
    for (int k = 0; p.region && k < 2 * share; ++k) pred(k) = 0.0f;
#pragma unroll 1
    for (int c = threadIdx.x; p.slots && c < w.channels; c += blockDim.x) pixels[c] = 0;
    __syncthreads();
  }
  template <class X>
  __device__ __forceinline__ void add(const Fast<X>& a) const {
    const Plan& p = a.p;
    if (p.region)
      each_row(a.s, [&](int k, auto n) {
#pragma unroll
        for (int j = 0; j < n.count; ++j) {
          const typename Fast<X>::Row e = a.tile.row(a.s.first + k + j);
          float sum = pred(k + j);
#pragma unroll
          for (int i = 0; i < Fast<X>::kV; ++i) sum = fl::fma_(e.x[i], a.inv[i], sum);
          pred(k + j) = sum;
        }
      });
    if (!p.slots) return;
#pragma unroll
    for (int i = 0; i < Fast<X>::kV; ++i) {
      const int k = a.id[i] - a.s.first;
      if (k < 0 || k >= a.s.count) continue;
      if (p.region) inter(k) += a.own[i];
      atomicAdd(&pixels[a.id[i]], 1u);
    }
  }
};

// By the block, now and then: what the threads have added up goes to the block's sums.
static __device__ __noinline__ void flush_sums(const Work& w, const Launch& l, const Plan& p, unsigned char* memory,
                                               const PointTerm<float>* terms) {
  const BlockSums block(w, l, p, memory);
  const ClassSums sums(w, p, memory);
  const Points<float> points(p, memory);
  const Seen seen(p, memory);
  const bool classes = l.phase != kBothPhases;
  __syncthreads();
  if (classes && p.region)
#pragma unroll 1
    for (int what = 0; what < 2; ++what)
      add_rows(w, p, block, w.slots.column[what ? fl::kInter : fl::kPred],
               [&](int k, int t) { return static_cast<double>(sums.at(what, k, t)); });
  if (classes && p.slots)
#pragma unroll 1
    for (int c = threadIdx.x; c < w.channels; c += blockDim.x)
      block.at(w.slots.at(w.slots.column[fl::kTarget], w.channels, c)) += static_cast<double>(sums.pixels[c]);
  add_points(w, block, points, terms);
  if (classes && w.counting) seen.flush(w, p, block);
  __syncthreads();
  points.clear();
  if (classes && w.counting) seen.clear();
  if (classes) sums.clear(w, p);
}

// Whether a label is bad.
template <class X>
__device__ __forceinline__ bool add_sums(Fast<X>& a) {
  const Work& w = a.w;
  const Launch& l = a.l;
  const Plan& p = a.p;
  const ClassSums sums(w, p, a.memory);
  const float* smoothed = p.smooth < 0 ? nullptr : a.tables.weights(p.smooth);
  a.points.clear();
  if (w.counting) a.seen.clear();
  sums.clear(w, p);
  const uint32_t end = p.slices == 1 ? a.turns.own() : a.turns.count, stride = a.turns.blocks * a.turns.groups;
#pragma unroll 1
  for (uint32_t flushes = 0; flushes < a.turns.count; flushes += kFlushSteps) {
    Cursor at(l, a.turns.sample, a.turns.unit(flushes));
#pragma unroll 1
    for (uint32_t turn = flushes; turn < end && turn < flushes + kFlushSteps; ++turn, at.go_on(l, stride)) {
      a.begin(turn, at);
      a.template load<false>(smoothed);
      if (a.keeps(turn) && a.first) a.keep();
      float value[Fast<X>::kV], slope[Fast<X>::kV];
      a.template add_terms<false>(true, value, slope);
      a.keep_values(value);
      sums.add(a);
      if (w.counting)
#pragma unroll
        for (int i = 0; i < Fast<X>::kV; ++i)
          if (a.id[i] >= 0) a.seen.count(a.id[i] - a.s.first, a.said[i] - a.s.first);
      a.count_valid();
    }
    flush_sums(w, l, p, a.memory, a.terms);
  }
  return a.bad;
}

// Last turn first: it is nearest. kBothPhases: the pointwise terms' sums are made on the way. Whether a label is bad.
template <class X>
__device__ __forceinline__ bool add_gradient(Fast<X>& a, float flats) {
  const Launch& l = a.l;
  const Plan& p = a.p;
  const bool values = l.phase == kBothPhases;
  if (values) a.points.clear();
  const uint32_t count = a.turns.count, own = p.slices == 1 ? a.turns.own() : count;
  const uint32_t stride = a.turns.blocks * a.turns.groups;
#pragma unroll 1
  for (uint32_t end = (count + kFlushSteps - 1) / kFlushSteps * kFlushSteps; end > 0; end -= kFlushSteps) {
    uint32_t turn = own < end ? own : end;
    const uint32_t begin = end - kFlushSteps;
    if (turn > begin) {
      Cursor at(l, a.turns.sample, a.turns.unit(turn - 1));
#pragma unroll 1
      for (; turn > begin; --turn, at.go_back(l, stride)) {
        a.begin(turn - 1, at);
        if (a.keeps(turn - 1) && l.phase == kAllPhases)
          a.recall(a.tables.pred());
        else
          a.template load<true>(a.tables.pred());
        float value[Fast<X>::kV], slope[Fast<X>::kV];
        a.template add_terms<true>(values, value, slope);
        a.store_gradient(slope, flats);
        if (values) a.count_valid();
      }
    }
    if (values) flush_sums(a.w, l, p, a.memory, a.terms);
  }
  return a.bad;
}

}  // namespace fl_cuda

// The two loops over pixels of fast.h: the sums, and the gradient.
#pragma once
#include "fast.h"
#include "select.h"

namespace fl_cuda {

// The sums by class since the last flush: of p in registers; by the target's class, of its p and of 1, in shared
// memory, [class of the thread][thread], where an index may be what it likes.
template <class F>
struct ClassSums {
  float pred[F::kK];
  uint2* slots;  // a float and a number
  __device__ __forceinline__ ClassSums(const Plan& p, unsigned char* memory)
      : slots(shared_at<uint2>(memory, p.rows)) {}
  __device__ __forceinline__ uint2& slot(int k) const { return slots[k * blockDim.x + threadIdx.x]; }
  __device__ __forceinline__ void clear(const Plan& p) {
    reset();
#pragma unroll 1
    for (int k = 0; p.slots && k < p.share; ++k) slot(k) = uint2{0, 0};
  }
  __device__ __forceinline__ void add(const Plan& p, const Slice& s, const Pixels<F>& a) {
    if (p.region) Pixels<F>::each(s, [&](int k, int i) { pred[k] = fl::fma_(a.e[k][i], a.inv[i], pred[k]); });
    if (!p.slots) return;
#pragma unroll
    for (int i = 0; i < F::kV; ++i) {
      const int k = a.id[i] - s.first;
      if (k < 0 || k >= s.count) continue;
      uint2& own = slot(k);
      uint2 v = own;
      v.x = fl::bit_cast<uint32_t>(fl::bit_cast<float>(v.x) + a.own[i]), ++v.y;
      own = v;
    }
  }
  __device__ __forceinline__ void reset() {
#pragma unroll
    for (int k = 0; k < F::kK; ++k) pred[k] = 0.0f;
  }
};

// The pointwise terms: their values into the thread's points, what they pull at log p_t into `slope`. picked: the terms
// of top-k are left out of the values, whose thresholds are not known yet.
template <bool kGrad, class F>
__device__ __forceinline__ void add_terms(const Plan& p, const PointTerm<float>* terms, const Tables<float>& tables,
                                          const Pixels<F>& a, bool values, float* value_of, const Points<float>& points,
                                          float (&slope)[F::kV]) {
  constexpr int kV = F::kV;
  float miss[kV];
  const bool first = threadIdx.x / kWarp % p.slices == 0;
#pragma unroll
  for (int i = 0; i < kV; ++i) slope[i] = 0.0f, miss[i] = fl::relu(1.0f - a.own[i]);
#pragma unroll 1
  for (int j = 0; j < p.terms; ++j) {
    const PointTerm<float>& t = terms[j];
    const float* weights = tables.weights(j);
    t.visit([&](const auto& element) {
      float total = 0.0f;
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        const float w = weights[a.id[i] < 0 ? 0 : a.id[i]];
        float share = a.weight[i], value = 0.0f;
        if (values || t.picks) {
          value = element.value(a.nll[i], miss[i], w);
          if (!kGrad && j == p.smooth)
            value = fl::fma_(t.keep, value, t.spread * fl::fma_(t.all, a.log_sum[i], a.more[i]));
          value = share != 0.0f ? value * share : 0.0f;
          if (kGrad) share *= t.share(value);
          total += value;
        }
        if (!kGrad && (t.picks || p.terms == 1)) value_of[i] = value;
        if (kGrad) slope[i] = fl::fma_(share * t.scale * t.keep, element.slope(a.nll[i], miss[i], w), slope[i]);
      }
      if (values && first && !t.picks) points.at(j) += total;
    });
  }
}

// One key a pixel, by the thread that has the first of its classes.
template <class F>
__device__ __forceinline__ void keep_keys(const Plan& p, const Pixels<F>& a, const float (&value)[F::kV],
                                          Selection<float>& selection) {
  uint32_t* keys = static_cast<uint32_t*>(p.keys) + a.unit.sample * p.key_sample + a.unit.at;
#pragma unroll
  for (int i = 0; i < F::kV; ++i) {
    const uint32_t key = a.id[i] < 0 ? 0 : fl::topk_key(value[i]);
    if (i < a.unit.count) keys[i] = key;
    if (key) selection.count(key, 0, 0);
  }
}

// The loops over pixels take turns of vectors. One whose pixels are not leaves the loop, is brought to the stage, and
// comes back: so that the loops hold no code for it, and no call.
template <class F>
struct Loop {
  const Work& w;
  const Launch& l;
  const Plan& p;
  unsigned char* memory;
  const PointTerm<float>* terms;
  const Tables<float>& tables;
  const Turns turns;
  const Slice s;
  const Kept<F> kept;
  const Points<float> points;
  const bool first;            // whether the thread has the first classes of its pixels
  const uint32_t own, stride;  // turns of the warp's group, from unit to unit
  uint32_t staged = UINT32_MAX;
  bool bad = false;

  __device__ __forceinline__ Loop(const Work& work, const Launch& launch, const Plan& plan, unsigned char* m,
                                  const PointTerm<float>* t, const Tables<float>& tab)
      : w(work),
        l(launch),
        p(plan),
        memory(m),
        terms(t),
        tables(tab),
        turns(work, launch, plan),
        s(work, plan),
        kept(plan, m),
        points(plan, m),
        first(threadIdx.x / kWarp % plan.slices == 0),
        own(turns.own()),
        stride(turns.blocks * turns.groups) {}

  // Of the units of the warp's group.
  __device__ __forceinline__ Cursor cursor(uint32_t turn) const { return Cursor(l, turns.sample, turns.unit(turn)); }
  __device__ __forceinline__ Unit unit(const Cursor& c, uint32_t turn) const {
    return F::kSliced && turn >= own ? Unit{0, 0, 0, false} : c.unit<F::kV>(w);
  }
  // Whether the turn's pixels can be read.
  __device__ __forceinline__ bool ready(const Unit& u, uint32_t turn) const {
    return (p.vectors && u.whole) || turn == staged;
  }
  __device__ __forceinline__ void bring(uint32_t turn) {
    if (gather<F>(w, p, memory, unit(cursor(turn), turn))) bad = true;
    staged = turn;
  }
  __device__ __forceinline__ uint32_t keeps(uint32_t turn) const { return turn < static_cast<uint32_t>(l.kept); }

  __device__ __forceinline__ void sums(uint32_t turn, Pixels<F>& a, ClassSums<F>& sum, const Seen& seen,
                                       const float* smoothed) {
    a.load(w, p, s, kept, turn == staged ? Pixels<F>::kStage : Pixels<F>::kFar, turn, bad);
    if (keeps(turn) && turn != staged) {
      unsigned char* to = kept.at(turn);
      a.store_rows(s, {Kept<F>::rows(to), Kept<F>::step()});
#pragma unroll
      for (int i = 0; i < F::kV; ++i) kept.classes(to).x[i] = static_cast<int16_t>(a.id[i]);
    }
    a.template set<false>(w, p, s, memory, smoothed);
    float value[F::kV], slope[F::kV];
    add_terms<false>(p, terms, tables, a, true, value, points, slope);
    if (first && p.picks) keep_keys(p, a, value, *shared_at<Selection<float>>(memory, p.digits));
    if (first && l.phase == kValuePhase) {
      float* to = static_cast<float*>(w.out.data) + a.unit.sample * w.out.sample;
#pragma unroll
      for (int i = 0; i < F::kV; ++i)
        if (i < a.unit.count) to[offset_of(w, p, w.out, p.out, a.unit.at + i)] = a.id[i] == kBad ? NAN : value[i];
    }
    sum.add(p, s, a);
    if (w.counting)
#pragma unroll
      for (int i = 0; i < F::kV; ++i)
        if (a.id[i] >= 0) seen.count(a.id[i] - s.first, a.said[i] - s.first);
    count(a);
  }
  __device__ __forceinline__ void count(const Pixels<F>& a) const {
    int valid = 0;
#pragma unroll
    for (int i = 0; i < F::kV; ++i) valid += a.id[i] >= 0;
    if (first) points.valid() += static_cast<float>(valid);
  }
  __device__ __forceinline__ void gradient(uint32_t turn, Pixels<F>& a, bool values, float flats) {
    const typename Pixels<F>::Where near = keeps(turn) ? Pixels<F>::kNear : Pixels<F>::kFar;
    a.load(w, p, s, kept, turn == staged ? Pixels<F>::kStage : near, turn, bad);
    a.template set<true>(w, p, s, memory, tables.pred());
    float value[F::kV], slope[F::kV];
    add_terms<true>(p, terms, tables, a, values, value, points, slope);
    a.gradient(p, s, tables, slope, flats);
    using From = typename Pixels<F>::From;
    a.store_rows(s, turn == staged ? From{Kept<F>::rows(kept.stage()), Kept<F>::step()} : a.far(w.out, s, a.unit));
    if (values) count(a);
  }
};

// By the block, now and then: what the threads have added up goes to the block's sums. First the numbers of the
// target's classes, then what the threads have put in their place, the sums of p.
template <class T>
__device__ __noinline__ void flush(const Work& w, const Launch& l, const Plan& p, unsigned char* memory,
                                   const PointTerm<T>* terms, bool again) {
  const BlockSums block(w, l, p, memory);
  uint2* slots = shared_at<uint2>(memory, p.rows);
  __syncthreads();
  if (p.slots) {
#pragma unroll 1
    for (int c = again ? fl::kPred : fl::kInter; c <= (again ? fl::kPred : fl::kTarget); c += 2) {
      if (w.slots.column[c] >= 0)
        add_rows(w, p, block, w.slots.column[c], [&](int k, int t) {
          const uint2 v = slots[k * blockDim.x + t];
          return c == fl::kTarget ? static_cast<double>(v.y) : static_cast<double>(fl::bit_cast<float>(v.x));
        });
    }
    __syncthreads();
#pragma unroll 1
    for (int k = 0; k < p.share; ++k) slots[k * blockDim.x + threadIdx.x] = uint2{0, 0};
  }
  if (again) return;
  const Points<T> points(p, memory);
  const Seen seen(p, memory);
  add_points(w, block, points, terms);
  if (w.counting) seen.flush(w, p, block);
  __syncthreads();
  points.clear();
  if (w.counting) seen.clear();
}

template <class T>
__device__ __noinline__ void flush_points(const Work& w, const Launch& l, const Plan& p, unsigned char* memory,
                                          const PointTerm<T>* terms) {
  const Points<T> points(p, memory);
  __syncthreads();
  add_points(w, BlockSums(w, l, p, memory), points, terms);
  __syncthreads();
  points.clear();
}

// Whether a label is bad.
template <class F>
__device__ __forceinline__ bool add_sums(const Work& w, const Launch& l, const Plan& p, unsigned char* memory,
                                         const PointTerm<float>* terms, const Tables<float>& tables) {
  Loop<F> loop(w, l, p, memory, terms, tables);
  const Seen seen(p, memory);
  const float* smoothed = p.smooth < 0 ? nullptr : tables.weights(p.smooth);
  ClassSums<F> sums(p, memory);
  sums.clear(p), loop.points.clear();
  if (w.counting) seen.clear();
  uint32_t turn = 0;
#pragma unroll 1
  for (uint32_t begin = 0; begin < loop.turns.count; begin += kFlushSteps) {
    const uint32_t own = F::kSliced ? loop.turns.count : loop.own;
    const uint32_t end = own < begin + kFlushSteps ? own : begin + kFlushSteps;
#pragma unroll 1
    while (turn < end) {
      Cursor at = loop.cursor(turn);
#pragma unroll 1
      for (; turn < end; ++turn, at.go_on(l, loop.stride)) {
        Pixels<F> a;
        a.unit = loop.unit(at, turn);
        if (!loop.ready(a.unit, turn)) break;
        loop.sums(turn, a, sums, seen, smoothed);
      }
      if (turn < end) loop.bring(turn);
    }
    turn = begin + kFlushSteps;
    flush(w, l, p, memory, terms, false);
    if (!p.region) continue;
#pragma unroll
    for (int k = 0; k < F::kK; ++k)
      if (k < loop.s.count) sums.slot(k).x = fl::bit_cast<uint32_t>(sums.pred[k]);
    flush(w, l, p, memory, terms, true);
    sums.reset();
  }
  return loop.bad;
}

// values: the pointwise terms' sums are made on the way (kBothPhases). Whether a label is bad.
template <class F>
__device__ __forceinline__ bool add_gradient(const Work& w, const Launch& l, const Plan& p, unsigned char* memory,
                                             const PointTerm<float>* terms, const Tables<float>& tables, float flats) {
  Loop<F> loop(w, l, p, memory, terms, tables);
  const bool values = l.phase == kBothPhases;
  if (values) loop.points.clear();
  const uint32_t own = F::kSliced ? loop.turns.count : loop.own, count = loop.turns.count;
#pragma unroll 1
  for (uint32_t end = (count + kFlushSteps - 1) / kFlushSteps * kFlushSteps; end > 0; end -= kFlushSteps) {
    const uint32_t begin = end - kFlushSteps;
    uint32_t turn = own < end ? own : end;
#pragma unroll 1
    while (turn > begin && turn <= own) {
      bool far = false;
      Cursor at = loop.cursor(turn - 1);
#pragma unroll 1
      while (turn > begin && !far) {
        Pixels<F> a;
        a.unit = loop.unit(at, turn - 1);
        if (!loop.ready(a.unit, turn - 1)) break;
        far = turn - 1 == loop.staged;
        loop.gradient(turn - 1, a, values, flats);
        --turn, at.go_back(l, loop.stride);
      }
      if (far)
        scatter<F>(w, p, memory, loop.unit(loop.cursor(turn), turn)), loop.staged = UINT32_MAX;
      else if (turn > begin)
        loop.bring(turn - 1);
    }
    if (values) flush_points(w, l, p, memory, terms);
  }
  return loop.bad;
}

}  // namespace fl_cuda

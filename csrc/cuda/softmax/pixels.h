// What both kinds of kernel know of a thread: its pixels of a turn, the warps it shares them with, the block's tables.
#pragma once
#include "access.h"
#include "select.h"

namespace fl_cuda {

// Targets that are no vectors in memory, of a thread, in shared memory: so that they are read in a rolled loop.
template <class T>
struct Gathered {
  static constexpr int kV = 16 / sizeof(T);
  int id[kV];
  T weight[kV];
};
template <class T>
__device__ __noinline__ void gather_targets(const Work& w, const Plan& p, Unit u, Gathered<T>& out) {
#pragma unroll 1
  for (int i = 0; i < Gathered<T>::kV; ++i) {
    const int id = p.dense ? -hidden(w, p, u, i) : class_at(w, p, u, i);
    T weight[1] = {T(1)};
    if (w.pixel_weight.data && id >= 0)
      load_numbers<T, 1>(w, p, w.pixel_weight, p.weight, Unit{u.sample, u.at + i, 1, false}, 0, weight);
    out.id[i] = id, out.weight[i] = id < 0 ? T(0) : weight[0];
  }
}

template <class T>
struct SharedPixels {
  static constexpr int kV = 16 / sizeof(T);
  using Row = Vector<T, kV>;

  const Work& w;
  const Launch& l;
  const Plan& p;
  unsigned char* memory;
  const PointTerm<T>* terms;
  const Tables<T> tables;
  const Turns turns;
  const Slice s;
  const Points<T> points;
  const Seen seen;
  const bool first;   // whether the thread has the first classes of its pixels
  uint32_t side = 0;  // of the places where warps meet
  bool bad = false;   // whether a label was

  Unit unit;
  int id[kV], said[kV];
  T weight[kV];

  __device__ __forceinline__ SharedPixels(const Work& work, const Launch& launch, const Plan& plan, unsigned char* m,
                                          const PointTerm<T>* t)
      : w(work),
        l(launch),
        p(plan),
        memory(m),
        terms(t),
        tables(work, plan, m),
        turns(work, launch, plan),
        s(work, plan),
        points(plan, m),
        seen(plan, m),
        first(threadIdx.x / kWarp % plan.slices == 0) {}

  template <bool kMax, bool kPairs, int kN>
  __device__ __forceinline__ void join(T (&v)[kN]) {
    meet<kMax, kPairs>(p, shared_at<T>(memory, p.meeting) + side * 2 * kV * blockDim.x, v);
    side ^= 1;
  }

  // Their classes (0 of targets that are probabilities), negative where a pixel does not count, and their weights.
  __device__ __forceinline__ void load_targets() {
    if (!p.vectors || !unit.whole) {
      Gathered<T>& own = shared_at<Gathered<T>>(memory, p.gathered)[threadIdx.x];
      gather_targets(w, p, unit, own);
#pragma unroll
      for (int i = 0; i < kV; ++i) id[i] = own.id[i], weight[i] = own.weight[i], bad |= id[i] == kBad;
      return;
    }
    Vector<float, kV> own;
    if (w.pixel_weight.data)
      own.load(static_cast<const float*>(w.pixel_weight.data) + unit.sample * w.pixel_weight.sample + unit.at);
    if (p.dense) {
#pragma unroll
      for (int i = 0; i < kV; ++i) id[i] = 0;
    } else {
      load_classes<kV>(w, p, unit, id, bad);
    }
#pragma unroll
    for (int i = 0; i < kV; ++i) weight[i] = id[i] < 0 ? T(0) : (w.pixel_weight.data ? static_cast<T>(own.x[i]) : T(1));
  }
  __device__ __forceinline__ void count_valid() const {
    int valid = 0;
#pragma unroll
    for (int i = 0; i < kV; ++i) valid += id[i] >= 0;
    if (first) points.valid() += static_cast<T>(valid);
  }

  // The value of a single pointwise term: as a key of top-k, or the result.
  __device__ __forceinline__ void keep_values(const T (&value)[kV]) const {
    if (!first) return;
    if (p.picks) {
      using Key = typename fl::KeyOf<T>::type;
      Key* keys = static_cast<Key*>(p.keys) + unit.sample * p.key_sample + unit.at;
      Selection<T>& selection = *shared_at<Selection<T>>(memory, p.digits);
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        const Key key = id[i] < 0 ? 0 : fl::topk_key(value[i]);
        if (i < unit.count) keys[i] = key;
        if (key) selection.count(key, 0, 0);
      }
    }
    if (l.phase != kValuePhase) return;
    T own[kV];
#pragma unroll
    for (int i = 0; i < kV; ++i) own[i] = id[i] == kBad ? static_cast<T>(NAN) : value[i];
    store_numbers<T, kV>(w, p, w.out, p.out, unit, 0, own);
  }
};

}  // namespace fl_cuda

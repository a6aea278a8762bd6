// Binary and multilabel in full: any strides, soft labels, masks, pixel weights, every term and setting, statistics,
// and float64. A thread takes four elements a turn; what depends on the call alone is a branch outside of the four.
#pragma once
#include "../epilogue.h"
#include "../topk.h"
#include "columns.h"
#include "elements.h"
#include "point.h"

namespace fl_cuda {

constexpr int kGeneralThreads = 256;
template <class T>
constexpr int kGeneralBlocks = sizeof(T) == 4 ? 2 : 1;  // a multiprocessor; each register counts
constexpr int kTurnsAsFloats = 8;                       // added up before they go to the sums in double

enum Pass { kNoPass, kDigitPass, kSumPass, kGradPass, kBothPass, kValuePass };

// Hard labels without pixel weights: the margin orders the elements, and no transcendental is taken.
__device__ __forceinline__ bool by_margin(const Work& w) { return !fl::is_float(w.y.dtype) && !w.pixel_weight.data; }

template <class X>
struct General {
  using T = typename Real<X>::Type;
  using Key = typename fl::KeyOf<T>::type;
  const Work& w;
  const Walk& k;
  Columns<T> columns;
  Selection<T>* selection;
  T inter, pred, square, cross, diff, logit_threshold;

  __device__ __forceinline__ Key key_of(const Four<T>& e, int i, T value) const {
    return fl::topk_key(by_margin(w) ? fl::topk_margin(e.x[i], e.y[i]) : e.weight[i] * value);
  }

  // One turn.
  __device__ __forceinline__ void turn(Pass pass, const Spot& s, int term, int nth, int level) {
    Four<T> e;
    uint32_t valid, bad;
    load_labels(w, k, s, e.y, valid, bad);
    load_four<X>(k, kXArray, s, e.x);
    if (k.logs) {
      if (w.pixel_weight.data) load_floats(k, w.pixel_weight.dtype, kWeightArray, s, e.weight);
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        const fl::Sigmoid<T> a = fl::sigmoid<true>(e.x[i]);
        e.p[i] = a.p, e.q[i] = a.q, e.neg_log_p[i] = a.neg_log_p, e.neg_log_1mp[i] = a.neg_log_1mp;
        const T weight = w.pixel_weight.data ? e.weight[i] : T(1);
        e.weight[i] = valid >> i & 1 ? weight : T(0);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        const fl::Sigmoid<T> a = fl::sigmoid<false>(e.x[i]);
        e.p[i] = a.p, e.q[i] = a.q;
      }
    }
#pragma unroll
    for (int i = 0; i < kPack; ++i)  // a pixel that does not count adds nothing, its logit may be NaN
      if (!(valid >> i & 1)) e.p[i] = e.q[i] = T(0);
    if (pass == kSumPass || pass == kBothPass) sum_region(e, valid, bad);
    T grad[kPack] = {};
#pragma unroll 1
    for (int n = 0; n < w.spec.n_terms; ++n) {
      const fl::Term& t = w.spec.terms[n];
      if (t.region() || (pass == kDigitPass && n != term)) continue;
      const T on = t.kind == fl::kTopk ? T(1) : columns.on[n * blockDim.x];
      const bool slopes = pass == kGradPass || pass == kBothPass, by_key = t.kind == fl::kTopk && !by_margin(w);
      T value[kPack], weight[kPack];
#pragma unroll
      for (int i = 0; i < kPack; ++i) weight[i] = e.weight[i];
      // First the values, then the slopes, whichever the pass needs.
#pragma unroll 1
      for (int slope = pass == kGradPass && !by_key; slope <= slopes; ++slope) {
        pointwise(k, t, slope, e, on, value);
        if (pass == kDigitPass) {
#pragma unroll
          for (int i = 0; i < kPack; ++i) {
            const Key key = key_of(e, i, value[i]);
            if (valid >> i & 1) selection->count(key, nth, level);
          }
          return;
        }
        if (t.kind == fl::kTopk && (slope == 0 || !by_key)) {
          const double* aux = w.aux + n * fl::kAuxColumns;
          const Key threshold = fl::topk_key(static_cast<T>(aux[fl::kThreshold]));
          const T tie = static_cast<T>(aux[fl::kTieWeight]);
#pragma unroll
          for (int i = 0; i < kPack; ++i) {
            const Key key = key_of(e, i, value[i]);
            const T weighs = key > threshold ? T(1) : (key == threshold ? tie : T(0));
            weight[i] = valid >> i & 1 ? e.weight[i] * weighs : T(0);
          }
        }
        if (slope == 0 && pass == kGradPass) continue;
        const T scale = slope ? columns.scale[n * blockDim.x] : T(1);
#pragma unroll
        for (int i = 0; i < kPack; ++i) {
          if (slope) {
            if (weight[i] != T(0)) grad[i] = fl::fma_(weight[i] * scale, value[i], grad[i]);
          } else {
            value[i] = weight[i] != T(0) ? weight[i] * value[i] : T(0);
          }
        }
        if (pass == kValuePass) {
#pragma unroll
          for (int i = 0; i < kPack; ++i)
            if (bad >> i & 1) value[i] = static_cast<T>(NAN);
          return store_four<T>(k, s, value);
        }
        if (slope == 0) columns.add(w.slots.column[fl::kFixedSums + n], value);
      }
    }
    if (pass != kGradPass && pass != kBothPass) return;
    if (k.region) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        const T d = fl::region_grad<true>(e.p[i], e.y[i], inter, pred, square, cross, diff);
        if (valid >> i & 1) grad[i] = fl::fma_(e.p[i] * e.q[i], d, grad[i]);
      }
    }
    store_four<X>(k, s, grad);
  }

  __device__ __forceinline__ void sum_region(const Four<T>& e, uint32_t valid, uint32_t bad) {
    const Slots& s = w.slots;
    const auto add = [&](int column, const auto& of) {
      if (s.column[column] < 0) return;
      T v[kPack];
#pragma unroll
      for (int i = 0; i < kPack; ++i) v[i] = of(e.p[i], e.y[i]);
      columns.add(s.column[column], v);
    };
    columns.add(s.column[fl::kValid], static_cast<T>(__popc(valid)));
    add(fl::kInter, [](T p, T y) { return p * y; });
    add(fl::kPred, [](T p, T) { return p; });
    add(fl::kTarget, [](T, T y) { return y; });
    add(fl::kPredSq, [](T p, T) { return p * p; });
    add(fl::kTargetSq, [](T, T y) { return y * y; });
    add(fl::kAbsDiff, [](T p, T y) { return fl::abs_(p - y); });
    add(fl::kPredSqTarget, [](T p, T y) { return p * p * y; });
    if (bad) columns.add(s.bad, T(1));
    if (s.counts < 0) return;
    uint32_t on = 0, truth = 0;
#pragma unroll
    for (int i = 0; i < kPack; ++i)
      on |= uint32_t(e.x[i] >= logit_threshold) << i, truth |= uint32_t(e.y[i] >= T(0.5)) << i;
    const uint32_t kinds[4] = {on & truth, on & ~truth, ~on & truth, ~on & ~truth};  // tp, fp, fn, tn
#pragma unroll
    for (int i = 0; i < 4; ++i) columns.add(s.counts + i, static_cast<T>(__popc(kinds[i] & valid)));
  }
};

template <class X, class T = typename Real<X>::Type>
__global__ void __launch_bounds__(kGeneralThreads, kGeneralBlocks<T>)
    sigmoid_general(const FL_GRID_CONSTANT Work w, const FL_GRID_CONSTANT Launch l, const FL_GRID_CONSTANT Walk k) {
  FL_DYNAMIC_SHARED(memory);
  __shared__ Epilogue e;
  if (l.phase == kGradPhase && is_rescaled(w, l)) return;
  // Lanes are pixels of a channel, or (channels_last) channels of a pixel.
  const uint32_t share = k.blocks.divide(blockIdx.x), inner = k.inner, group = inner ? threadIdx.x / inner : 0;
  const uint32_t first = inner ? 0 : k.run.divide(share), sample = share - first * k.run.d;
  Route route{w, l, k, blockIdx.x - share * k.blocks.d, sample, inner ? threadIdx.x - group * inner : first, group};
  const uint32_t row = (w.groups > 1 ? sample * static_cast<uint32_t>(w.channels) : 0) + route.channel;
  const bool takes_part = threadIdx.x < k.threads;

  const int slots = l.phase == kGradPhase || l.phase == kValuePhase ? 0 : k.partials;
  General<X> g{w, k, Columns<T>(memory + (k.selecting ? sizeof(Selection<T>) : 0), slots, w.spec.n_terms),
               reinterpret_cast<Selection<T>*>(memory)};
  g.logit_threshold = static_cast<T>(w.logit_threshold);
  Pass main = l.phase == kGradPhase    ? kGradPass
              : l.phase == kValuePhase ? kValuePass
              : l.phase == kBothPhases ? kBothPass
                                       : kSumPass;
  int term = k.selecting ? -1 : w.spec.n_terms, nth = 0, level = 0;  // of the selection that comes next
  const auto next_term = [&] {
    do ++term;
    while (term < w.spec.n_terms && w.spec.terms[term].kind != fl::kTopk);
  };
  if (k.selecting) {
    next_term();
    if (l.finishes) clear_histograms<T>(w, k.selecting);
    g.selection->clear();
    __syncthreads();
  }
  for (;;) {
    const bool selects = term < w.spec.n_terms;
    const bool counts = l.finishes ? level > 0 || nth == 0 : k.term == term && k.level == level;
    const Pass pass = !selects ? main : (counts ? kDigitPass : kNoPass);
    const bool reverse = pass == kGradPass || level % 2;
    if (pass != kNoPass) {
      const double scale = grad_output_of(w);
      const double* sums = (l.phase == kGradPhase ? w.grad_sums : e.grad_sums) + row * k.columns;
      if (pass == kGradPass && takes_part) {
        const auto slope = [&](int column) { return scale * sums[column]; };
        g.inter = static_cast<T>(slope(fl::kInter)), g.pred = static_cast<T>(slope(fl::kPred));
        g.square = static_cast<T>(2.0 * slope(fl::kPredSq)), g.diff = static_cast<T>(slope(fl::kAbsDiff));
        g.cross = static_cast<T>(2.0 * slope(fl::kPredSqTarget));
      }
#pragma unroll 1
      for (int n = 0; n < w.spec.n_terms && takes_part; ++n) {
        const fl::Term& t = w.spec.terms[n];
        if (t.region()) continue;
        g.columns.on[n * blockDim.x] = static_cast<T>(vector_at(w, n, route.channel, 1.0));
        double by = 0.0;
        if (pass == kGradPass) by = sums[fl::kFixedSums + n];
        if (pass == kBothPass) by = weight_of(w, n) * fl::pointwise_scale(t, w.known_valid);
        g.columns.scale[n * blockDim.x] = static_cast<T>(scale * by);
      }
    }
    route.begin(reverse);
    Spot spot;
#pragma unroll 1
    for (int i = 0; i < k.turns && pass != kNoPass; ++i) {
      if (route.next(reverse ? k.turns - 1 - i : i, spot)) g.turn(pass, spot, term, nth, level);
      if (slots && i % kTurnsAsFloats == kTurnsAsFloats - 1) g.columns.flush(slots);
    }
    if (selects) {
      unsigned long long* histogram = histogram_of<T>(w, nth, level);
      if (counts) {
        if (l.finishes && level == 0) grid_barrier();  // the histograms are clear
        g.selection->flush(histogram);
        if (!l.finishes) return;
        grid_barrier();
      }
      g.selection->advance(histogram, nth, level, w.spec.terms[term]);
      if (++level < kLevels<T>) continue;
      if (threadIdx.x == 0) g.selection->store(w, nth, term);
      __syncthreads();
      next_term(), ++nth, level = 0;
      continue;
    }
    if (pass == kGradPass || pass == kValuePass) return;
    g.columns.flush(slots);
    g.columns.leave(w, k, share, route.self, slots, inner ? inner : 1);
    if (!l.finishes) return;
    grid_barrier();
    if (l.phase != kAllPhases && blockIdx.x > 0 && !w.counts) return;
    finish_sums(w, l, e);
    if (l.phase != kAllPhases) return;
    main = kGradPass;
  }
}

}  // namespace fl_cuda

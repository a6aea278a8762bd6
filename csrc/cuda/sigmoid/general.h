// Binary and multilabel in full: any strides, soft labels, masks, pixel weights, every term and setting, statistics,
// and float64. A thread takes four elements a turn; what depends on the call alone is a branch outside of the four.
#pragma once
#include "../epilogue.h"
#include "elements.h"
#include "point.h"
#include "topk.h"

namespace fl_cuda {

template <class T>
constexpr int kGeneralThreads = 256;
template <class T>
constexpr int kGeneralBlocks = sizeof(T) == 4 ? 4 : 2;  // a multiprocessor
constexpr int kTurnsAsFloats = 8;                       // added up before they go to the sums in double

enum Pass { kNoPass, kDigitPass, kSumPass, kGradPass, kBothPass, kValuePass };

// Columns of shared memory, an entry a thread: the sums of the block by their slots (in double, and of the last turns
// in float), then of each pointwise term the weight of label 1 and what its slope is multiplied by.
template <class T>
struct Columns {
  static constexpr bool kSplit = sizeof(T) == 4;
  static constexpr int kBytesASlot = sizeof(double) + (kSplit ? sizeof(T) : 0), kBytesATerm = 2 * sizeof(T);
  double* totals;
  T *recent, *on, *scale;

  __device__ __forceinline__ Columns(unsigned char* memory, int slots, int terms) {
    const int n = blockDim.x;
    totals = reinterpret_cast<double*>(memory) + threadIdx.x;
    recent = reinterpret_cast<T*>(memory + (kSplit ? slots * n * sizeof(double) : 0)) + threadIdx.x;
    on = reinterpret_cast<T*>(memory + slots * n * kBytesASlot) + threadIdx.x;
    scale = on + terms * n;
    for (int i = 0; i < slots; ++i) {
      totals[i * n] = 0.0;
      if (kSplit) recent[i * n] = T(0);
    }
  }
  __device__ __forceinline__ void add(int slot, T v) { recent[slot * blockDim.x] += v; }
  __device__ __forceinline__ void add(int slot, const T (&v)[kPack]) { add(slot, (v[0] + v[1]) + (v[2] + v[3])); }
  __device__ __forceinline__ void flush(int slots) {
    const int n = blockDim.x;
    for (int i = 0; kSplit && i < slots; ++i) totals[i * n] += static_cast<double>(recent[i * n]), recent[i * n] = T(0);
  }
  // The sums of the threads of each channel, c of `channels`, a warp for each.
  __device__ __forceinline__ void leave(const Walk& k, double* partials, uint32_t part, uint32_t self, int slots,
                                        int channels) {
    const double* first = totals - threadIdx.x;
    __syncthreads();
    for (int i = threadIdx.x / kWarp; i < slots * channels; i += blockDim.x / kWarp) {
      const int slot = i / channels, c = i % channels;
      double v = 0.0;
      for (int t = c + threadIdx.x % kWarp * channels; t < k.threads; t += kWarp * channels)
        v += first[slot * blockDim.x + t];
      v = warp_sum(v);
      if (threadIdx.x % kWarp == 0) partials[((part + c) * slots + slot) * k.blocks.d + self] = v;
    }
    __syncthreads();
  }
};

// Hard labels without pixel weights: the margin orders the elements, and no transcendental is taken.
__device__ __forceinline__ bool by_margin(const Work& w) { return !fl::is_float(w.y.dtype) && !w.pixel_weight.data; }

template <class T>
__device__ __forceinline__ T picked(const Work& w, int term, typename fl::KeyOf<T>::type key) {
  const double* aux = w.aux + term * fl::kAuxColumns;
  const auto threshold = fl::topk_key(static_cast<T>(aux[fl::kThreshold]));
  return key > threshold ? T(1) : (key == threshold ? static_cast<T>(aux[fl::kTieWeight]) : T(0));
}

template <class X>
struct General {
  using T = typename Real<X>::Type;
  using Key = typename fl::KeyOf<T>::type;
  const Work& w;
  const Walk& k;
  Columns<T> columns;
  Selection<T>* selection;
  T inter, pred, square, diff, cut;

  __device__ __forceinline__ Key key_of(const Four<T>& e, int i, T value) const {
    return fl::topk_key(by_margin(w) ? fl::topk_margin(e.x[i], e.y[i]) : e.weight[i] * value);
  }

  // One turn.
  __device__ __forceinline__ void turn(Pass pass, const Spot& at, int term, int level) {
    Four<T> e;
    uint32_t valid, bad;
    load_labels(w, k, at, e.y, valid, bad);
    load_four<X>(k, w.x, kXBit, at, offset_of(k, w.x, at), e.x);
    if (w.pixel_weight.data) load_floats(k, w.pixel_weight, kWeightBit, at, e.weight);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const bool counts = valid >> i & 1;
      if (!counts) e.x[i] = T(0);
      if (!w.pixel_weight.data) e.weight[i] = T(1);
      if (!counts) e.weight[i] = T(0);
    }
    T slope[kPack];
    if (k.logs) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        const fl::Sigmoid<T> a = fl::sigmoid<true>(e.x[i]);
        e.p[i] = a.p, e.q[i] = a.q, slope[i] = a.slope, e.nlp[i] = a.nlp, e.nlq[i] = a.nlq;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        const fl::Sigmoid<T> a = fl::sigmoid<false>(e.x[i]);
        e.p[i] = a.p, e.q[i] = a.q, slope[i] = a.slope;
      }
    }
    if (pass == kSumPass || pass == kBothPass) sum_region(e, valid, bad);
    T grad[kPack] = {};
#pragma unroll 1
    for (int n = 0; n < w.spec.n_terms; ++n) {
      const fl::Term& t = w.spec.terms[n];
      if (t.kind == fl::kTversky || (pass == kDigitPass && n != term)) continue;
      const T on = t.kind == fl::kTopk ? T(1) : columns.on[n * blockDim.x];
      T value[kPack], weight[kPack];
      if (pass != kGradPass || (t.kind == fl::kTopk && !by_margin(w))) pointwise<false>(w, t, e, on, value);
      if (pass == kDigitPass) {
#pragma unroll
        for (int i = 0; i < kPack; ++i) {
          const Key key = key_of(e, i, value[i]);
          if ((valid >> i & 1) && selection->has_prefix(key, level)) selection->count(key, level);
        }
        return;
      }
#pragma unroll
      for (int i = 0; i < kPack; ++i) weight[i] = e.weight[i];
      if (t.kind == fl::kTopk) {
#pragma unroll
        for (int i = 0; i < kPack; ++i)
          if (valid >> i & 1) weight[i] *= picked<T>(w, n, key_of(e, i, value[i]));
      }
      if (pass != kGradPass) {
        T sum[kPack];
#pragma unroll
        for (int i = 0; i < kPack; ++i) sum[i] = weight[i] != T(0) ? weight[i] * value[i] : T(0);
        if (pass == kValuePass) {
#pragma unroll
          for (int i = 0; i < kPack; ++i) sum[i] = bad >> i & 1 ? static_cast<T>(NAN) : sum[i];
          return store_four<T>(k, w.out, at, sum);
        }
        columns.add(w.slots.column[fl::kFixedSums + n], sum);
      }
      if (pass != kSumPass) {
        const T scale = columns.scale[n * blockDim.x];
        T s[kPack];
        pointwise<true>(w, t, e, on, s);
#pragma unroll
        for (int i = 0; i < kPack; ++i)
          if (weight[i] != T(0)) grad[i] = fl::fma_(weight[i] * scale, s[i], grad[i]);
      }
    }
    if (pass != kGradPass && pass != kBothPass) return;
    if (k.region) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        const T d = fl::region_slope<false, true>(e.p[i], e.y[i], inter, pred, square, diff);
        if (valid >> i & 1) grad[i] = fl::fma_(slope[i], d, grad[i]);
      }
    }
    store_four<X>(k, w.out, at, grad);
  }

  __device__ __forceinline__ void sum_region(const Four<T>& e, uint32_t valid, uint32_t bad) {
    const Slots& s = w.slots;
    const auto add = [&](int column, const auto& of) {
      if (s.column[column] < 0) return;
      T v[kPack];
#pragma unroll
      for (int i = 0; i < kPack; ++i) v[i] = valid >> i & 1 ? of(e.p[i], e.y[i]) : T(0);
      columns.add(s.column[column], v);
    };
    columns.add(s.column[fl::kValid], static_cast<T>(__popc(valid)));
    add(fl::kInter, [](T p, T y) { return p * y; });
    add(fl::kPred, [](T p, T) { return p; });
    add(fl::kTarget, [](T, T y) { return y; });
    add(fl::kPredSq, [](T p, T) { return p * p; });
    add(fl::kTargetSq, [](T, T y) { return y * y; });
    add(fl::kAbsDiff, [](T p, T y) { return fl::abs_(p - y); });
    if (bad) columns.add(s.bad, T(1));
    if (s.counts < 0) return;
    uint32_t on = 0, truth = 0;
#pragma unroll
    for (int i = 0; i < kPack; ++i) on |= uint32_t(e.x[i] >= cut) << i, truth |= uint32_t(e.y[i] >= T(0.5)) << i;
    const uint32_t kinds[4] = {on & truth, on & ~truth, ~on & truth, ~on & ~truth};  // tp, fp, fn, tn
#pragma unroll
    for (int i = 0; i < 4; ++i) columns.add(s.counts + i, static_cast<T>(__popc(kinds[i] & valid)));
  }
};

template <class X, class T = typename Real<X>::Type>
__global__ void __launch_bounds__(kGeneralThreads<T>, kGeneralBlocks<T>)
    sigmoid_general(const FL_GRID_CONSTANT Work w, const FL_GRID_CONSTANT Launch l, const FL_GRID_CONSTANT Walk k) {
  FL_DYNAMIC_SHARED(memory);
  __shared__ Epilogue e;
  if (l.phase == kGradPhase && is_rescaled(w, l)) return;
  // Lanes are pixels of a channel, or (channels_last) channels of a pixel.
  const uint32_t share = k.blocks.divide(blockIdx.x), self = blockIdx.x - share * k.blocks.d;
  const uint32_t inner = k.inner, group = inner ? threadIdx.x / inner : 0;
  const uint32_t first_sample = w.by_sample ? (inner ? share : k.rows.divide(share)) : 0;
  Spot at;
  at.channel = inner ? threadIdx.x - group * inner : share - first_sample * k.rows.d;
  const uint32_t row = (w.groups > 1 ? first_sample * k.rows.d : 0) + at.channel;
  const int distance = inner ? k.threads / inner : 1;  // of a thread's elements, in pixels
  const bool takes_part = threadIdx.x < k.threads;

  const int slots = l.phase == kGradPhase || l.phase == kValuePhase ? 0 : k.partials;
  General<X> g{w, k, Columns<T>(memory + (k.selecting ? sizeof(Selection<T>) : 0), slots, w.spec.n_terms),
               reinterpret_cast<Selection<T>*>(memory)};
  g.cut = static_cast<T>(w.logit_threshold);
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
      }
      for (int n = 0; n < w.spec.n_terms && takes_part; ++n) {
        const fl::Term& t = w.spec.terms[n];
        if (t.kind == fl::kTversky) continue;
        g.columns.on[n * blockDim.x] = static_cast<T>(vector_at(w, n, at.channel, 1.0));
        double by = 0.0;
        if (pass == kGradPass) by = sums[fl::kFixedSums + n];
        if (pass == kBothPass) by = weight_of(w, n) * fl::pointwise_scale(t, w.known_valid);
        g.columns.scale[n * blockDim.x] = static_cast<T>(scale * by);
      }
    }
#pragma unroll 1
    for (int i = 0; i < k.turns && pass != kNoPass; ++i) {
      const uint32_t turn = (reverse ? k.turns - 1 - i : i) * k.blocks.d + self;
      const uint32_t index = inner ? turn : turn * blockDim.x + threadIdx.x;
      if (index < l.tiles && takes_part) {
        const uint32_t run = index < l.tiles_per_plane.d ? 0 : l.tiles_per_plane.divide(index);
        uint32_t sample = run;
        if (k.has_rows) {
          sample = k.runs.divide(run);
          const uint32_t rest = run - sample * k.runs.d;
          at.row[0] = k.height.divide(rest), at.row[1] = rest - at.row[0] * k.height.d;
        }
        at.sample = first_sample + sample;
        at.first = static_cast<int64_t>(index - run * l.tiles_per_plane.d) * (kPack * distance) + group;
        if (k.whole & kXBit)
          at.first -= static_cast<uint32_t>(offset_of(k, w.x, Spot{at.sample, 0, at.channel, {at.row[0], at.row[1]}}) +
                                            k.lead) %
                      kPack;
        at.there = 0;
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          const int64_t pixel = at.first + j * distance;
          at.there |= uint32_t(pixel >= 0 && pixel < k.pixels) << j;
          at.pixel[j] = pixel < 0 ? static_cast<int>(-at.first)
                                  : static_cast<int>((pixel < k.pixels ? pixel : k.pixels - 1) - at.first);
        }
        if (at.there) g.turn(pass, at, term, level);
      }
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
      g.selection->advance(histogram, level, w.spec.terms[term]);
      if (++level < kLevels<T>) continue;
      if (threadIdx.x == 0) g.selection->store(w, term);
      __syncthreads();
      next_term(), ++nth, level = 0;
      continue;
    }
    if (pass == kGradPass || pass == kValuePass) return;
    g.columns.flush(slots);
    g.columns.leave(k, w.partials, inner ? share * inner : share, self, slots, inner ? inner : 1);
    if (!l.finishes) return;
    grid_barrier();
    if (l.phase != kAllPhases && blockIdx.x > 0 && !w.counts) return;
    finish_sums(w, l, e);
    if (l.phase != kAllPhases) return;
    main = kGradPass;
  }
}

}  // namespace fl_cuda

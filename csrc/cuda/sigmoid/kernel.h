// The fast kernels of binary and multilabel losses: planes that can be read in packs, plain region terms and at most
// one pointwise term.
#pragma once
#include "../epilogue.h"
#include "terms.h"
#include "turns.h"

namespace fl_cuda {

// Threads of a block and blocks of a multiprocessor, each thread with four packs in flight: 2 x 512 and 3 x 256 were
// measured best, and alike; the latter leave 80 registers to a thread. What needs more has two blocks.
template <class Terms, class Inputs>
struct Shape {
  static constexpr bool kHeavy = Terms::kUnroll == 2 || Inputs::kMasked || (Terms::kPointwise && Inputs::kSoft);
  static constexpr int kThreads = 256, kBlocks = kHeavy ? 2 : 3;
};

// What a thread has summed up.
struct Totals {
  double inter = 0.0, pred = 0.0, target = 0.0, point = 0.0;
  uint32_t on = 0, valid = 0, bad = 0;
  __device__ __forceinline__ void add(const Sums& s) {
    inter += static_cast<double>(s.inter), pred += static_cast<double>(s.pred);
    target += static_cast<double>(s.target), point += static_cast<double>(s.point);
  }
};

// The block's sums, by their slots; or that of the pointwise term alone, beside those that are there.
template <class Terms, class Inputs>
__device__ __forceinline__ void leave_sums(const Work& w, const Walk& k, const Share& own, const Totals& t,
                                           bool point_alone, double* scratch) {
  const int warp = threadIdx.x / kWarp;
  const double inter = lanes_sum(t.inter), pred = lanes_sum(t.pred);
  const double target = Inputs::kSoft ? lanes_sum(t.target) : __reduce_add_sync(kAllLanes, t.on);
  const double point = Terms::kPointwise ? lanes_sum(t.point) : 0.0;
  const double valid = Inputs::kMasked ? __reduce_add_sync(kAllLanes, t.valid) : 0.0;
  if (threadIdx.x % kWarp == 0) {
    double* to = scratch + warp * 5;
    to[0] = inter, to[1] = pred, to[2] = target, to[3] = point, to[4] = valid;
  }
  const bool bad = __syncthreads_or(t.bad != 0);
  if (threadIdx.x >= 6 || (point_alone && threadIdx.x != 3)) return;
  double v = threadIdx.x == 5 && bad ? 1.0 : 0.0;
  if (threadIdx.x < 5) {
#pragma unroll
    for (int i = 0; i < Shape<Terms, Inputs>::kThreads / kWarp; ++i) v += scratch[i * 5 + threadIdx.x];
  }
  if (!Inputs::kMasked && threadIdx.x == 4 && own.self == 0) v = static_cast<double>(k.planes) * k.pixels;
  int slot = w.slots.bad;
  if (threadIdx.x < 3) slot = w.slots.column[fl::kInter + threadIdx.x];
  if (threadIdx.x == 3) slot = Terms::kPointwise ? w.slots.column[fl::kFixedSums + k.point] : -1;
  if (threadIdx.x == 4) slot = w.slots.column[fl::kValid];
  if (slot >= 0) w.partials[(slot * static_cast<uint32_t>(w.parts) + own.part) * k.blocks.d + own.self] = v;
}

template <class Terms>
__device__ __forceinline__ Slopes slopes_of(const Work& w, const Walk& k, const Share& own, const double* grad_sums) {
  const double* row = grad_sums + own.row * k.columns;
  const double scale = grad_output_of(w);
  Slopes d;
  d.inter = static_cast<float>(scale * row[fl::kInter]), d.pred = static_cast<float>(scale * row[fl::kPred]);
  if (Terms::kPointwise) d.point = static_cast<float>(scale * row[fl::kFixedSums + k.point]);
  return d;
}

// Apart: where sums are finished in two places, one copy of it.
inline __device__ __noinline__ void finish_apart(const Work& w, const Launch& l, Epilogue& e) {
  finish_sums<false>(w, l, e);
}

// What the kernel does with the pixels, one after the other: sums (with the gradient where that needs none of them),
// the digits of top-k's threshold, the sum of what lies above it, the gradient.
enum Doing { kSumming, kDigits, kPicking, kGrading };

// One loop over the pixels serves all of it: what to do with a turn is a branch that all threads take alike, and its
// instructions are fetched once.
template <class X, class Terms, class Inputs>
__global__ void __launch_bounds__(Shape<Terms, Inputs>::kThreads, Shape<Terms, Inputs>::kBlocks)
    sigmoid_fast(const FL_GRID_CONSTANT Work w, const FL_GRID_CONSTANT Launch l, const FL_GRID_CONSTANT Walk k) {
  FL_DYNAMIC_SHARED(memory);
  __shared__ Epilogue e;
  if (l.phase == kGradPhase && is_rescaled(w, l)) return;
  const Share own(w, k);
  Terms terms(w, k.point, own.channel);
  Reader<X, Inputs, Shape<Terms, Inputs>::kThreads> reader(w, l, k, own, memory + Terms::kShared);
  Totals total;
  Doing doing = l.phase == kGradPhase ? kGrading : kSumming;
  int level = 0;
  if constexpr (Terms::kTopk) {
    terms.begin(w, l, k, memory);
    if (l.phase == kGradPhase) terms.set_threshold(w, k.point);
    if (!l.finishes && l.phase != kGradPhase) {  // the digits before this launch's are counted
      for (; level < k.level; ++level)
        terms.selection->advance(w.histogram + level * fl::kRadixBins, 0, level, w.spec.terms[k.point]);
      doing = level == 0 ? kSumming : (level < kLevels<float> ? kDigits : kPicking);
    }
  }

  for (;;) {
    Slopes d;
    const bool both = doing == kSumming && l.phase == kBothPhases, again = doing != kSumming;
    const bool grads = doing == kGrading || (doing == kPicking && l.phase == kAllPhases);
    if constexpr (Terms::kTopk) {
      if (doing == kDigits) terms.set_bucket(level);
      if (doing == kPicking) {
        if (threadIdx.x == 0) terms.selection->store(w, 0, k.point);
        __syncthreads();
        terms.set_threshold(w, k.point);
        if (grads) finish_apart(w, l, e);  // the gradient waits for the sums of the region terms
      }
    }
    if (grads) d = slopes_of<Terms>(w, k, own, l.phase == kGradPhase ? w.grad_sums : e.grad_sums);
    if (Terms::kPointwise && both)
      d.point = static_cast<float>(grad_output_of(w) *
                                   (weight_of(w, k.point) * fl::pointwise_scale(w.spec.terms[k.point], w.known_valid)));
    const int all = k.turns + k.edge_turns;
    reader.begin(again);
#pragma unroll 1
    for (int i = 0; i < all; ++i) {
      Batch<X, Inputs> batch;
      if (!reader.read(again ? all - 1 - i : i, again && l.finishes, batch, total.bad)) continue;
      Sums s;
      const auto with_grads = [&](auto adds) {
        constexpr bool kAdds = decltype(adds)::value;
        batch.template each<kAdds ? Terms::kBothUnroll : Terms::kGradUnroll>(
            [&](int p, const Pack<X>& v, const auto& y) {
              Pack<X> grad;
#pragma unroll
              for (int j = 0; j < kPack; ++j) {
                const float x = widen(v.v[j]),
                            g = kAdds ? terms.add_grad(x, y.label(j), s, d) : terms.grad(x, y.label(j), d);
                grad.v[j] = narrow<X>(y.shown(j, g));
              }
              if (kAdds && !Terms::kTopk) y.count(total);
              batch.put(p, grad);
            });
      };
      if (doing == kGrading) {
        with_grads(std::false_type());
        continue;
      }
      if constexpr (Terms::kTopk) {
        if (doing == kSumming || doing == kDigits)
          batch.template each<Terms::kUnroll>([&](int p, const Pack<X>& v, const auto& y) {
            if (doing == kSumming) {
#pragma unroll
              for (int j = 0; j < kPack; ++j) terms.add(widen(v.v[j]), y.label(j), s);
              y.count(total);
            }
            if (batch.has(p)) terms.count(v, y, batch.edge, level);
          });
        else if (grads)
          with_grads(std::true_type());
        else
          batch.template each<Terms::kUnroll>([&](int p, const Pack<X>& v, const auto& y) {
#pragma unroll
            for (int j = 0; j < kPack; ++j) terms.add_picked(widen(v.v[j]), y.label(j), s);
          });
      } else {
        if (Terms::kPointwise && both)
          with_grads(std::true_type());
        else
          batch.template each<Terms::kUnroll>([&](int, const Pack<X>& v, const auto& y) {
#pragma unroll
            for (int j = 0; j < kPack; ++j) terms.add(widen(v.v[j]), y.label(j), s);
            y.count(total);
          });
      }
      total.add(s);
    }
    if (doing == kGrading) return;
    if (doing != kDigits) {
      leave_sums<Terms, Inputs>(w, k, own, total, doing == kPicking, e.sums);
      total = Totals();  // takes no registers while the sums are finished
    }
    if constexpr (Terms::kTopk) {
      if (doing != kPicking) {
        unsigned long long* histogram = w.histogram + level * fl::kRadixBins;
        if (l.finishes && level == 0) grid_barrier();  // the histograms are clear
        terms.selection->flush(histogram);
        if (!l.finishes) return;
        grid_barrier();
        terms.selection->advance(histogram, 0, level, w.spec.terms[k.point]);
        doing = ++level < kLevels<float> ? kDigits : kPicking;
        continue;
      }
    }
    if (!l.finishes) return;
    grid_barrier();
    if ((Terms::kTopk || l.phase != kAllPhases) && blockIdx.x > 0) return;
    if (Terms::kTopk)
      finish_apart(w, l, e);
    else
      finish_sums<false>(w, l, e);
    if (Terms::kTopk || l.phase != kAllPhases) return;
    doing = kGrading;
  }
}

}  // namespace fl_cuda

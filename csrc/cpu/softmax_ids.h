// Multiclass on class ids, one chunk: where its logits, probabilities and gradient lie, and which loops of
// softmax_fast.h make them. In a gradient that goes out in two steps the first leaves the probabilities in the output
// and one number per pixel for the pointwise terms.
#pragma once
#include "softmax_fast.h"

FL_NAMESPACE_BEGIN

template <class T>
struct SoftmaxIds {
  using Task = Blocks::Task;
  using Chunk = SoftmaxChunk<T>;
  using Scratch = SoftmaxScratch<T>;

  Setup<T> su;
  bool masked;                                         // pixels may be invalid: until they have been counted
  const bool region, extra, pointwise, topk, missing;  // missing: some term asks for 1 - p
  bool dense, weighted_ce = false;                     // every class has a label; some mean divides by class weights
  const int64_t pixels;
  std::unique_ptr<T[]> slopes;  // one per pixel, between the two steps of a gradient

  explicit SoftmaxIds(CpuProblem& p)
      : su(p),
        masked(su.target.masked),
        region(su.spec.any_region()),
        extra(su.spec.any_squared() || su.spec.any_l1()),
        pointwise(su.spec.any_pointwise()),
        topk(su.spec.any(kTopk)),
        missing(su.spec.any(kFocal) || su.spec.any(kPoly)),
        dense(!p.ids),
        pixels(p.space[0] * p.space[1] * p.space[2]) {
    for (int i = 0; i < su.spec.n_terms; ++i) {
      const Term& t = su.spec.terms[i];
      dense |= t.kind == kWasserstein || ((t.kind == kCe || t.kind == kPoly) && t.label_smoothing != 0.0);
      weighted_ce |= t.weighted_mean() && p.ids;
    }
  }

  // Whether all channels of a chunk lie in the scratch between two loops. `kept`: their probabilities do.
  bool rows(bool kept) const { return dense || kept || masked || !su.x.runs.contiguous(); }

  // Class ids: the region terms' sums are made on the way, [C, columns] of the task, and the probabilities stay in the
  // output where the first step leaves them there, else in the scratch.
  void activate_ids(const Task& task, const Chunk& k, int64_t at, int mode, double* sums) const {
    constexpr int kWidth = LanesOf<T>::kCount;
    Scratch& s = k.s;
    const RegionKind kind = !sums || !region ? kNoRegion : (extra ? kExtra : kLinear);
    if (kind) memset(s.sums, 0, k.channels * kStripSums * kWidth * sizeof(T));
    const bool leave = leaves(mode) && plain(k);
    const Rows<T> p =
        leave ? Rows<T>{su.out.target(task.sample, 0, at, nullptr), su.p.out.channel} : Rows<T>{s.p, s.stride};
    with_logits(task, k, at, [&](auto masked, auto x) {
      const auto run = [&](auto constant) {
        ids_forward<masked.value, decltype(constant)::value>(k, x, p, mode & kGrads, su.p.counts);
      };
      if (kind == kNoRegion) return run(std::integral_constant<RegionKind, kNoRegion>());
      kind == kLinear ? run(std::integral_constant<RegionKind, kLinear>())
                      : run(std::integral_constant<RegionKind, kExtra>());
    });
    if (missing) misses(k);
    for (int64_t c = 0; kind && c < k.channels; ++c) {
      const T* from = s.sums + c * kStripSums * kWidth;
      double* to = sums + c * su.view.columns;
      to[kInter] += lanes(from), to[kPred] += lanes(from + kWidth), to[kTarget] += lanes(from + 2 * kWidth);
      if (kind != kExtra) continue;
      to[kPredSq] += lanes(from + 3 * kWidth), to[kAbsDiff] += lanes(from + 4 * kWidth);
      to[kTargetSq] += lanes(from + 2 * kWidth), to[kPredSqTarget] += lanes(from + 5 * kWidth);
    }
  }
  static double lanes(const T* sums) { return sum_lanes(load_vec(sums)); }
  static bool whole(const Chunk& k) { return k.n % kStrip == 0; }
  bool plain(const Chunk& k) const { return whole(k) && !masked; }  // every lane of every vector counts
  // Early: the region terms' part comes later, from the probabilities.
  bool leaves(int mode) const { return mode == (kValues | kGrads) && region; }

  // f(whether some ids are -1, rows of logits): where they lie, or copied and filled up to whole strips.
  template <class F>
  void with_logits(const Task& task, const Chunk& k, int64_t at, const F& f) const {
    const auto direct = [&](auto zero) {
      using E = decltype(zero);
      f(std::false_type(), Rows<const E>{su.x.template base<const E>(task.sample, 0) + at, su.p.x.channel});
    };
    if (plain(k) && su.x.runs.contiguous()) {
      if constexpr (std::is_same<T, float>::value) {
        if (su.p.x.dtype == kF16) return direct(Half());
        if (su.p.x.dtype == kBF16) return direct(BFloat16());
      }
      return direct(T());
    }
    for (int64_t c = 0; c < k.channels; ++c) {
      T* row = k.s.p + c * k.s.stride;
      const T* x = su.x.load(task.sample, c, at, k.n, row);
      if (x != row) memcpy(row, x, k.n * sizeof(T));
      for (int64_t i = k.n; i % kStrip; ++i) row[i] = T(0);
    }
    const Rows<const T> copied{k.s.p, k.s.stride};
    plain(k) ? f(std::false_type(), copied) : f(std::true_type(), copied);
  }

  // From rows of p and one number per pixel into the output.
  void ids_gradients(const Task& task, const Chunk& k, int64_t at, Rows<const T> p, const T* h) const {
    const auto run = [&](auto masked, auto g) {
      constexpr bool kMasked = decltype(masked)::value;
      if (!region) return ids_gradient<kMasked, kNoRegion>(k, p, h, g);
      extra ? ids_gradient<kMasked, kExtra>(k, p, h, g) : ids_gradient<kMasked, kLinear>(k, p, h, g);
    };
    const auto direct = [&](auto zero) {
      using E = decltype(zero);
      run(std::false_type(), Rows<E>{su.out.template base<E>(task.sample, 0) + at, su.p.out.channel});
    };
    if (plain(k) && su.out.runs.contiguous()) {
      if constexpr (std::is_same<T, float>::value) {
        if (su.p.out.dtype == kF16) return direct(Half());
        if (su.p.out.dtype == kBF16) return direct(BFloat16());
      }
      return direct(T());
    }
    const Rows<T> rows{k.s.p, k.s.stride};
    plain(k) ? run(std::false_type(), rows) : run(std::true_type(), rows);
    for (int64_t c = 0; c < k.channels; ++c) su.out.store_from(task.sample, c, at, k.n, k.s.p + c * k.s.stride);
  }

  // The second step, from what the first has left in the output.
  void finish(const Task& task, const Chunk& k, int64_t at) const {
    const T* h = slopes ? slopes.get() + task.sample * pixels + at : k.s.slope;
    if (!slopes) memset(k.s.slope, 0, k.n * sizeof(T));
    for (int64_t c = 0; c < k.channels; ++c)
      k.s.lines[c] = {su.p.grad_sums + su.view.at(su.row(task), c), su.p.grad_output_value};
    if (plain(k)) return ids_gradients(task, k, at, {su.out.target(task.sample, 0, at, nullptr), su.p.out.channel}, h);
    for (int64_t c = 0; c < k.channels; ++c)
      memcpy(k.s.p + c * k.s.stride, su.out.target(task.sample, c, at, nullptr), k.n * sizeof(T));
    if (slopes) memcpy(k.s.slope, h, k.n * sizeof(T));
    ids_gradients(task, k, at, {k.s.p, k.s.stride}, k.s.slope);
  }
};

FL_NAMESPACE_END

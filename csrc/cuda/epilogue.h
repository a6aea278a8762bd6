// From the blocks' partial sums to the loss and the derivatives by the sums: math/finalize.h by one warp.
//
// After a barrier of the grid every block does this for itself, in the same order and so to the same bits: a warp for
// each number that it adds up, then one warp for the rest, whose lanes share groups and classes. Block 0 writes what
// the call returns. Its instructions are fetched cold: loops are rolled, and sums over lanes are one function.
#pragma once
#include "reduce.h"
#include "work.h"

namespace fl_cuda {

// In shared memory.
struct Epilogue {
  double sums[kOwnSums], grad_sums[kOwnSums], totals[kTotals];
};

// Adds up `n` neighbouring numbers. By a warp; all lanes get the sum.
__device__ __forceinline__ double add_partials(const double* from, int n) {
  constexpr int kFlying = 8;  // loads under way at once
  double sum = 0.0;
#pragma unroll 1
  for (int i = threadIdx.x % kWarp; i < n; i += kFlying * kWarp) {
    double v[kFlying];
#pragma unroll
    for (int k = 0; k < kFlying; ++k) v[k] = i + k * kWarp < n ? __ldcg(from + i + k * kWarp) : 0.0;
#pragma unroll
    for (int k = 0; k < kFlying; ++k) sum += v[k];
  }
  return lanes_sum(sum);
}
// A number of so many parts that follow each other.
__device__ __forceinline__ double add_slot(const Work& w, const Launch& l, int slot, int first, int parts) {
  const int blocks = static_cast<int>(l.blocks);
  return add_partials(w.partials + static_cast<int64_t>(slot * static_cast<int>(w.parts) + first) * blocks,
                      parts * blocks);
}

// Sum number k, of those that sums_size counts; behind them the totals (TotalIndex). By a warp.
__device__ __forceinline__ double add_sum(const Work& w, const Launch& l, int k) {
  const int size = static_cast<int>(sums_size(w)), run = part_run(w);
  const bool softmax = is_softmax(w);
  int slot, c = 0, first = 0, parts = static_cast<int>(w.parts);
  if (k < size) {
    const uint32_t row = w.by_columns.divide(k), group = w.by_channels.divide(row);
    const int column = k - row * w.by_columns.d;
    slot = w.slots.column[column], c = row - group * w.by_channels.d;
    first = softmax ? 0 : c * run, parts = run;
    if (w.groups > 1) first += group, parts = 1;
    if (softmax && c > 0 && column >= fl::kFixedSums) slot = -1;  // what is of a pixel, not of a class, counts once
  } else {
    slot = k - size == kBadTotal ? w.slots.bad
                                 : w.slots.column[k - size == kValidTotal ? fl::kValid : k - size + kToColumn];
  }
  if (slot < 0) return 0.0;
  return add_slot(w, l, softmax ? w.slots.at(slot, w.channels, c) : slot, first, parts);
}

// Those who share the rows of the sums: the lanes of a warp, which need no barrier, or all threads of a block.
struct WarpTeam {
  static __device__ __forceinline__ int rank() { return threadIdx.x % kWarp; }
  static __device__ __forceinline__ int size() { return kWarp; }
  __device__ __forceinline__ double sum(double v) const { return lanes_sum(v); }
  __device__ __forceinline__ void sync() const { __syncwarp(); }
};
struct BlockTeam {
  double* scratch;  // kMaxWarps, shared
  static __device__ __forceinline__ int rank() { return threadIdx.x; }
  static __device__ __forceinline__ int size() { return blockDim.x; }
  __device__ __forceinline__ double sum(double v) const { return block_sum(v, scratch); }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
};

// fl::region_term, a run of lanes for each group and a lane for each class.
template <class Team>
__device__ __forceinline__ double region_term(const Work& w, const Team& team, int i, const fl::SumsView& v,
                                              const double* sums, double weight, double* grad_sums) {
  const fl::Term& t = w.spec.terms[i];
  int shift = 0;
  while (1 << shift < kWarp && 1 << shift < v.channels) ++shift;
  const int run = 1 << shift, lane = team.rank() & (run - 1), first = team.rank() >> shift;  // run: lanes of a group
  const int groups = t.batch ? 1 : v.groups, step = team.size() >> shift;
  double share = 1.0, value = 0.0;  // share: of a group that has a class that counts
#pragma unroll 1
  for (int pass = t.batch ? 1 : 0; pass < 2; ++pass) {  // first, how many such groups there are
    double own = 0.0;
#pragma unroll 1
    for (int g = first; g - first < groups; g += step) {  // all lanes take part in each turn
      const int group = t.batch ? -1 : g;
      double total = 0.0, inverse = 0.0;
#pragma unroll 1
      for (int sweep = 0; sweep <= pass; ++sweep) {  // first, what its classes weigh
#pragma unroll 1
        for (int c = lane; c < v.channels && g < groups; c += run) {
          double s[fl::kFixedSums];
          fl::gather_sums(v, sums, group, c, s);
          const double each = vector_at(w, i, c, 1.0);
          if (sweep == 0)
            total += fl::class_weight(t, each, s);
          else if (total > 0.0)
            own += fl::region_class(t, each * inverse, v, s, group, c, weight * share, grad_sums);
        }
        if (sweep == 0) total = lanes_sum(total, run), inverse = 1.0 / total;
      }
      if (pass == 0) own += lane == 0 && total > 0.0;
    }
    value = team.sum(own);
    if (pass == 0) share = value > 0.0 ? 1.0 / value : 0.0;
  }
  return value * share;
}

// What a pointwise term divides by: the number of valid elements; for weighted cross-entropy on class indices, their
// weights; for top-k what the selection has left.
template <class Team>
__device__ __forceinline__ double denominator_of(const Work& w, const Team& team, int i, const fl::SumsView& v,
                                                 const double* sums, double valid) {
  const fl::Term& t = w.spec.terms[i];
  if (t.kind == fl::kTopk) return __ldcg(w.aux + i * fl::kAuxColumns + fl::kDenominator);
  if (!t.weighted_mean() || !w.class_indices) return valid;
  double own = 0.0;
#pragma unroll 1
  for (int r = team.rank(); r < v.groups * v.channels; r += team.size())
    own += vector_at(w, i, r - w.by_channels.divide(r) * w.by_channels.d, 1.0) * sums[r * v.columns + fl::kTarget];
  return team.sum(own);
}

// fl::finalize, and what the terms leave in w.aux and w.values, by block 0.
template <class Team>
__device__ __forceinline__ double finalize(const Work& w, const Team& team, const double* sums, const double* totals,
                                           double* grad_sums) {
  const fl::SumsView v(w.groups, w.channels, columns_of(w));
  const double valid = w.known_valid < 0.0 ? totals[kValidTotal] : w.known_valid;
  double loss = 0.0;
#pragma unroll 1
  for (int k = team.rank(); k < v.size(); k += team.size()) grad_sums[k] = 0.0;
  team.sync();
#pragma unroll 1
  for (int i = 0; i < w.spec.n_terms; ++i) {
    const fl::Term& t = w.spec.terms[i];
    const double weight = weight_of(w, i);
    double value, denominator = valid;
    if (t.region()) {
      value = region_term(w, team, i, v, sums, weight, grad_sums);
    } else {
      denominator = denominator_of(w, team, i, v, sums, valid);
      const double scale = fl::pointwise_scale(t, denominator);
      value = totals[kTermTotals + i] * scale;
#pragma unroll 1
      for (int at = team.rank() * v.columns; at < v.size(); at += team.size() * v.columns)
        grad_sums[at + fl::kFixedSums + i] = weight * scale;
    }
    if (weight != 0.0) loss += weight * value;
    if (blockIdx.x > 0) continue;
    if (w.values && team.rank() == 0) w.values[i] = value;
    if (t.kind != fl::kTopk && team.rank() < fl::kAuxColumns)
      w.aux[i * fl::kAuxColumns + team.rank()] = team.rank() == fl::kDenominator ? denominator : 0.0;
  }
  team.sync();
  return loss;
}

// By the threads of one block: the rest of what the call returns, and the state for backward.
__device__ __forceinline__ void store_results(const Work& w, double loss, bool bad, const double* sums,
                                              const double* grad_sums) {
  const int size = static_cast<int>(sums_size(w));
#pragma unroll 1
  for (int k = threadIdx.x; k < size && w.sums != sums; k += blockDim.x)
    w.sums[k] = sums[k], w.grad_sums[k] = grad_sums[k];
  if (threadIdx.x != 0) return;
  if (w.scale) *w.scale = grad_output_of(w);
  if (bad) loss = static_cast<double>(NAN);
  if (w.loss && w.wide) *static_cast<double*>(w.loss) = loss;
  if (w.loss && !w.wide) *static_cast<float*>(w.loss) = static_cast<float>(loss);
}

// The counts [N, C, 4], by all warps of the launch.
__device__ __forceinline__ void store_counts(const Work& w, const Launch& l) {
  const bool softmax = is_softmax(w);
  const int channels = static_cast<int>(w.channels), n = static_cast<int>(w.samples) * channels * 4;
  const int warps = blockDim.x / kWarp;
#pragma unroll 1
  for (int k = blockIdx.x * warps + threadIdx.x / kWarp; k < n; k += gridDim.x * warps) {
    const int sample = w.by_channels.divide(k / 4), c = k / 4 - sample * channels, slot = w.slots.counts + k % 4;
    const double count = softmax ? add_slot(w, l, w.slots.at(slot, channels, c), sample, 1)
                                 : add_slot(w, l, slot, c * part_run(w) + sample, 1);
    if (threadIdx.x % kWarp == 0) w.counts[k] = count;
  }
}

// The end of the sums, by every block, behind a barrier of the grid: e.grad_sums is there for all its threads after it.
template <bool kCounts = true>
__device__ __forceinline__ void finish_sums(const Work& w, const Launch& l, Epilogue& e) {
  const int warp = threadIdx.x / kWarp, size = static_cast<int>(sums_size(w));
#pragma unroll 1
  for (int k = warp; k < size + kTermTotals + w.spec.n_terms; k += blockDim.x / kWarp) {
    const double sum = add_sum(w, l, k);
    if (threadIdx.x % kWarp == 0) (k < size ? e.sums : e.totals - size)[k] = sum;
  }
  __syncthreads();
  double loss = 0.0;
  if (warp == 0) loss = finalize(w, WarpTeam(), e.sums, e.totals, e.grad_sums);
  __syncthreads();
  if (blockIdx.x == 0) store_results(w, loss, e.totals[kBadTotal] != 0.0, e.sums, e.grad_sums);
  if (kCounts && w.counts) store_counts(w, l);
}

}  // namespace fl_cuda

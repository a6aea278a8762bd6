// From the blocks' partial sums to the loss and the derivatives by the sums: math/finalize.h by one warp.
//
// After a barrier of the grid every block does this for itself, in the same order and so to the same bits: a warp for
// each number that it adds up, then one warp for the rest, whose lanes share groups and classes. Block 0 writes what
// the call returns.
#pragma once
#include "reduce.h"
#include "work.h"

namespace fl_cuda {

// In shared memory.
struct Epilogue {
  double sums[kOwnSums], grad_sums[kOwnSums];
  double values[fl::kMaxTerms], weights[fl::kMaxTerms], aux[fl::kMaxTerms * fl::kAuxColumns];
};

// Adds up `parts` runs of `blocks` numbers at distance `step`, from `from` on. By a warp; all lanes get the sum.
__device__ __noinline__ inline double add_partials(const double* from, int blocks, int parts, int64_t step) {
  double sum = 0.0;
#pragma unroll 1
  for (int k = 0; k < parts; ++k, from += step) {
#pragma unroll 4
    for (int b = threadIdx.x % kWarp; b < blocks; b += kWarp) sum += __ldcg(from + b);
  }
  return warp_sum(sum);
}
// One number of `parts` parts at distance `step`, from part `first` on.
__device__ __forceinline__ double add_slot(const Work& w, const Launch& l, int slot, int c, int first, int parts,
                                           int step) {
  const int blocks = static_cast<int>(l.blocks), at = w.slots.at(slot, is_softmax(w) ? w.channels : 1, c);
  const int64_t size = static_cast<int64_t>(partials_of(w)) * blocks;
  return add_partials(w.partials + first * size + static_cast<int64_t>(at) * blocks, blocks, parts, step * size);
}

// Column `column` of class c and group `group`.
__device__ __forceinline__ double add_column(const Work& w, const Launch& l, int group, int c, int column) {
  const int slot = w.slots.column[column], channels = static_cast<int>(w.channels);
  const bool softmax = is_softmax(w);
  // What is of a pixel, not of a class, counts once.
  if (slot < 0 || (softmax && c > 0 && column >= fl::kFixedSums)) return 0.0;
  const int step = softmax ? 1 : channels;
  const int first = (w.groups > 1 ? group * step : 0) + (softmax ? 0 : c);
  const bool pooled = w.by_sample && w.groups == 1;
  return add_slot(w, l, slot, softmax ? c : 0, first, pooled ? static_cast<int>(w.samples) : 1, step);
}

// Those who share the rows of the sums: the lanes of a warp, which need no barrier, or all threads of a block.
struct WarpTeam {
  static __device__ __forceinline__ int rank() { return threadIdx.x % kWarp; }
  static __device__ __forceinline__ int size() { return kWarp; }
  __device__ __forceinline__ double sum(double v) const { return warp_sum(v); }
  __device__ __forceinline__ void sync() const { __syncwarp(); }
};
struct BlockTeam {
  double* scratch;  // kMaxWarps + 1, shared
  static __device__ __forceinline__ int rank() { return threadIdx.x; }
  static __device__ __forceinline__ int size() { return blockDim.x; }
  __device__ __forceinline__ double sum(double v) const { return block_sum(v, scratch); }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
};

// What each term divides by: the number of valid elements; for weighted cross-entropy on class indices, their weights.
// Top-k terms have theirs, in `aux` of the call, from the selection.
template <class Team>
__device__ __forceinline__ void set_denominators(const Work& w, const Team& team, const double* sums, double* aux) {
  const int columns = columns_of(w), channels = static_cast<int>(w.channels);
  const int rows = static_cast<int>(w.groups) * channels;
  double valid = w.known_valid;
#pragma unroll 1
  for (int i = valid < 0.0 ? -1 : 0; i < w.spec.n_terms; ++i) {
    const bool weighted = i >= 0 && w.spec.terms[i].weighted_mean() && w.class_indices;
    double denominator = valid;
    if (i < 0 || weighted) {
      double own = 0.0;
#pragma unroll 1
      for (int r = team.rank(); r < rows; r += team.size()) {
        const int c = static_cast<unsigned>(r) % static_cast<unsigned>(channels);
        const double each = weighted ? vector_at(w, i, c, 1.0) : (is_softmax(w) && c > 0 ? 0.0 : 1.0);
        own += each * sums[r * columns + (weighted ? fl::kTarget : fl::kValid)];
      }
      denominator = team.sum(own);
    }
    if (i < 0) valid = denominator;
    if (i < 0 || team.rank() >= fl::kAuxColumns) continue;
    const int k = i * fl::kAuxColumns + team.rank();
    const bool topk = w.spec.terms[i].kind == fl::kTopk;
    aux[k] = topk ? __ldcg(w.aux + k) : (team.rank() == fl::kDenominator ? denominator : 0.0);
  }
  team.sync();
}

// fl::region_term, a run of lanes for each group and a lane for each class.
template <class Team>
__device__ __forceinline__ double region_term(const Work& w, const Team& team, int i, const fl::SumsView& v,
                                              const double* sums, double weight, double* grad_sums) {
  const fl::Term& t = w.spec.terms[i];
  int run = 1;  // lanes of a group
  while (run < kWarp && run < v.channels) run *= 2;
  const int groups = t.batch ? 1 : v.groups, lane = team.rank() % run, step = team.size() / run;
  double share = 1.0, value = 0.0;  // share: of a group that has a class that counts
#pragma unroll 1
  for (int pass = t.batch ? 1 : 0; pass < 2; ++pass) {  // first, how many such groups there are
    double own = 0.0;
#pragma unroll 1
    for (int g = team.rank() / run; g - team.rank() / run < groups; g += step) {  // all lanes take part in each turn
      const int group = t.batch ? -1 : g;
      double total = 0.0;
#pragma unroll 1
      for (int c = lane; c < v.channels && g < groups; c += run)
        total += fl::class_weight(t, vector_at(w, i, c, 1.0), v, sums, group, c);
      for (int d = run / 2; d > 0; d /= 2) total += __shfl_xor_sync(kAllLanes, total, d);
      if (!(total > 0.0)) continue;
      if (pass == 0) own += lane == 0;
#pragma unroll 1
      for (int c = lane; c < v.channels && pass == 1; c += run)
        own += fl::region_class(t, vector_at(w, i, c, 1.0) / total, v, sums, group, c, weight * share, grad_sums);
    }
    value = team.sum(own);
    if (pass == 0) share = value > 0.0 ? 1.0 / value : 0.0;
  }
  return value * share;
}

template <class Team>
__device__ __forceinline__ double pointwise_term(const Work& w, const Team& team, int i, const fl::SumsView& v,
                                                 const double* sums, double denominator, double weight,
                                                 double* grad_sums) {
  const double scale = fl::pointwise_scale(w.spec.terms[i], denominator);
  double own = 0.0;
#pragma unroll 1
  for (int at = team.rank() * v.columns + fl::kFixedSums + i; at < v.size(); at += team.size() * v.columns)
    own += sums[at], grad_sums[at] = weight * scale;
  return team.sum(own) * scale;
}

// fl::finalize. `values` and `weights` lie in shared memory.
template <class Team>
__device__ __forceinline__ double finalize(const Work& w, const Team& team, const double* sums, const double* aux,
                                           double* weights, double* values, double* grad_sums) {
  const fl::SumsView v(w.groups, w.channels, columns_of(w));
#pragma unroll 1
  for (int k = team.rank(); k < v.size(); k += team.size()) grad_sums[k] = 0.0;
  if (team.rank() < w.spec.n_terms) weights[team.rank()] = weight_of(w, team.rank());
  team.sync();
  double loss = 0.0;
#pragma unroll 1
  for (int i = 0; i < w.spec.n_terms; ++i) {
    const double value =
        w.spec.terms[i].region()
            ? region_term(w, team, i, v, sums, weights[i], grad_sums)
            : pointwise_term(w, team, i, v, sums, aux[i * fl::kAuxColumns + fl::kDenominator], weights[i], grad_sums);
    if (team.rank() == 0) values[i] = value;
    if (weights[i] != 0.0) loss += weights[i] * value;
  }
  team.sync();
  return loss;
}

// By the threads of one block: what the call returns, and the state for backward.
__device__ __forceinline__ void store_results(const Work& w, double loss, bool bad, const double* sums,
                                              const double* grad_sums, const double* aux, const double* values) {
  const int size = static_cast<int>(sums_size(w));
#pragma unroll 1
  for (int k = threadIdx.x; k < size; k += blockDim.x) {
    if (w.sums != sums) w.sums[k] = sums[k];
    if (w.grad_sums != grad_sums) w.grad_sums[k] = grad_sums[k];
  }
  if (threadIdx.x < w.spec.n_terms * fl::kAuxColumns) w.aux[threadIdx.x] = aux[threadIdx.x];
  if (w.values && threadIdx.x < w.spec.n_terms) w.values[threadIdx.x] = values[threadIdx.x];
  if (threadIdx.x != 0) return;
  if (w.scale) *w.scale = grad_output_of(w);
  if (bad) loss = static_cast<double>(NAN);
  if (w.loss && w.wide) *static_cast<double*>(w.loss) = loss;
  if (w.loss && !w.wide) *static_cast<float*>(w.loss) = static_cast<float>(loss);
}

// The counts [N, C, 4], a part for each block.
__device__ __forceinline__ void store_counts(const Work& w, const Launch& l) {
  const int channels = is_softmax(w) ? static_cast<int>(w.channels) : 1, warp = threadIdx.x / kWarp;
#pragma unroll 1
  for (int part = blockIdx.x; part < w.parts; part += gridDim.x)
#pragma unroll 1
    for (int k = warp; k < 4 * channels; k += blockDim.x / kWarp) {
      const double count = add_slot(w, l, w.slots.counts + k % 4, k / 4, part, 1, 1);
      if (threadIdx.x % kWarp == 0) w.counts[static_cast<int64_t>(part) * channels * 4 + k] = count;
    }
}

// By a warp.
__device__ __forceinline__ double count_bad(const Work& w, const Launch& l) {
  return add_slot(w, l, w.slots.bad, 0, 0, static_cast<int>(w.parts), 1);
}

// The end of the sums, by every block, behind a barrier of the grid: e.grad_sums is there for all its threads after it.
__device__ __forceinline__ void finish_sums(const Work& w, const Launch& l, Epilogue& e) {
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const unsigned columns = columns_of(w), channels = static_cast<unsigned>(w.channels);
  const int size = static_cast<int>(w.groups) * channels * columns;
#pragma unroll 1
  for (int k = warp; k < size; k += warps) {
    const unsigned row = static_cast<unsigned>(k) / columns, group = row / channels;
    const double sum = add_column(w, l, group, row - group * channels, k - row * columns);
    if (threadIdx.x % kWarp == 0) e.sums[k] = sum;
  }
  const double bad = blockIdx.x == 0 && warp == 0 ? count_bad(w, l) : 0.0;
  __syncthreads();
  double loss = 0.0;
  if (warp == 0) {
    const WarpTeam team;
    set_denominators(w, team, e.sums, e.aux);
    loss = finalize(w, team, e.sums, e.aux, e.weights, e.values, e.grad_sums);
  }
  __syncthreads();
  if (blockIdx.x == 0) store_results(w, loss, bad != 0.0, e.sums, e.grad_sums, e.aux, e.values);
  if (w.counts) store_counts(w, l);
}

}  // namespace fl_cuda

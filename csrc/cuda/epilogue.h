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

// Adds up number `slot` of part `first` and the `more` parts at distance `step` behind it. All lanes get the sum.
__device__ __forceinline__ double add_partials(const Work& w, const Launch& l, int64_t first, int64_t parts,
                                               int64_t step, int slot) {
  const int lane = threadIdx.x % kWarp;
  const int64_t size = static_cast<int64_t>(partials_of(w)) * l.blocks;
  double sum = 0.0;
  for (int64_t k = 0; k < parts; ++k) {
    const double* from = w.partials + (first + k * step) * size + static_cast<int64_t>(slot) * l.blocks;
    for (uint32_t b = lane; b < l.blocks; b += kWarp) sum += __ldcg(from + b);
  }
  return warp_sum(sum);
}

// One column of one class and group.
__device__ __forceinline__ double add_column(const Work& w, const Launch& l, int64_t group, int64_t c, int column) {
  const int slot = w.slots.column[column];
  const bool softmax = is_softmax(w);
  // A term of a pixel, not of a class, is in the first class.
  if (slot < 0 || (softmax && c > 0 && column >= fl::kFixedSums)) return 0.0;
  const int64_t step = softmax ? 1 : w.channels, own = softmax ? 0 : c;
  const bool pooled = w.by_sample && w.groups == 1;
  const int64_t first = (w.groups > 1 ? group * step : 0) + own;
  return add_partials(w, l, first, pooled ? w.samples : 1, step,
                      w.slots.at(slot, softmax ? w.channels : 1, softmax ? c : 0));
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

// What each term divides by. Top-k terms have theirs, in `aux` of the call, from the selection.
template <class Team>
__device__ __forceinline__ void set_denominators(const Work& w, const Team& team, const double* sums, double* aux) {
  const int columns = columns_of(w);
  const int64_t rows = w.groups * w.channels;
  const auto total = [&](auto of) {
    double own = 0.0;
    for (int64_t r = team.rank(); r < rows; r += team.size()) own += of(sums + r * columns, r % w.channels);
    return team.sum(own);
  };
  double valid = w.known_valid;
  if (valid < 0.0)
    valid = total([&](const double* row, int64_t c) { return is_softmax(w) && c > 0 ? 0.0 : row[fl::kValid]; });
  for (int i = 0; i < w.spec.n_terms; ++i) {
    const fl::Term& t = w.spec.terms[i];
    double denominator = valid;
    if (t.kind == fl::kCe && t.vector_length && w.class_indices)
      denominator = total([&](const double* row, int64_t c) { return vector_at(w, i, c, 1.0) * row[fl::kTarget]; });
    if (team.rank() != 0) continue;
    double* out = aux + i * fl::kAuxColumns;
    for (int k = 0; k < fl::kAuxColumns; ++k) out[k] = t.kind == fl::kTopk ? w.aux[i * fl::kAuxColumns + k] : 0.0;
    if (t.kind != fl::kTopk) out[fl::kDenominator] = denominator;
  }
  team.sync();
}

// fl::region_term, a run of lanes for each group and a lane for each class.
template <class Team>
__device__ __forceinline__ double region_term(const Team& team, const fl::Term& t, const fl::SumsView& v,
                                              const double* sums, double weight, double* grad_sums) {
  int run = 1;  // lanes of a group
  while (run < kWarp && run < v.channels) run *= 2;
  const int64_t groups = t.batch ? 1 : v.groups, step = team.size() / run;
  const int lane = team.rank() % run;
  double kept = 1.0, value = 0.0;
  for (int pass = t.batch ? 1 : 0; pass < 2; ++pass) {  // first, how many groups have a class that counts
    double own = 0.0;
    for (int64_t begin = 0; begin < groups; begin += step) {  // all lanes take part in each turn
      const int64_t g = begin + team.rank() / run;
      const bool there = g < groups;
      double total = 0.0;
      for (int64_t c = lane; there && c < v.channels; c += run)
        total += fl::class_weight(t, v, sums, t.batch ? -1 : g, c);
      for (int d = run / 2; d > 0; d /= 2) total += __shfl_xor_sync(kAllLanes, total, d);
      if (pass == 0) own += there && lane == 0 && total > 0.0;
      if (pass == 0 || !there || !(total > 0.0)) continue;
      for (int64_t c = lane; c < v.channels; c += run)
        own += fl::region_class(t, v, sums, t.batch ? -1 : g, c, total, weight / kept, grad_sums) / kept;
    }
    own = team.sum(own);
    if (pass == 0) kept = own > 0.0 ? own : 1.0;
    value = own;
  }
  return value;
}

template <class Team>
__device__ __forceinline__ double pointwise_term(const Team& team, const fl::Term& t, int i, const fl::SumsView& v,
                                                 const double* sums, double denominator, double weight,
                                                 double* grad_sums) {
  const double scale = fl::pointwise_scale(t, denominator);
  double own = 0.0;
  for (int64_t r = team.rank(); r < v.groups * v.channels; r += team.size()) {
    own += sums[r * v.columns + fl::kFixedSums + i];
    grad_sums[r * v.columns + fl::kFixedSums + i] = weight * scale;
  }
  return team.sum(own) * scale;
}

// fl::finalize. `values` and `weights` lie in shared memory.
template <class Team>
__device__ __forceinline__ double finalize(const Work& w, const Team& team, const double* sums, const double* aux,
                                           double* weights, double* values, double* grad_sums) {
  const fl::SumsView v{w.groups, w.channels, columns_of(w)};
  for (int64_t k = team.rank(); k < v.size(); k += team.size()) grad_sums[k] = 0.0;
  for (int i = team.rank(); i < w.spec.n_terms; i += team.size()) weights[i] = weight_of(w, i);
  team.sync();
  double loss = 0.0;
#pragma unroll 1
  for (int i = 0; i < w.spec.n_terms; ++i) {
    const fl::Term t = term_of(w, i);
    const double value =
        t.kind == fl::kTversky
            ? region_term(team, t, v, sums, weights[i], grad_sums)
            : pointwise_term(team, t, i, v, sums, aux[i * fl::kAuxColumns + fl::kDenominator], weights[i], grad_sums);
    if (team.rank() == 0) values[i] = value;
    if (weights[i] != 0.0) loss += weights[i] * value;
  }
  team.sync();
  return loss;
}

// By the threads of one block: what the call returns, and the state for backward.
__device__ inline void store_results(const Work& w, double loss, bool bad, const double* sums, const double* grad_sums,
                                     const double* aux, const double* values) {
  const auto put = [&](double* to, const double* from, int64_t n) {
    if (to && to != from)
      for (int64_t k = threadIdx.x; k < n; k += blockDim.x) to[k] = from[k];
  };
  put(w.sums, sums, sums_size(w));
  put(w.grad_sums, grad_sums, sums_size(w));
  put(w.aux, aux, w.spec.n_terms * fl::kAuxColumns);
  put(w.values, values, w.spec.n_terms);
  if (threadIdx.x != 0) return;
  if (w.scale) *w.scale = grad_output_of(w);
  if (bad) loss = static_cast<double>(NAN);
  if (w.loss && w.wide) *static_cast<double*>(w.loss) = loss;
  if (w.loss && !w.wide) *static_cast<float*>(w.loss) = static_cast<float>(loss);
}

// The counts [N, C, 4] of part `part`, by one block.
__device__ inline void store_counts(const Work& w, const Launch& l, int64_t part) {
  const int64_t channels = is_softmax(w) ? w.channels : 1;
  for (int64_t k = threadIdx.x / kWarp; k < 4 * channels; k += blockDim.x / kWarp) {
    const int slot = w.slots.at(w.slots.counts + static_cast<int>(k % 4), channels, k / 4);
    const double count = add_partials(w, l, part, 1, 1, slot);
    if (threadIdx.x % kWarp == 0) w.counts[part * channels * 4 + k] = count;
  }
}

__device__ __forceinline__ double count_bad(const Work& w, const Launch& l) {  // by a warp
  const int64_t channels = is_softmax(w) ? w.channels : 1;
  return w.slots.bad < 0 ? 0.0 : add_partials(w, l, 0, w.parts, 1, w.slots.at(w.slots.bad, channels, 0));
}

// The end of the sums, by every block, behind a barrier of the grid: e.grad_sums is there for all its threads after it.
__device__ inline void finish_sums(const Work& w, const Launch& l, Epilogue& e) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  const int columns = columns_of(w), size = static_cast<int>(sums_size(w));
  for (int k = warp; k < size; k += warps) {
    const int row = k / columns, channels = static_cast<int>(w.channels);
    const double sum = add_column(w, l, row / channels, row % channels, k % columns);
    if (lane == 0) e.sums[k] = sum;
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
  for (int64_t part = blockIdx.x; w.counts && part < w.parts; part += gridDim.x) store_counts(w, l, part);
}

}  // namespace fl_cuda

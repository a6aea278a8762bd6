// From the records of the blocks to the loss and the cotangents of the sums, by one block.
#pragma once
#include "../reduce.h"
#include "params.h"

namespace fl_old {

constexpr int kOwnSums = 512;  // so many sums (groups x channels x columns) a block finishes in shared memory
constexpr int kOwnReduced = 1024;

struct FinishScratch {
  double reduced[kOwnReduced], sums[kOwnSums], dsums[kOwnSums], aux[fl::kMaxTerms * fl::kAuxColumns],
      weights[fl::kMaxTerms], values[fl::kMaxTerms], warps[2 * kMaxWarps + 1], loss, bad;
};

__host__ __device__ __forceinline__ int64_t sums_size(const Params& p) {
  return p.groups * p.channels * sum_columns(p);
}
__host__ __device__ __forceinline__ bool finishes_alone(const Params& p) {
  return sums_size(p) <= kOwnSums && p.parts * record_size(p) <= kOwnReduced;
}

// reduced[part, column]: the records of a part in the order of its blocks, a warp for each number. Work is shared by
// `crew` blocks, of which this is number `self`.
__device__ __forceinline__ void reduce_records(const Params& p, double* reduced, int64_t self, int64_t crew) {
  const int64_t size = record_size(p), warps = blockDim.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  for (int64_t k = self * warps + threadIdx.x / kWarp; k < p.parts * size; k += crew * warps) {
    const double* from = p.records + (k / size) * p.blocks * size + k % size;
    double sum = 0.0;
    for (int64_t b = lane; b < p.blocks; b += kWarp) sum += __ldcg(from + b * size);
    sum = warp_sum(sum);
    if (lane == 0) reduced[k] = sum;
  }
}

// One column of one class and group, out of the reduced records.
__device__ __forceinline__ double gathered(const Params& p, const double* reduced, int64_t g, int64_t c, int column) {
  const int64_t size = record_size(p), columns = sum_columns(p) + 4;
  const bool softmax = p.spec.activation == fl::kSoftmax;
  const int64_t inner = softmax ? c * columns + column : column;
  const auto part = [&](int64_t n) { return softmax ? n : n * p.channels + c; };
  if (!p.by_sample) return reduced[part(0) * size + inner];
  if (p.groups > 1) return reduced[part(g) * size + inner];
  double sum = 0.0;
  for (int64_t n = 0; n < p.samples; ++n) sum += reduced[part(n) * size + inner];
  return sum;
}

__device__ inline void gather_all(const Params& p, const double* reduced, double* sums) {
  const int columns = sum_columns(p);
  for (int64_t k = threadIdx.x; k < sums_size(p); k += blockDim.x) {
    const int64_t row = k / columns;
    sums[k] = gathered(p, reduced, row / p.channels, row % p.channels, static_cast<int>(k % columns));
  }
}

// What each term divides by. Top-k terms have theirs from the selection.
inline __device__ __noinline__ void denominators(const Params& p, const double* sums, double* aux, double* warps) {
  const int columns = sum_columns(p);
  const int64_t rows = p.groups * p.channels;
  const bool softmax = p.spec.activation == fl::kSoftmax;
  double valid = p.known_valid;
  if (valid < 0.0) {
    double own = 0.0;
    for (int64_t r = threadIdx.x; r < rows; r += blockDim.x)
      if (!softmax || r % p.channels == 0) own += sums[r * columns + fl::kValid];
    valid = block_sum(own, warps);
  }
  for (int i = 0; i < p.spec.n_terms; ++i) {
    const fl::Term& t = p.spec.terms[i];
    double* out = aux + i * fl::kAuxColumns;
    double denominator = valid;
    if (t.kind == fl::kCe && t.vector_length && p.ids) {
      double own = 0.0;
      for (int64_t r = threadIdx.x; r < rows; r += blockDim.x)
        own += vector_at(p, i, r % p.channels, 1.0) * sums[r * columns + fl::kTarget];
      denominator = block_sum(own, warps);
    }
    if (threadIdx.x != 0) continue;
    if (t.kind == fl::kTopk) {
      for (int k = 0; k < fl::kAuxColumns; ++k) out[k] = p.aux[i * fl::kAuxColumns + k];
    } else {
      out[fl::kDenominator] = denominator;
      out[fl::kThreshold] = out[fl::kTieWeight] = out[fl::kTopCount] = 0.0;
    }
  }
  __syncthreads();
}

// region_term of math/finalize.h with a warp for each group and a lane for each class.
inline __device__ __noinline__ double region_term(const fl::Term& t, const fl::SumsView& v, const double* sums,
                                                  double weight, double* dsums, double* warps) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, step = blockDim.x / kWarp;
  const int64_t first = t.batch ? -1 : 0, last = t.batch ? 0 : v.groups;
  const auto total_of = [&](int64_t g) {
    double own = 0.0;
    for (int64_t c = lane; c < v.channels; c += kWarp)
      own += fl::class_weight(t, t.vector_at(c, 1.0), v, sums, static_cast<int>(g), static_cast<int>(c));
    return warp_sum(own);
  };
  double kept = 1.0;
  if (!t.batch) {
    double own = 0.0;
    for (int64_t g = warp; g < last; g += step) own += total_of(g) > 0.0 && lane == 0;
    kept = block_sum(own, warps);
  }
  double own = 0.0;
  for (int64_t g = first + warp; g < last; g += step) {
    const double total = total_of(g);
    for (int64_t c = lane; c < v.channels && total > 0.0; c += kWarp)
      own += fl::region_class(t, t.vector_at(c, 1.0) / total, v, sums, static_cast<int>(g), static_cast<int>(c),
                              weight / kept, dsums) /
             kept;
  }
  return block_sum(own, warps);
}

__device__ inline double pointwise_term(const fl::Term& t, int i, const fl::SumsView& v, const double* sums,
                                        double denominator, double weight, double* dsums, double* warps) {
  const double scale = fl::pointwise_scale(t, denominator);
  double own = 0.0;
  for (int64_t r = threadIdx.x; r < v.groups * v.channels; r += blockDim.x) {
    own += sums[r * v.columns + fl::kFixedSums + i];
    dsums[r * v.columns + fl::kFixedSums + i] = weight * scale;
  }
  return block_sum(own, warps) * scale;
}

// fl::finalize by a whole block.
__device__ inline double finalize(const Params& p, const fl::SumsView& v, const double* sums, const double* aux,
                                  const double* weights, double* values, double* dsums, double* warps) {
  for (int64_t k = threadIdx.x; k < v.size(); k += blockDim.x) dsums[k] = 0.0;
  __syncthreads();
  double loss = 0.0;
  for (int i = 0; i < p.spec.n_terms; ++i) {
    const fl::Term t = term_of(p, i);
    const double value =
        t.kind == fl::kTversky
            ? region_term(t, v, sums, weights[i], dsums, warps)
            : pointwise_term(t, i, v, sums, aux[i * fl::kAuxColumns + fl::kDenominator], weights[i], dsums, warps);
    if (threadIdx.x == 0) values[i] = value;
    if (weights[i] != 0.0) loss += weights[i] * value;
  }
  return loss;
}

// From reduced records to everything that is wanted. `sums` and `dsums` are in shared memory or where the results go.
inline __device__ __noinline__ void finish_block(const Params& p, const double* reduced, double* sums, double* dsums,
                                                 FinishScratch& s) {
  double* aux = s.aux;
  gather_all(p, reduced, sums);
  if (threadIdx.x < p.spec.n_terms) s.weights[threadIdx.x] = weight_of(p, threadIdx.x);
  const int64_t size = record_size(p);
  double own = 0.0;
  for (int64_t q = threadIdx.x; q < p.parts; q += blockDim.x) own += reduced[(q + 1) * size - 1];
  const double bad = block_sum(own, s.warps);
  denominators(p, sums, aux, s.warps);
  const fl::SumsView v{p.groups, p.channels, sum_columns(p)};
  if (p.values || p.dsums || dsums == s.dsums) {
    const double loss = finalize(p, v, sums, aux, s.weights, s.values, dsums, s.warps);
    if (threadIdx.x == 0) s.loss = loss;
    __syncthreads();
  }
  const auto put = [&](double* to, const double* from, int64_t n) {
    if (to && to != from)
      for (int64_t k = threadIdx.x; k < n; k += blockDim.x) to[k] = from[k];
  };
  put(p.sums, sums, v.size());
  put(p.dsums, dsums, v.size());
  put(p.aux, aux, p.spec.n_terms * fl::kAuxColumns);
  put(p.values, s.values, p.spec.n_terms);
  if (p.counts) {
    const int columns = sum_columns(p);
    for (int64_t k = threadIdx.x; k < p.samples * p.channels * 4; k += blockDim.x) {
      const int64_t n = k / 4 / p.channels, c = k / 4 % p.channels;
      const bool softmax = p.spec.activation == fl::kSoftmax;
      const int64_t at = softmax ? n * size + c * (columns + 4) : (n * p.channels + c) * size;
      p.counts[k] = reduced[at + columns + k % 4];
    }
  }
  if (threadIdx.x != 0) return;
  if (p.scale) *p.scale = upstream_of(p);
  const double loss = bad != 0.0 ? static_cast<double>(NAN) : s.loss;
  if (p.loss && p.wide) *static_cast<double*>(p.loss) = loss;
  if (p.loss && !p.wide) *static_cast<float*>(p.loss) = static_cast<float>(loss);
}

// The end of the sums, by a single block. Not inlined: kernels hold pixels in registers where others finish.
inline __device__ __noinline__ void finish(const Params& p, FinishScratch& s) {
  const bool small = finishes_alone(p);
  double* reduced = small && !p.is_reduced ? s.reduced : p.reduced;
  if (!p.is_reduced) reduce_records(p, reduced, 0, 1);
  __syncthreads();
  finish_block(p, reduced, small ? s.sums : p.sums, small ? s.dsums : p.dsums, s);
  __syncthreads();
}

// Whether the gradient in `out` is for this upstream gradient already. Remembers it for the next forward.
__device__ inline bool is_settled(const Params& p) {
  if (!p.settling) return false;
  const double upstream = upstream_of(p);
  if (p.predicted && blockIdx.x == 0 && threadIdx.x == 0) *p.predicted = upstream;
  return *p.scale == upstream;
}

}  // namespace fl_old

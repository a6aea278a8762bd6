// The one argument of every kernel, by value: what to compute, on what, and how the work is divided.
//
// Work is divided into parts, the runs of pixels whose sums stay together: a class of the whole batch, or of a sample
// (softmax: all classes at once). Each part has `blocks` blocks of its own, and each block leaves one record of sums;
// records are added in the order of their blocks, so that the same input gives the same bits.
#pragma once
#include "../../math/finalize.h"
#include "../../math/topk.h"
#include "../device.h"
#include "../problem.h"

namespace fl_old {

using namespace fl_cuda;

// What a launch of the kernels for several phases does: the sums; the gradient, from them; both at once, where no sum
// enters the gradient; one after the other; what top-k orders the pixels by; the values of a single term.
enum Phase { kSumPhase, kGradPhase, kBothPhases, kAllPhases, kKeyPhase, kValuePhase };

constexpr int kPool = 160;  // numbers of class vectors that travel inside the argument; more go through the workspace

// x / d for 0 <= x < 2^31 and d >= 1 (Granlund and Montgomery 1994).
struct FastDivisor {
  uint32_t d = 1, magic = 0, shift = 0;
  FastDivisor(uint32_t divisor = 1) : d(divisor) {
    while (shift < 31 && (uint64_t(1) << shift) < d) ++shift;
    magic = static_cast<uint32_t>(((uint64_t(1) << 32) * ((uint64_t(1) << shift) - d)) / d + 1);
  }
  __device__ __forceinline__ uint32_t divide(uint32_t x) const {
    return static_cast<uint32_t>((static_cast<uint64_t>(x) * magic >> 32) + x) >> shift;
  }
};

struct Params {
  Array x, y, mask, pixel_weight, out;
  int64_t samples, channels, space[3], pixels;  // pixels: of a plane
  bool ids, masked, wide;                       // masked: elements can be invalid
  fl::Spec spec;                                // terms[i].vector is null: see vector_of
  int pool_at[fl::kMaxTerms];
  double pool[kPool];
  const double* far_pool;  // instead of `pool` where that is too small

  int64_t groups;  // rows of the sums
  Scalar weights[fl::kMaxTerms];
  Scalar upstream;
  double upstream_value, cut;  // cut: the logit from which on the statistics count a pixel
  double known_valid;          // number of elements that count, where no mask hides it; else -1

  // The division of work
  int64_t parts;
  uint32_t blocks;  // of a part
  bool by_sample;   // a part is of one sample
  int64_t planes;   // of a part: 1, or one per sample
  uint32_t tiles;   // of a part
  FastDivisor tiles_per_plane;
  int held, cached;  // tiles that a block keeps in registers, and beyond those in shared memory
  int pointwise;     // index of the only pointwise term of a hot kernel, else -1
  bool cooperative, is_reduced, settling;
  bool counting;  // also tp, fp, fn, tn, for the statistics
  Phase phase;
  bool selecting;  // the thresholds of top-k are found between the barriers of this launch
  bool at_once;    // no sum enters the gradient
  int head;        // bytes of shared memory for what comes before the sums and after them

  // Workspace
  double* records;                // [parts, blocks, record]
  double* reduced;                // [parts, record], where there are many records
  unsigned long long* histogram;  // top-k: bins of digits
  struct Selection* selection;
  void* keys;  // top-k on classes: one per pixel

  // Results
  void* loss;
  double *values, *sums, *dsums, *aux, *counts, *scale, *predicted;
};

// One for the first digit, which all terms of top-k share, then one for each further digit of each of them.
__host__ __device__ __forceinline__ int histograms_of(const fl::Spec& spec, bool wide) {
  const int levels = ((wide ? 64 : 32) + fl::kRadixBits - 1) / fl::kRadixBits;
  int n = 1;
  for (int i = 0; i < spec.n_terms; ++i) n += spec.terms[i].kind == fl::kTopk ? levels - 1 : 0;
  return n;
}

// Record of a part: its sums (of every class, for softmax), then the four counts of each, then the bad targets.
__host__ __device__ __forceinline__ int sum_columns(const Params& p) { return fl::kFixedSums + p.spec.n_terms; }
__host__ __device__ __forceinline__ int64_t record_channels(const Params& p) {
  return p.spec.activation == fl::kSoftmax ? p.channels : 1;
}
__host__ __device__ __forceinline__ int64_t record_size(const Params& p) {
  return record_channels(p) * (sum_columns(p) + 4) + 1;
}

__device__ __forceinline__ double read(const Scalar& s, double otherwise) {
  if (!s.data) return otherwise;
  return s.wide ? *static_cast<const double*>(s.data) : static_cast<double>(*static_cast<const float*>(s.data));
}
__device__ __forceinline__ double upstream_of(const Params& p) { return read(p.upstream, p.upstream_value); }
__device__ __forceinline__ double weight_of(const Params& p, int term) {
  return p.spec.terms[term].weight * read(p.weights[term], 1.0);
}

// The class vector of a term, which cannot lie in the term: the argument's address is not known when it is filled.
__device__ __forceinline__ const double* vector_of(const Params& p, int term) {
  return p.spec.terms[term].vector_length == 0 ? nullptr : (p.far_pool ? p.far_pool : p.pool) + p.pool_at[term];
}
__device__ __forceinline__ double vector_at(const Params& p, int term, int64_t c, double otherwise) {
  const int64_t length = p.spec.terms[term].vector_length;
  return length == 0 ? otherwise : vector_of(p, term)[length == 1 ? 0 : c];
}
__device__ __forceinline__ fl::Term term_of(const Params& p, int i) {
  fl::Term t = p.spec.terms[i];
  t.vector = vector_of(p, i);
  return t;
}

}  // namespace fl_old

// The arguments of every kernel, by value (about 4 KB), so that nothing is copied to the device before a launch and a
// captured graph holds all but the tensors: what a call computes and on what (Work), and how a launch divides it.
//
// Work is divided into parts, the runs of pixels whose sums stay together: a class of the whole batch, or of a sample
// (softmax: all classes at once). Each part has `blocks` blocks of its own, and each block leaves its partial sums;
// they are added in the order of the blocks, so that the same input gives the same bits.
#pragma once
#include "../math/finalize.h"
#include "../math/label.h"
#include "../math/topk.h"
#include "device.h"
#include "problem.h"

namespace fl_cuda {

constexpr int kPool = 160;  // numbers of class vectors that travel inside the argument; more go through the workspace

// Which numbers a block leaves, chosen by the host: only sums that the terms of the call use. For softmax the first
// `per_class` ones are there for every class; the others are of all classes. -1: not summed, 0 where it is asked for.
struct Slots {
  int per_class = 0, scalars = 0;
  int8_t column[fl::kFixedSums + fl::kMaxTerms];  // of the columns of math/sums.h
  int8_t counts = -1;                             // tp, fp, fn, tn in a row
  int8_t bad = -1;                                // how many targets are out of range

  __host__ __device__ __forceinline__ int count(int64_t channels) const {
    return per_class * static_cast<int>(channels) + scalars;
  }
  // Where a column of class c lies; per-class numbers come first, class after class.
  __host__ __device__ __forceinline__ int at(int slot, int64_t channels, int64_t c) const {
    return slot < per_class ? static_cast<int>(c) * per_class + slot
                            : per_class * static_cast<int>(channels) + slot - per_class;
  }
};

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

struct Work {
  Array x, y, mask, pixel_weight, out;
  int64_t samples, channels, space[3], pixels;  // pixels: of a plane
  bool class_indices, masked, wide, counting;   // masked: elements can be invalid; wide: float64
  bool at_once;                                 // no sum enters the gradient: it can leave with the sums
  fl::Spec spec;                                // terms[i].vector is null: see vector_of
  int pool_at[fl::kMaxTerms];
  double pool[kPool];
  const double* far_pool;  // instead of `pool` where that is too small

  int64_t groups;  // rows of the sums
  bool by_sample;  // a part is of one sample
  int64_t parts;   // sigmoid: those of a channel follow each other
  int64_t planes;  // of a part: 1, or one per sample
  Slots slots;
  Scalar weights[fl::kMaxTerms];
  Scalar grad_output;  // multiplies the gradient; without it `grad_output_value` does
  double grad_output_value;
  double logit_threshold;  // the logit from which on the statistics count a pixel
  FastDivisor by_columns, by_channels;
  double known_valid;  // number of elements that count, where no mask hides it; else -1

  // Workspace
  double* partials;               // [slots, parts, blocks]
  double* totals;                 // [kTotals], where an epilogue of several blocks adds them up
  unsigned long long* histogram;  // top-k: bins of digits
  void* keys;                     // top-k on classes: one per pixel, where the gradient's memory does not hold them

  // Results
  void* loss;
  double *values, *sums, *grad_sums, *aux, *counts, *scale, *predicted;
};

// What a launch does: the sums, the gradient from them, both in one pass (Work::at_once), the one and then the other
// between barriers of the grid, or the values of a single pointwise term.
enum Phase { kSumPhase, kGradPhase, kBothPhases, kAllPhases, kValuePhase };

struct Launch {
  Phase phase;
  uint32_t blocks;  // of a part
  uint32_t tiles;   // of a part
  FastDivisor tiles_per_plane;
  int kept;        // tiles that a block keeps in shared memory across the barrier of the grid
  bool finishes;   // the blocks meet after the sums, and each goes on from the finished ones
  bool rescaling;  // leaves at once if the gradient in `out` is for this grad_output already
};

__device__ __forceinline__ double read(const Scalar& s, double otherwise) {
  if (!s.data) return otherwise;
  return s.wide ? *static_cast<const double*>(s.data) : static_cast<double>(*static_cast<const float*>(s.data));
}
__device__ __forceinline__ double grad_output_of(const Work& w) { return read(w.grad_output, w.grad_output_value); }
__device__ __forceinline__ double weight_of(const Work& w, int term) {
  return w.spec.terms[term].weight * read(w.weights[term], 1.0);
}

// The class vector of a term, which cannot lie in the term: the argument's address is not known when it is filled.
__device__ __forceinline__ const double* vector_of(const Work& w, int term) {
  return w.spec.terms[term].vector_length == 0 ? nullptr : (w.far_pool ? w.far_pool : w.pool) + w.pool_at[term];
}
__device__ __forceinline__ double vector_at(const Work& w, int term, int64_t c, double otherwise) {
  const int64_t length = w.spec.terms[term].vector_length;
  return length == 0 ? otherwise : vector_of(w, term)[length == 1 ? 0 : c];
}
// By how much rounding may leave soft labels of a type outside of [0, 1].
__host__ __device__ __forceinline__ double tolerance_of(int dtype) {
  return fl::label_tolerance(dtype == fl::kF16 ? 0x1p-10 : (dtype == fl::kBF16 ? 0x1p-7 : 0.0));
}

__host__ __device__ __forceinline__ bool is_softmax(const Work& w) { return w.spec.activation == fl::kSoftmax; }
__host__ __device__ __forceinline__ int columns_of(const Work& w) { return fl::kFixedSums + w.spec.n_terms; }
__host__ __device__ __forceinline__ int64_t sums_size(const Work& w) { return w.groups * w.channels * columns_of(w); }
constexpr int kOwnSums = 512;  // so many sums (groups x channels x columns) every block finishes by itself
__host__ __device__ __forceinline__ bool finishes_in_block(const Work& w) { return sums_size(w) <= kOwnSums; }
// Numbers that a block of a part leaves.
__host__ __device__ __forceinline__ int partials_of(const Work& w) {
  return w.slots.count(is_softmax(w) ? w.channels : 1);
}

// Sums over all parts, by which the loss is made of pointwise terms.
enum TotalIndex { kBadTotal, kValidTotal, kTermTotals, kTotals = kTermTotals + fl::kMaxTerms };
constexpr int kToColumn = fl::kFixedSums - kTermTotals;

// Parts of a channel (softmax: of all).
__host__ __device__ __forceinline__ int part_run(const Work& w) {
  return w.by_sample ? static_cast<int>(w.samples) : 1;
}

struct Part {
  int64_t sample, channel, row;  // row: of the sums
};
__device__ __forceinline__ Part part_of(const Work& w, uint32_t part) {
  const uint32_t run = part_run(w), channel = is_softmax(w) ? 0 : part / run, sample = part - channel * run;
  return {sample, channel, w.groups > 1 ? sample : 0};
}

// Where the block leaves number `slot` (Slots::at) of its partial sums.
__device__ __forceinline__ double* partial_at(const Work& w, const Launch& l, int slot) {
  const int64_t part = blockIdx.x / l.blocks, block = blockIdx.x % l.blocks;
  return w.partials + (slot * w.parts + part) * l.blocks + block;
}

// Whether the gradient in `out` is for this grad_output already. Remembers it for the next forward.
__device__ __forceinline__ bool is_rescaled(const Work& w, const Launch& l) {
  if (!l.rescaling) return false;
  const double given = grad_output_of(w);
  if (w.predicted && blockIdx.x == 0 && threadIdx.x == 0) *w.predicted = given;
  return *w.scale == given;
}

}  // namespace fl_cuda

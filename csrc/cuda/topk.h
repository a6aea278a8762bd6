// Exact selection of the k largest by the digits of their keys, from the top: each level counts one digit of the keys
// that share the digits found so far, in shared memory and then with integer atomics, whose order does not matter.
#pragma once
#include "../math/topk.h"
#include "params.h"
#include "reduce.h"

namespace fl_cuda {

// Where a selection stands; in global memory, between the levels.
struct Selection {
  unsigned long long prefix;  // the digits found so far
  long long left;             // rank of the sought element among those that share them
};

template <class T>
constexpr int kLevels = (8 * sizeof(T) + fl::kRadixBits - 1) / fl::kRadixBits;

template <class T>
struct Digit {
  int bits, shift;
  __host__ __device__ __forceinline__ explicit Digit(int level) {
    const int top = static_cast<int>(8 * sizeof(T)) - level * fl::kRadixBits;
    bits = top < fl::kRadixBits ? top : fl::kRadixBits, shift = top - bits;
  }
};

constexpr int kDigitCopies = 4;  // neighbouring lanes count in tables of their own: many keys share a digit

// In shared memory, one a block.
template <class T>
struct DigitCounter {
  using Key = typename fl::KeyOf<T>::type;
  uint32_t bins[fl::kRadixBins][kDigitCopies];
  Key prefix;
  int bits, shift;
  bool first;

  __device__ __forceinline__ void begin(const Params& p, int level) {
    for (int i = threadIdx.x; i < fl::kRadixBins * kDigitCopies; i += blockDim.x)
      bins[i / kDigitCopies][i % kDigitCopies] = 0;
    if (threadIdx.x == 0) {
      const Digit<T> digit(level);
      bits = digit.bits, shift = digit.shift, first = level == 0;
      prefix = first ? Key(0) : static_cast<Key>(p.selection->prefix);
    }
    __syncthreads();
  }
  __device__ __forceinline__ void count(Key key) {
    if (first || (key >> shift >> bits) == prefix)
      atomicAdd(&bins[key >> shift & ((Key(1) << bits) - 1)][threadIdx.x % kDigitCopies], 1u);
  }
  __device__ __forceinline__ void flush(const Params& p) {
    __syncthreads();
    for (int i = threadIdx.x; i < fl::kRadixBins; i += blockDim.x) {
      unsigned long long total = 0;
      for (int k = 0; k < kDigitCopies; ++k) total += bins[i][k];
      if (total) atomicAdd(&p.histogram[i], total);
    }
  }
};

// One block of kSelectThreads: takes the digit off the histogram and leaves that empty for the next level. The last
// level writes the term's aux.
constexpr int kSelectThreads = 512;
template <class T>
__global__ void __launch_bounds__(kSelectThreads) select_digit(const FL_GRID_CONSTANT Params p, int term, int level) {
  using Key = typename fl::KeyOf<T>::type;
  constexpr int kOwn = fl::kRadixBins / kSelectThreads;
  __shared__ unsigned long long above[kSelectThreads];
  const Digit<T> digit(level);
  const bool last = level == kLevels<T> - 1;
  // Thread 0 has the highest bins.
  const int top = fl::kRadixBins - 1 - static_cast<int>(threadIdx.x) * kOwn;
  unsigned long long own[kOwn], sum = 0;
  for (int i = 0; i < kOwn; ++i) own[i] = p.histogram[top - i], sum += own[i], p.histogram[top - i] = 0;
  above[threadIdx.x] = sum;
  __syncthreads();
  for (int d = 1; d < kSelectThreads; d *= 2) {  // inclusive sums from the top
    const unsigned long long more = threadIdx.x >= static_cast<unsigned>(d) ? above[threadIdx.x - d] : 0;
    __syncthreads();
    above[threadIdx.x] += more;
    __syncthreads();
  }
  double* aux = p.aux + term * fl::kAuxColumns;
  const fl::Term& t = p.spec.terms[term];
  const long long n = static_cast<long long>(above[kSelectThreads - 1]);
  const long long count = level == 0 ? fl::topk_count(n, t.k_num, t.k_den) : p.selection->left;
  if (level == 0 && threadIdx.x == 0) {
    aux[fl::kTopCount] = aux[fl::kDenominator] = static_cast<double>(count);
    aux[fl::kThreshold] = aux[fl::kTieWeight] = 0.0;
  }
  const unsigned long long prefix = level == 0 ? 0 : p.selection->prefix;
  __syncthreads();
  if (count == 0 && threadIdx.x == 0) p.selection->left = 0;
  unsigned long long before = above[threadIdx.x] - sum;
  const unsigned long long want = static_cast<unsigned long long>(count);
  if (count == 0 || before >= want || above[threadIdx.x] < want) return;
  for (int i = 0; i < kOwn; ++i) {
    if (before + own[i] < want) {
      before += own[i];
      continue;
    }
    const long long left = static_cast<long long>(want - before);
    const unsigned long long found = (level == 0 ? 0 : prefix << digit.bits) | static_cast<unsigned>(top - i);
    p.selection->prefix = found, p.selection->left = left;
    if (last) {
      aux[fl::kThreshold] = static_cast<double>(fl::topk_value<T>(static_cast<Key>(found)));
      aux[fl::kTieWeight] = static_cast<double>(left) / static_cast<double>(own[i]);
    }
    return;
  }
}

}  // namespace fl_cuda

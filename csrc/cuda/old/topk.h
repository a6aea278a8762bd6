// Exact selection of the k largest by the digits of their keys, from the top: each level counts one digit of the keys
// that share the digits found so far, in shared memory and then with integer atomics, whose order does not matter.
#pragma once
#include "../../math/topk.h"
#include "params.h"
#include "../reduce.h"

namespace fl_old {

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

  __device__ __forceinline__ void begin(int level, Key found) {
    for (int i = threadIdx.x; i < fl::kRadixBins * kDigitCopies; i += blockDim.x)
      bins[i / kDigitCopies][i % kDigitCopies] = 0;
    if (threadIdx.x == 0) {
      const Digit<T> digit(level);
      bits = digit.bits, shift = digit.shift, first = level == 0;
      prefix = first ? Key(0) : found;
    }
    __syncthreads();
  }
  __device__ __forceinline__ void count(Key key) {
    if (first || (key >> shift >> bits) == prefix)
      atomicAdd(&bins[key >> shift & ((Key(1) << bits) - 1)][threadIdx.x % kDigitCopies], 1u);
  }
  __device__ __forceinline__ void flush(unsigned long long* histogram) {
    __syncthreads();
    for (int i = threadIdx.x; i < fl::kRadixBins; i += blockDim.x) {
      unsigned long long total = 0;
      for (int k = 0; k < kDigitCopies; ++k) total += bins[i][k];
      if (total) atomicAdd(&histogram[i], total);
    }
  }
};

constexpr int kSelectThreads = 512;

// In shared memory: the digit in which the wanted element lies.
struct Found {
  unsigned long long above[kSelectThreads], total, ties;
  long long left;
  int digit;
};

// By a block of at least kThreads. want: the rank from the top; found.total: of all bins, right also for a rank beyond
// it.
template <int kThreads = kSelectThreads>
__device__ __forceinline__ void find_digit(const unsigned long long* histogram, long long want, Found& found) {
  constexpr int kOwn = fl::kRadixBins / kThreads;
  const bool takes_part = threadIdx.x < kThreads;
  const int top = fl::kRadixBins - 1 - static_cast<int>(threadIdx.x) * kOwn;  // thread 0 has the highest bins
  unsigned long long own[kOwn], sum = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) own[i] = takes_part ? __ldcg(histogram + top - i) : 0, sum += own[i];
  if (takes_part) found.above[threadIdx.x] = sum;
  __syncthreads();
  for (int d = 1; d < kThreads; d *= 2) {  // inclusive sums from the top
    const bool adds = takes_part && threadIdx.x >= static_cast<unsigned>(d);
    const unsigned long long more = adds ? found.above[threadIdx.x - d] : 0;
    __syncthreads();
    if (adds) found.above[threadIdx.x] += more;
    __syncthreads();
  }
  const unsigned long long rank = static_cast<unsigned long long>(want);
  unsigned long long before = takes_part ? found.above[threadIdx.x] - sum : rank;
  const bool mine = before < rank && before + sum >= rank;
  if (threadIdx.x == kThreads - 1) found.total = before + sum;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (mine && before < rank && before + own[i] >= rank)
      found.digit = top - i, found.ties = own[i], found.left = static_cast<long long>(rank - before);
    before += own[i];
  }
  __syncthreads();
}

template <class Key>
__device__ __forceinline__ Key longer(Key prefix, int bits, int digit, bool first) {
  return (first ? Key(0) : static_cast<Key>(prefix << bits)) | static_cast<Key>(digit);
}

// What a term of top-k selects of the keys: the `top` largest; `left` of the `ties` that lie on the threshold.
template <class T>
struct Pick {
  typename fl::KeyOf<T>::type key = 0;
  long long top = 0, left = 0, ties = 1;

  __device__ __forceinline__ typename fl::KeyOf<T>::type threshold() const { return top ? key : fl::topk_key(T(0)); }
  __device__ __forceinline__ double tie() const { return static_cast<double>(left) / static_cast<double>(ties); }
};
template <class T>
__device__ __forceinline__ void store_pick(const Params& p, int term, const Pick<T>& pick) {
  double* aux = p.aux + term * fl::kAuxColumns;
  aux[fl::kTopCount] = aux[fl::kDenominator] = static_cast<double>(pick.top);
  aux[fl::kThreshold] = static_cast<double>(fl::topk_value<T>(pick.threshold())), aux[fl::kTieWeight] = pick.tie();
}

__device__ __forceinline__ void clear_histograms(const Params& p) {
  const int n = histograms_of(p.spec, p.wide) * fl::kRadixBins, step = gridDim.x * blockDim.x;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) p.histogram[i] = 0;
}

// By all blocks of a cooperative launch. first: the histogram of the first digit, complete; the next ones, behind
// `further`, are empty. count() gives the block's keys to the counter.
template <class T, int kThreads, class F>
__device__ __forceinline__ Pick<T> find_threshold(const fl::Term& term, const unsigned long long* first,
                                                  unsigned long long*& further, DigitCounter<T>& counter, Found& found,
                                                  const F& count) {
  Pick<T> pick;
  find_digit<kThreads>(first, 0, found);
  pick.top = pick.left = fl::topk_count(static_cast<long long>(found.total), term.k_num, term.k_den);
#pragma unroll 1
  for (int level = 0; level < kLevels<T>; ++level) {
    if (level > 0) {
      counter.begin(level, pick.key);
      count();
      further += fl::kRadixBins;
      counter.flush(further);
      grid_barrier();
    }
    if (pick.top == 0) continue;  // nothing takes part, in any block
    find_digit<kThreads>(level == 0 ? first : further, pick.left, found);
    pick.key = longer(pick.key, Digit<T>(level).bits, found.digit, level == 0);
    pick.left = found.left, pick.ties = static_cast<long long>(found.ties);
  }
  return pick;
}

// One block: takes the digit off the histogram and leaves that empty for the next level. The last level writes the
// term's aux.
template <class T>
__global__ void __launch_bounds__(kSelectThreads) select_digit(const FL_GRID_CONSTANT Params p, int term, int level) {
  using Key = typename fl::KeyOf<T>::type;
  __shared__ Found found;
  const Digit<T> digit(level);
  const fl::Term& t = p.spec.terms[term];
  long long want = level == 0 ? 0 : p.selection->left;
  if (level == 0) {  // all elements that take part are counted now, and not before
    find_digit(p.histogram, 0, found);
    want = fl::topk_count(static_cast<long long>(found.total), t.k_num, t.k_den);
    __syncthreads();
  }
  if (want > 0) find_digit(p.histogram, want, found);
  for (int i = threadIdx.x; i < fl::kRadixBins; i += blockDim.x) p.histogram[i] = 0;
  if (threadIdx.x != 0) return;
  double* aux = p.aux + term * fl::kAuxColumns;
  if (level == 0) {
    aux[fl::kTopCount] = aux[fl::kDenominator] = static_cast<double>(want);
    aux[fl::kThreshold] = aux[fl::kTieWeight] = 0.0;
  }
  if (want == 0) {
    p.selection->left = 0;
    return;
  }
  const Key key = longer(static_cast<Key>(p.selection->prefix), digit.bits, found.digit, level == 0);
  p.selection->prefix = key, p.selection->left = found.left;
  if (level != kLevels<T> - 1) return;
  aux[fl::kThreshold] = static_cast<double>(fl::topk_value<T>(key));
  aux[fl::kTieWeight] = static_cast<double>(found.left) / static_cast<double>(found.ties);
}

}  // namespace fl_old

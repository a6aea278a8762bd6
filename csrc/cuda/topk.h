// Exact selection of the k largest by the digits of their keys, from the top: each level counts one digit of the keys
// that share the digits found so far, in shared memory and then with integer atomics, whose order does not matter.
// Between levels all blocks meet, or a launch ends; each block searches the digit itself.
#pragma once
#include "../math/topk.h"
#include "reduce.h"
#include "work.h"

namespace fl_cuda {

template <class T>
constexpr int kLevels = (8 * sizeof(T) + fl::kRadixBits - 1) / fl::kRadixBits;
// One histogram for the first digit, which all terms share, then one for each further digit of each of them.
template <class T>
__host__ __device__ __forceinline__ int histograms_of(int terms) {
  return 1 + terms * (kLevels<T> - 1);
}
template <class T>
__device__ __forceinline__ unsigned long long* histogram_of(const Work& w, int nth, int level) {
  return w.histogram + (level == 0 ? 0 : nth * (kLevels<T> - 1) + level) * fl::kRadixBins;
}
template <class T>
__device__ __forceinline__ void clear_histograms(const Work& w, int terms) {
  const int n = histograms_of<T>(terms) * fl::kRadixBins, step = gridDim.x * blockDim.x;
#pragma unroll 1
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) w.histogram[i] = 0;
}

template <class T>
struct Digit {
  int bits, shift;
  __device__ __forceinline__ explicit Digit(int level) {
    const int top = static_cast<int>(8 * sizeof(T)) - level * fl::kRadixBits;
    bits = top < fl::kRadixBits ? top : fl::kRadixBits, shift = top - bits;
  }
};

// Where the selection of each term of top-k stands; in shared memory, the same in all blocks.
template <class T>
struct Selection {
  using Key = typename fl::KeyOf<T>::type;
  struct Pick {
    Key prefix;                          // the digits found so far; at the end the threshold
    unsigned long long top, left, ties;  // top: elements to select; left: of those that share the prefix
    __device__ __forceinline__ double tie_weight() const {
      return top ? static_cast<double>(left) * (1.0 / static_cast<double>(ties)) : 0.0;
    }
  };
  Pick picks[fl::kMaxTerms];
  unsigned long long warps[kMaxWarps];  // scratch
  uint32_t bins[fl::kRadixBins];

  __device__ __forceinline__ void clear() {
#pragma unroll 1
    for (int i = threadIdx.x; i < fl::kRadixBins; i += blockDim.x) bins[i] = 0;
  }
  // An element, if its key has the digits that term number `nth` has found.
  __device__ __forceinline__ void count(Key key, int nth, int level) {
    const Digit<T> d(level);
    if (level == 0 || (key >> d.shift >> d.bits) == picks[nth].prefix)
      atomicAdd(&bins[key >> d.shift & ((Key(1) << d.bits) - 1)], 1u);
  }
  __device__ __forceinline__ void flush(unsigned long long* histogram) {
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < fl::kRadixBins; i += blockDim.x)
      if (bins[i]) atomicAdd(&histogram[i], static_cast<unsigned long long>(bins[i]));
    __syncthreads();
    clear();
  }

  // The next digit of a term's threshold, from the histogram of all blocks. By all threads; synchronises them.
  __device__ __noinline__ void advance(const unsigned long long* histogram, int nth, int level, const fl::Term& term) {
    Pick& pick = picks[nth];
    const int each = (fl::kRadixBins - 1) / static_cast<int>(blockDim.x) + 1;  // 384 threads do not divide the bins
    const int first = fl::kRadixBins - 1 - static_cast<int>(threadIdx.x) * each,
              own = first + 1 < each ? first + 1 : each;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    unsigned long long sum = 0;  // of this thread's bins, thread 0 has the highest
#pragma unroll 1
    for (int i = 0; i < own; ++i) sum += __ldcg(histogram + first - i);
    unsigned long long above = sum;
#pragma unroll 1
    for (int d = 1; d < kWarp; d *= 2) {
      const unsigned long long more = __shfl_up_sync(kAllLanes, above, d);
      if (lane >= d) above += more;
    }
    if (lane == kWarp - 1) warps[warp] = above;
    __syncthreads();
    unsigned long long before = above - sum, total = 0;
#pragma unroll 1
    for (int i = 0; i < static_cast<int>(blockDim.x) / kWarp; ++i) {
      if (i < warp) before += warps[i];
      total += warps[i];
    }
    if (level == 0 && threadIdx.x == 0) {
      const int64_t top = fl::topk_count(static_cast<int64_t>(total), term.k_num, term.k_den);
      pick.prefix = 0, pick.top = pick.left = static_cast<unsigned long long>(top);
    }
    __syncthreads();
    const unsigned long long rank = pick.left;
    const Key found = level == 0 ? Key(0) : static_cast<Key>(pick.prefix << Digit<T>(level).bits);
    __syncthreads();
    if (rank > 0 && before < rank && before + sum >= rank)
#pragma unroll 1
      for (int i = 0; i < own; ++i) {
        const unsigned long long here = __ldcg(histogram + first - i);
        if (before < rank && before + here >= rank)
          pick.prefix = found | static_cast<Key>(first - i), pick.left = rank - before, pick.ties = here;
        before += here;
      }
    __syncthreads();
  }

  // What backward needs of the finished selection of term `term`. All blocks store the same.
  __device__ __forceinline__ void store(const Work& w, int nth, int term) const {
    const Pick& pick = picks[nth];
    double* aux = w.aux + term * fl::kAuxColumns;
    aux[fl::kTopCount] = aux[fl::kDenominator] = static_cast<double>(pick.top);
    aux[fl::kThreshold] = pick.top ? static_cast<double>(fl::topk_value<T>(pick.prefix)) : 0.0;
    aux[fl::kTieWeight] = pick.tie_weight();
  }
};

}  // namespace fl_cuda

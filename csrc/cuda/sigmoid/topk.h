// Exact selection of the k largest by the digits of their keys, from the top: each level counts one digit of the keys
// that share the digits found so far, in shared memory and then with integer atomics, whose order does not matter.
#pragma once
#include "../../math/topk.h"
#include "walk.h"

namespace fl_cuda {

template <class T>
constexpr int kLevels = (8 * sizeof(T) + fl::kRadixBits - 1) / fl::kRadixBits;

template <class T>
struct Digit {
  int bits, shift;
  __device__ __forceinline__ explicit Digit(int level) {
    const int top = static_cast<int>(8 * sizeof(T)) - level * fl::kRadixBits;
    bits = top < fl::kRadixBits ? top : fl::kRadixBits, shift = top - bits;
  }
};

// Where the selection of a term stands; in shared memory, the same in all blocks.
template <class T>
struct Selection {
  using Key = typename fl::KeyOf<T>::type;
  Key prefix;                           // the digits found so far
  unsigned long long top, left, ties;   // top: elements to select; left: of those that share the prefix
  unsigned long long warps[kMaxWarps];  // scratch
  uint32_t bins[fl::kRadixBins];

  __device__ __forceinline__ void clear() {
#pragma unroll 1
    for (int i = threadIdx.x; i < fl::kRadixBins; i += blockDim.x) bins[i] = 0;
  }
  // An element whose key has the prefix.
  __device__ __forceinline__ void count(Key key, int level) {
    const Digit<T> d(level);
    atomicAdd(&bins[key >> d.shift & ((Key(1) << d.bits) - 1)], 1u);
  }
  __device__ __forceinline__ bool has_prefix(Key key, int level) const {
    const Digit<T> d(level);
    return level == 0 || (key >> d.shift >> d.bits) == prefix;
  }
  __device__ __forceinline__ void flush(unsigned long long* histogram) {
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < fl::kRadixBins; i += blockDim.x)
      if (bins[i]) atomicAdd(&histogram[i], static_cast<unsigned long long>(bins[i]));
    __syncthreads();
    clear();
  }

  // The next digit of the threshold, from the histogram of all blocks. By all threads; synchronises them.
  __device__ __noinline__ void advance(const unsigned long long* histogram, int level, const fl::Term& term) {
    const int own = fl::kRadixBins / blockDim.x, first = fl::kRadixBins - 1 - static_cast<int>(threadIdx.x) * own;
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
    if (level == 0 && threadIdx.x == 0)
      top = left = static_cast<unsigned long long>(fl::topk_count(static_cast<int64_t>(total), term.k_num, term.k_den));
    __syncthreads();
    const unsigned long long rank = left;
    const Key found = level == 0 ? Key(0) : static_cast<Key>(prefix << Digit<T>(level).bits);
    __syncthreads();
    if (rank > 0 && before < rank && before + sum >= rank)
#pragma unroll 1
      for (int i = 0; i < own; ++i) {
        const unsigned long long here = __ldcg(histogram + first - i);
        if (before < rank && before + here >= rank)
          prefix = found | static_cast<Key>(first - i), left = rank - before, ties = here;
        before += here;
      }
    __syncthreads();
  }

  // What backward needs of the finished selection. All blocks store the same.
  __device__ __forceinline__ void store(const Work& w, int term) const {
    double* aux = w.aux + term * fl::kAuxColumns;
    aux[fl::kTopCount] = aux[fl::kDenominator] = static_cast<double>(top);
    aux[fl::kThreshold] = top ? static_cast<double>(fl::topk_value<T>(prefix)) : 0.0;
    aux[fl::kTieWeight] = top ? static_cast<double>(left) / static_cast<double>(ties) : 0.0;
  }
};

// One histogram for the first digit, which all terms share, then one for each further digit of each of them.
template <class T>
__device__ __forceinline__ unsigned long long* histogram_of(const Work& w, int nth, int level) {
  return w.histogram + static_cast<int64_t>(level == 0 ? 0 : nth * (kLevels<T> - 1) + level) * fl::kRadixBins;
}
template <class T>
__device__ __forceinline__ void clear_histograms(const Work& w, int terms) {
  const int n = (1 + terms * (kLevels<T> - 1)) * fl::kRadixBins, step = gridDim.x * blockDim.x;
#pragma unroll 1
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) w.histogram[i] = 0;
}

}  // namespace fl_cuda

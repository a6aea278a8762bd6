// Top-k: the k largest by the digits of their keys, from the top. Each step counts one digit of the keys that share the
// digits found so far, in shared memory and then with integer atomics, whose order does not matter. The first digit is
// counted while the keys are made, further ones are read from the keys alone. Between steps all blocks meet, or a
// launch ends; each block searches the digit itself.
#pragma once
#include "sums.h"
#include "terms.h"

namespace fl_cuda {

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
#pragma unroll 1
    for (int i = threadIdx.x; i < fl::kRadixBins * kDigitCopies; i += blockDim.x)
      bins[i / kDigitCopies][i % kDigitCopies] = 0;
    if (threadIdx.x == 0) {
      const Digit<T> digit(level);
      bits = digit.bits, shift = digit.shift, first = level == 0, prefix = found;
    }
    __syncthreads();
  }
  __device__ __forceinline__ void count(Key key) {
    if (first || (key >> shift >> bits) == prefix)
      atomicAdd(&bins[key >> shift & ((Key(1) << bits) - 1)][threadIdx.x % kDigitCopies], 1u);
  }
  __device__ __forceinline__ void flush(unsigned long long* histogram) {
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < fl::kRadixBins; i += blockDim.x) {
      unsigned long long total = 0;
      for (int k = 0; k < kDigitCopies; ++k) total += bins[i][k];
      if (total) atomicAdd(&histogram[i], total);
    }
    __syncthreads();
  }
};

// What a term selects of the keys: the `top` largest; `left` of the `ties` that lie on the threshold.
template <class T>
struct Pick {
  typename fl::KeyOf<T>::type key;
  long long top, left, ties;
};

// In shared memory.
constexpr int kSearchWarps = 8;
template <class T>
struct Search {
  DigitCounter<T> counter;
  Pick<T> picks[fl::kMaxTerms];
  unsigned long long above[kMaxWarps + 1], ties, before;
  int digit;
};

// Finds the bin of the element of rank `want`, from the top; how many lie above it and in it. Returns how many there
// are in all.
template <class T>
__device__ inline unsigned long long find_digit(const unsigned long long* histogram, long long want, Search<T>& s) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  const int each = (fl::kRadixBins + blockDim.x - 1) / blockDim.x;
  const int top = fl::kRadixBins - 1 - static_cast<int>(threadIdx.x) * each, own = top + 1 < each ? top + 1 : each;
  unsigned long long sum = 0;
#pragma unroll 1
  for (int i = 0; i < own; ++i) sum += __ldcg(histogram + top - i);  // thread 0 has the highest bins
  unsigned long long upto = sum;
  for (int d = 1; d < kWarp; d *= 2) {
    const unsigned long long more = __shfl_up_sync(kAllLanes, upto, d);
    if (lane >= d) upto += more;
  }
  if (lane == kWarp - 1) s.above[warp] = upto;
  __syncthreads();
  unsigned long long before = upto - sum, total = 0;
#pragma unroll 1
  for (int k = 0; k < warps; ++k) {
    if (k < warp) before += s.above[k];
    total += s.above[k];
  }
  const unsigned long long rank = static_cast<unsigned long long>(want);
#pragma unroll 1
  for (int i = 0; i < own && before < rank; ++i) {
    const unsigned long long here = __ldcg(histogram + top - i);
    if (before + here >= rank) s.digit = top - i, s.ties = here, s.before = before;
    before += here;
  }
  __syncthreads();
  return total;
}

// The digit of `level` of term number j, from its histogram.
template <class T>
__device__ inline void advance(const Work& w, const PointTerm<T>& t, int level, const unsigned long long* histogram,
                               Pick<T>& pick, Search<T>& s) {
  const fl::Term& term = w.spec.terms[t.index];
  long long want = pick.left;
  if (level == 0) want = fl::topk_count(static_cast<int64_t>(find_digit(histogram, 0, s)), term.k_num, term.k_den);
  if (want > 0) find_digit(histogram, want, s);
  __syncthreads();
  if (threadIdx.x == 0) {
    if (level == 0) pick = Pick<T>{0, want, want, 1};
    if (want > 0) {
      pick.key = static_cast<typename fl::KeyOf<T>::type>(level ? pick.key << Digit<T>(level).bits : 0) | s.digit;
      pick.left = want - static_cast<long long>(s.before), pick.ties = static_cast<long long>(s.ties);
    }
  }
  __syncthreads();
}

// Calls f(key) for the block's pixels that take part.
template <int kV, class T, class F>
__device__ __forceinline__ void each_key(const Work& w, const Launch& l, const Plan& p, const F& f) {
  using Key = typename fl::KeyOf<T>::type;
  const Turns turns(w, l, p);
  if (threadIdx.x / kWarp % p.slices != 0) return;
#pragma unroll 1
  for (uint32_t turn = 0; turn < turns.count; ++turn) {
    if (!turns.there(turn)) continue;
    const Unit u = unit_of<kV>(w, l, turns.sample, turns.unit(turn));
    const Key* keys = static_cast<const Key*>(p.keys) + u.sample * p.key_sample + u.at;
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      const Key key = i < u.count ? keys[i] : 0;
      if (key) f(key);
    }
  }
}

// After the first digits are counted in s.counter: step 0 hands them over, each further one takes the digit of a level
// off the histograms and counts the next; the last one has the thresholds and adds up what lies above them.
template <int kV, class T>
__device__ __noinline__ void select(const Work& w, const Launch& l, const Plan& p, PointTerm<T>* terms, Search<T>& s) {
  constexpr int kLast = kLevels<T>;
  __shared__ double scratch[kMaxWarps + 1];
  const auto histogram = [&](int pick, int level) {
    return w.histogram + (level == 0 ? 0 : 1 + pick * (kLast - 1) + level - 1) * fl::kRadixBins;
  };
  int known = 0;
#pragma unroll 1
  for (int step = p.first; step <= p.last; ++step) {
    if (l.finishes) grid_barrier();  // first: the histograms are empty
    if (step == 0) {
      s.counter.flush(histogram(0, 0));
      continue;
    }
    int order = 0;
#pragma unroll 1
    for (int j = 0; j < p.terms; ++j) {
      PointTerm<T>& t = terms[j];
      if (!t.picks) continue;
      Pick<T>& pick = s.picks[order];
#pragma unroll 1
      for (int level = known; level < step; ++level) advance(w, t, level, histogram(order, level), pick, s);
      if (step < kLast) {
        s.counter.begin(step, pick.key);
        if (pick.top > 0) each_key<kV, T>(w, l, p, [&](auto key) { s.counter.count(key); });
        s.counter.flush(histogram(order, step));
      } else {
        const auto threshold = pick.top ? pick.key : fl::topk_key(T(0));
        if (threadIdx.x == 0) {
          t.threshold = threshold;
          t.tie = static_cast<T>(static_cast<double>(pick.left) / static_cast<double>(pick.ties));
          if (blockIdx.x == 0) {
            double* aux = w.aux + t.index * fl::kAuxColumns;
            aux[fl::kTopCount] = aux[fl::kDenominator] = static_cast<double>(pick.top);
            aux[fl::kThreshold] = static_cast<double>(fl::topk_value<T>(threshold));
            aux[fl::kTieWeight] = static_cast<double>(pick.left) / static_cast<double>(pick.ties);
          }
        }
        __syncthreads();
        double sum = 0.0;
        each_key<kV, T>(w, l, p, [&](auto key) {
          const T value = fl::topk_value<T>(key), share = t.share(value);
          if (share != T(0)) sum += static_cast<double>(share * value);
        });
        sum = block_sum(sum, scratch);
        if (threadIdx.x == 0)
          *partial_at(w, l, w.slots.at(w.slots.column[fl::kFixedSums + t.index], w.channels, 0)) = sum;
      }
      ++order;
    }
    known = step;
  }
}

}  // namespace fl_cuda

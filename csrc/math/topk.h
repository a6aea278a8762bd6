// Exact top-k by radix selection: order-preserving integer keys, counted digit by digit from the top.
// Ties share the weight that is left: loss = (sum over key > tau + m tau) / k, each tie weighs (m / n_eq) / k.
#pragma once
#include "hd.h"

FL_NAMESPACE_BEGIN

template <class T>
struct KeyOf;
template <>
struct KeyOf<float> {
  using type = uint32_t;
};
template <>
struct KeyOf<double> {
  using type = uint64_t;
};

constexpr int kRadixBits = 11, kRadixBins = 1 << kRadixBits;

// Larger value, larger key. Key 0 is free for elements that do not take part; NaN is the largest, so that it shows.
template <class T>
FL_HD typename KeyOf<T>::type topk_key(T value) {
  using K = typename KeyOf<T>::type;
  constexpr K kSign = K(1) << (8 * sizeof(K) - 1);
  const K bits = bit_cast<K>(value + T(0));  // + 0: -0 and 0 are one value
  const K key = bits & kSign ? K(~bits) : K(bits | kSign);
  return value != value ? K(~K(0)) : key;
}
template <class T>
FL_HD T topk_value(typename KeyOf<T>::type key) {
  using K = typename KeyOf<T>::type;
  constexpr K kSign = K(1) << (8 * sizeof(K) - 1);
  return bit_cast<T>(key & kSign ? K(key & ~kSign) : K(~key));
}

// Hard labels without pixel weights: BCE falls with the margin, so -margin orders the elements exactly and without a
// transcendental.
template <class T>
FL_HD T topk_margin(T x, T y) {
  return y > T(0.5) ? -x : x;
}

// max(1, floor(k n)); k is a decimal fraction so that 0.29 of 100 is 29.
FL_HD int64_t topk_count(int64_t n, int64_t k_num, int64_t k_den) {
  if (n <= 0) return 0;
#ifdef __CUDA_ARCH__  // 128 bits by hand: the compiler's division is longer than all of top-k
  uint64_t high = __umul64hi(n, k_num), low = static_cast<uint64_t>(n) * k_num;
  const uint64_t by = k_den;
#pragma unroll 1
  for (int i = 0; i < 64; ++i) {
    high = high << 1 | low >> 63, low <<= 1;
    if (high >= by) high -= by, low |= 1;
  }
  const int64_t count = static_cast<int64_t>(low);
#else
  const int64_t count = static_cast<int64_t>(static_cast<unsigned __int128>(n) * k_num / k_den);
#endif
  return count < 1 ? 1 : (count > n ? n : count);
}

// The digit in which the remaining k-th largest element lies; takes the elements of higher digits off `k`.
FL_HD int topk_select(const int64_t* histogram, int bins, int64_t* k) {
  for (int digit = bins - 1; digit > 0; --digit) {
    if (histogram[digit] >= *k) return digit;
    *k -= histogram[digit];
  }
  return 0;
}

FL_NAMESPACE_END

// Exact top-k over a whole batch: integer histograms of the keys, one digit at a time, no sort. The first digit is
// counted over all elements; the few that share it are then laid aside.
#pragma once
#include <memory>
#include <mutex>

#include "../math/topk.h"
#include "blocks.h"

FL_NAMESPACE_BEGIN

// A histogram of digits. Neighbours often share a bin: several tables keep one increment from waiting for the other.
struct DigitCounts {
  static constexpr int kTables = 4;
  std::vector<int64_t> total = std::vector<int64_t>(kRadixBins, 0);
  std::vector<uint32_t> table = std::vector<uint32_t>(kTables * kRadixBins, 0);
  int64_t counted = 0;

  template <class K>
  void add(const K* keys, int64_t n, int shift, K mask) {
    uint32_t* bins = table.data();
    int64_t i = 0;
    for (; i + kTables <= n; i += kTables)
      for (int k = 0; k < kTables; ++k) ++bins[k * kRadixBins + (keys[i + k] >> shift & mask)];
    for (; i < n; ++i) ++bins[keys[i] >> shift & mask];
    if ((counted += n) >= int64_t(1) << 31) gather();  // 32 bits suffice until then
  }
  void gather() {
    for (int i = 0; i < kTables * kRadixBins; ++i) total[i % kRadixBins] += table[i], table[i] = 0;
    counted = 0;
  }
};

// Those of n keys that begin with `prefix`, to out, which has room for n more than there are; returns how many.
template <class K>
inline int64_t sharing(const K* keys, int64_t n, int shift, K prefix, K* out) {
  int64_t found = 0, i = 0;
#if defined(__AVX512F__)
  if constexpr (sizeof(K) == 4)
    for (; i + 16 <= n; i += 16) {
      const __m512i key = _mm512_loadu_si512(keys + i);
      const __mmask16 same =
          _mm512_cmpeq_epi32_mask((__m512i)((Unsigned)key >> shift), _mm512_set1_epi32(static_cast<int>(prefix)));
      _mm512_storeu_si512(out + found, _mm512_maskz_compress_epi32(same, key));
      found += __builtin_popcount(same);
    }
#endif
  for (; i < n; ++i) {
    const K key = keys[i];
    out[found] = key, found += key >> shift == prefix;
  }
  return found;
}

// Threshold, tie weight and count of a top-k term among `n` valid elements, into aux[kThreshold…].
// each_chunk(task, f) calls f(keys, n) for the chunks of a task.
template <class T, class EachChunk>
inline void select_topk(const CpuProblem& p, const Blocks& blocks, const Term& t, int64_t n, double* aux,
                        const EachChunk& each_chunk) {
  using K = typename KeyOf<T>::type;
  const int64_t count = topk_count(n, t.k_num, t.k_den);
  aux[kTopCount] = aux[kDenominator] = static_cast<double>(count);
  aux[kThreshold] = aux[kTieWeight] = 0.0;
  if (count == 0) return;
  int shift = 8 * sizeof(K) - kRadixBits;
  DigitCounts all;
  std::mutex merging;
  parallel_tasks(p, blocks.tasks, [&](int64_t begin, int64_t end) {
    DigitCounts own;
    for (int64_t task = begin; task < end; ++task)
      each_chunk(blocks[task],
                 [&](const K* keys, int64_t m) { own.add(keys, m, shift, static_cast<K>(kRadixBins - 1)); });
    own.gather();
    std::lock_guard<std::mutex> lock(merging);
    for (int d = 0; d < kRadixBins; ++d) all.total[d] += own.total[d];
  });
  int64_t left = count;
  K prefix = static_cast<K>(topk_select(all.total.data(), kRadixBins, &left));
  int64_t ties = all.total[prefix];

  std::vector<K> kept(ties);
  std::atomic<int64_t> used{0};
  parallel_tasks(p, blocks.tasks, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<K[]> own(new K[2 * kBlock]);
    for (int64_t task = begin; task < end; ++task) {
      int64_t found = 0;
      each_chunk(blocks[task],
                 [&](const K* keys, int64_t m) { found += sharing(keys, m, shift, prefix, own.get() + found); });
      memcpy(kept.data() + used.fetch_add(found), own.get(), found * sizeof(K));
    }
  });
  while (shift > 0) {
    const int bits = shift < kRadixBits ? shift : kRadixBits;
    shift -= bits;
    DigitCounts digits;
    digits.add(kept.data(), ties, shift, static_cast<K>((K(1) << bits) - 1));
    digits.gather();
    prefix = static_cast<K>(prefix << bits | static_cast<K>(topk_select(digits.total.data(), 1 << bits, &left)));
    ties = sharing(kept.data(), ties, shift, prefix, kept.data());
  }
  aux[kThreshold] = static_cast<double>(topk_value<T>(prefix));
  aux[kTieWeight] = static_cast<double>(left) / static_cast<double>(ties);
}

FL_NAMESPACE_END

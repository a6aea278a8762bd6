// Exact top-k over a whole batch: integer histograms of the keys, one digit at a time, no sort and no copy of the
// elements.
#pragma once
#include <memory>
#include <mutex>

#include "../math/topk.h"
#include "blocks.h"

FL_NAMESPACE_BEGIN

// Counts, over the keys that share the digits found so far (`prefix` above `shift + bits`), the next digit.
// each_chunk(task, f) calls f(keys, n) for the chunks of a task.
template <class K, class EachChunk>
inline void digit_histogram(const Problem& p, const Blocks& blocks, int shift, int bits, K prefix, bool first,
                            int64_t* out, const EachChunk& each_chunk) {
  const int bins = 1 << bits;
  for (int b = 0; b < bins; ++b) out[b] = 0;
  std::mutex merging;
  parallel_tasks(p, blocks.tasks, [&](int64_t begin, int64_t end) {
    // Neighbours often share a bin: two tables keep one increment from waiting for the other. 32 bits suffice for a
    // task, which is emptied into the 64-bit table after it.
    auto local = std::unique_ptr<uint32_t[]>(new uint32_t[2 * kRadixBins]());
    auto wide = std::unique_ptr<int64_t[]>(new int64_t[kRadixBins]());
    uint32_t *even = local.get(), *odd = local.get() + kRadixBins;
    int64_t counted = 0;
    const auto empty = [&] {
      for (int b = 0; b < bins; ++b) wide[b] += int64_t(even[b]) + odd[b], even[b] = odd[b] = 0;
      counted = 0;
    };
    const K mask = static_cast<K>(bins - 1);
    for (int64_t t = begin; t < end; ++t) {
      each_chunk(blocks[t], [&](const K* keys, int64_t n) {
        int64_t i = 0;
        if (first) {
          for (; i + 2 <= n; i += 2) ++even[keys[i] >> shift], ++odd[keys[i + 1] >> shift];
          for (; i < n; ++i) ++even[keys[i] >> shift];
        } else {
          for (; i < n; ++i)
            if (keys[i] >> (shift + bits) == prefix) ++even[keys[i] >> shift & mask];
        }
      });
      counted += kBlock;
      if (counted >= int64_t(1) << 31) empty();
    }
    empty();
    std::lock_guard<std::mutex> lock(merging);
    for (int b = 0; b < bins; ++b) out[b] += wide[b];
  });
}

// Threshold, tie weight and count of a top-k term among `n` valid elements, into aux[kThreshold…].
template <class T, class EachChunk>
inline void select_topk(const Problem& p, const Blocks& blocks, const Term& t, int64_t n, double* aux,
                        const EachChunk& each_chunk) {
  using K = typename KeyOf<T>::type;
  const int64_t count = topk_count(n, t.k_num, t.k_den);
  aux[kTopCount] = aux[kDenominator] = static_cast<double>(count);
  aux[kThreshold] = aux[kTieWeight] = 0.0;
  if (count == 0) return;
  auto histogram = std::unique_ptr<int64_t[]>(new int64_t[kRadixBins]);
  K prefix = 0;
  int64_t left = count, ties = 0;
  for (int top = 8 * sizeof(K); top > 0;) {
    const int bits = top < kRadixBits ? top : kRadixBits;
    top -= bits;
    digit_histogram<K>(p, blocks, top, bits, prefix, top + bits == int(8 * sizeof(K)), histogram.get(), each_chunk);
    const int digit = topk_select(histogram.get(), 1 << bits, &left);
    prefix = static_cast<K>(prefix << bits | static_cast<K>(digit));
    ties = histogram[digit];
  }
  aux[kThreshold] = static_cast<double>(topk_value<T>(prefix));
  aux[kTieWeight] = static_cast<double>(left) / static_cast<double>(ties);
}

FL_NAMESPACE_END

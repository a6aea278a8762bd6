// What the kernel of softmax_small.h does with a thread's pixels: sums, values and slopes of the pointwise terms, the
// gradient, and the block's record.
#pragma once
#include "softmax_small.h"

namespace fl_old {

// 128 registers a thread, 168 for more than eight classes: none of them spills. Where the block holds pixels it has the
// multiprocessor to itself; where pixels only pass, two blocks share it.
template <int kC>
constexpr int kHoldingThreads = kC > 8 ? 384 : 512;
template <int kC>
constexpr int kPassingThreads = kHoldingThreads<kC> / 2;
constexpr int kSomeThreads = 256;  // of a block, whatever its size
constexpr int kTilesPerFlush = 8;  // packed counts hold 255 pixels of a class

template <int kC>
struct SmallShared {
  PointTerms<float> terms;
  SmallAccess access;
  float weight[fl::kMaxTerms][kC];  // of classes, by term
  float pred[kC], inter[kC];        // slopes of the sums
  double sums[3][kC][kMaxWarps], totals[fl::kMaxTerms];
  int bad;  // whether a label is
};

// What a thread has added up since the last flush.
template <int kC>
struct SmallSums {
  float pred[kC], inter[kC];
  uint64_t target[(kC + 7) / 8];  // a byte for each class

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int c = 0; c < kC; ++c) pred[c] = inter[c] = 0.0f;
#pragma unroll
    for (int k = 0; k < (kC + 7) / 8; ++k) target[k] = 0;
  }
  // Into the warp's slots. The lane of a class is always the same.
  __device__ __forceinline__ void flush(SmallShared<kC>& s) {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, share = kWarp / kC;
    float count[kC];
#pragma unroll
    for (int c = 0; c < kC; ++c) count[c] = static_cast<float>(target[c / 8] >> (c % 8 * 8) & 0xff);
    warp_sums<kC>(pred), warp_sums<kC>(inter), warp_sums<kC>(count);
    if (lane % share == 0) {
      s.sums[0][lane / share][warp] += static_cast<double>(inter[0]);
      s.sums[1][lane / share][warp] += static_cast<double>(pred[0]);
      s.sums[2][lane / share][warp] += static_cast<double>(count[0]);
    }
    clear();
  }
};

template <int kC>
__device__ __forceinline__ void add_classes(const Params& p, const SmallSoftmax<kC>& a, SmallSums<kC>& sums) {
  constexpr int kV = SmallSoftmax<kC>::kV;
#pragma unroll
  for (int c = 0; c < kC; ++c) {
    if (c >= p.channels) break;
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      const float probability = a.e[c][i] * a.inv[i];
      sums.pred[c] += probability;
      sums.inter[c] += a.id[i] == c ? probability : 0.0f;
    }
  }
}
template <int kC>
__device__ __forceinline__ void count_targets(const SmallSoftmax<kC>& a, SmallSums<kC>& sums) {
#pragma unroll
  for (int i = 0; i < SmallSoftmax<kC>::kV; ++i)
#pragma unroll
    for (int k = 0; k < (kC + 7) / 8; ++k) sums.target[k] += a.id[i] >> 3 == k ? uint64_t(1) << (a.id[i] % 8 * 8) : 0;
}

// The pointwise terms: their sums, and the slope dL/d(log p_t) into `slope`. unpicked: without those of top-k.
template <bool kValues, bool kGrads, int kC>
__device__ __forceinline__ void add_terms(const SmallShared<kC>& s, const SmallSoftmax<kC>& a, bool unpicked,
                                          double* points, float (&slope)[SmallSoftmax<kC>::kV]) {
  constexpr int kV = SmallSoftmax<kC>::kV;
  float miss[kV];
#pragma unroll
  for (int i = 0; i < kV; ++i) {
    slope[i] = 0.0f;
    miss[i] = fl::relu(1.0f - fl::exp_minus(fl::abs_(a.nll[i])));
  }
#pragma unroll 1
  for (int j = 0; j < s.terms.count; ++j) {
    const PointTerm<float>& t = s.terms.term[j];
    if (kValues && unpicked && t.picks) continue;
    t.visit([&](const auto& element) {
      float total = 0.0f;
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        const float w = s.weight[j][a.id[i] < 0 ? 0 : a.id[i]];
        float value = kValues || t.picks ? element.value(a.nll[i], miss[i], w) : 0.0f;
        const float share = a.id[i] < 0 ? 0.0f : t.share(value);
        if (kValues) total += share != 0.0f ? share * value : 0.0f;
        if (kGrads) slope[i] = fl::fma_(share * t.scale, element.slope(a.nll[i], miss[i], w), slope[i]);
      }
      if (kValues) points[j * blockDim.x + threadIdx.x] += static_cast<double>(total);
    });
  }
}

// g_c = p_c (dL/dp_c - dot - slope) + y_c slope
template <class X, int kC>
__device__ __forceinline__ void store_gradient(const Params& p, const SmallShared<kC>& s, const SmallAccess& access,
                                               const SmallPlace& at, const SmallSoftmax<kC>& a,
                                               const float (&slope)[kSmallWidth<kC>]) {
  constexpr int kV = kSmallWidth<kC>;
  using Row = Vector<X, kV>;
  float dot[kV];
#pragma unroll
  for (int i = 0; i < kV; ++i) dot[i] = 0.0f;
  if (s.terms.region)
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      if (c >= p.channels) break;
#pragma unroll
      for (int i = 0; i < kV; ++i)
        dot[i] = fl::fma_(a.e[c][i], a.id[i] == c ? s.pred[c] + s.inter[c] : s.pred[c], dot[i]);
    }
#pragma unroll
  for (int i = 0; i < kV; ++i) dot[i] = fl::fma_(dot[i], a.inv[i], slope[i]);
  X* to = static_cast<X*>(p.out.data) + at.sample * p.out.sample + at.at;
#pragma unroll
  for (int c = 0; c < kC; ++c, to += p.out.channel) {
    if (c >= p.channels) break;
    Row row;
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      const bool own = a.id[i] == c;
      const float region = own ? s.pred[c] + s.inter[c] : s.pred[c];
      narrow(fl::fma_(a.e[c][i] * a.inv[i], region - dot[i], own ? slope[i] : 0.0f), access.brain, row.x[i]);
    }
    if (access.out && at.count == kV) {
      __stcs(reinterpret_cast<typename Row::Chunk*>(to), row.chunk[0]);
    } else {
#pragma unroll
      for (int i = 0; i < kV; ++i)
        if (i < at.count) to[i] = row.x[i];
    }
  }
}

template <int kC>
__device__ __forceinline__ void set_slopes(const Params& p, const double* row, bool slopes, SmallShared<kC>& s) {
  if (threadIdx.x == 0) fill_terms(p, row, slopes, s.terms);
  __syncthreads();
  const double up = row ? upstream_of(p) : 0.0;
  for (int c = threadIdx.x; c < kC; c += blockDim.x) {
    const double* d = row && c < p.channels ? row + static_cast<int64_t>(c) * sum_columns(p) : nullptr;
    s.pred[c] = d ? static_cast<float>(up * d[fl::kPred]) : 0.0f;
    s.inter[c] = d ? static_cast<float>(up * d[fl::kInter]) : 0.0f;
  }
  for (int k = threadIdx.x; k < s.terms.count * kC; k += blockDim.x) {
    const int j = k / kC, c = k % kC;
    s.weight[j][c] = c < p.channels ? static_cast<float>(vector_at(p, s.terms.term[j].index, c, 1.0)) : 0.0f;
  }
  __syncthreads();
}

// The block's record: [C][columns + 4], then the bad targets.
template <int kC>
__device__ __forceinline__ void write_record(const Params& p, SmallShared<kC>& s, const double* points) {
  add_up_points(points, s.terms.count, s.totals);
  const int columns = sum_columns(p), warps = blockDim.x / kWarp;
  const int width = columns + 4, size = static_cast<int>(record_size(p));
  double* record = p.records + static_cast<int64_t>(blockIdx.x) * size;
  const auto sum_of = [&](int k, int c) {
    double sum = 0.0;
    for (int w = 0; w < warps; ++w) sum += s.sums[k][c][w];
    return sum;
  };
  __syncthreads();
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    const int c = i / width, column = i % width;
    double v = 0.0;
    if (i == size - 1) {
      v = s.bad;
    } else if (column == fl::kValid) {
      for (int k = 0; k < p.channels; ++k) v += sum_of(2, k);
    } else if (column <= fl::kTarget) {
      v = sum_of(column - fl::kInter, c);
    } else if (c == 0) {
      for (int j = 0; j < s.terms.count; ++j)
        if (column == fl::kFixedSums + s.terms.term[j].index) v = s.totals[j];
    }
    record[i] = v;
  }
}

}  // namespace fl_old

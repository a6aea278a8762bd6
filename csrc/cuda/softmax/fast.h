// Class indices and float32 or 16-bit logits: a thread holds up to K classes of V pixels in registers. Loops over the
// classes are unrolled, two at a time, and end where the classes do.
#pragma once
#include "access.h"
#include "sums.h"
#include "terms.h"

namespace fl_cuda {

// kSliced: several warps may share a pixel's classes.
template <class X_, int kK_, int kV_, bool kSliced_>
struct Fast {
  using X = X_;
  // Of a block; twice as many where 16 warps share a pixel. 384: with 168 registers each.
  static constexpr int kThreads = kSliced_ ? 256 : (kK_ * kV_ > 32 ? 384 : 512), kMost = kSliced_ ? 512 : kThreads;
  static constexpr int kBlocks = kK_ <= 4 || kSliced_ ? 2 : 1;  // of a multiprocessor
  using Row = Vector<X, kV_>;
  static constexpr int kK = kK_, kV = kV_;
  static constexpr bool kSliced = kSliced_;
};

// What a thread keeps in shared memory of pixels that it has read, [class of the thread][thread], then of each thread
// the classes: the first `turns` turns from the sums to the gradient; and one turn, the stage, whose pixels cannot be
// read or written as vectors.
template <class F>
struct Kept {
  using Row = typename F::Row;
  using Classes = Vector<int16_t, F::kV>;
  using Numbers = Vector<float, F::kV>;
  unsigned char* memory;
  const Plan& p;

  __device__ __forceinline__ Kept(const Plan& q, unsigned char* m) : memory(m), p(q) {}
  static __host__ __device__ __forceinline__ uint32_t bytes(int share, int threads) {
    return threads * (share * sizeof(Row) + sizeof(Classes));
  }
  static __host__ __device__ __forceinline__ uint32_t stage_bytes(int share, int threads) {
    return bytes(share, threads) + 2 * threads * sizeof(Numbers);
  }
  static __device__ __forceinline__ uint32_t step() { return blockDim.x * sizeof(Row); }
  __device__ __forceinline__ unsigned char* at(uint32_t turn) const {
    return memory + p.kept + turn * bytes(p.share, blockDim.x);
  }
  __device__ __forceinline__ unsigned char* stage() const { return memory + p.stage; }
  static __device__ __forceinline__ unsigned char* rows(unsigned char* at) { return at + threadIdx.x * sizeof(Row); }
  __device__ __forceinline__ Classes& classes(unsigned char* at) const {
    return reinterpret_cast<Classes*>(at + p.share * blockDim.x * sizeof(Row))[threadIdx.x];
  }
  __device__ __forceinline__ Numbers& number(int what) const {  // 0: the target's logit, 1: the pixel's weight
    return reinterpret_cast<Numbers*>(stage() + bytes(p.share, blockDim.x))[what * blockDim.x + threadIdx.x];
  }
};

// Pixels of any strides to the stage, and from there. Whether a label is bad.
template <class F>
__device__ __noinline__ bool gather(const Work& w, const Plan& p, unsigned char* memory, Unit u) {
  constexpr int kV = F::kV;
  using X = typename F::X;
  const Kept<F> kept(p, memory);
  const Slice s(w, p);
  bool bad = false;
  unsigned char* to = kept.rows(kept.stage());
#pragma unroll 1
  for (int i = 0; i < kV; ++i) {
    const int id = class_at(w, p, u, i);
    bad |= id == kBad;
    float weight[1] = {1.0f};
    if (w.pixel_weight.data && id >= 0)
      load_numbers<float, 1>(w, p, w.pixel_weight, p.weight, Unit{u.sample, u.at + i, 1, false}, 0, weight);
    const X* from = static_cast<const X*>(w.x.data) + u.sample * w.x.sample;
    const bool there = i < u.count;
    if (there) from += offset_of(w, p, w.x, p.x, u.at + i);
    kept.classes(kept.stage()).x[i] = static_cast<int16_t>(id);
    kept.number(0).x[i] = id < 0 ? 0.0f : widen(from[id * w.x.channel], p.brain);
    kept.number(1).x[i] = id < 0 ? 0.0f : weight[0];
    from += s.first * w.x.channel;
#pragma unroll 4
    for (int k = 0; k < s.count; ++k)
      reinterpret_cast<X*>(to + k * Kept<F>::step())[i] = there ? from[k * w.x.channel] : X{};
  }
  return bad;
}
template <class F>
__device__ __noinline__ void scatter(const Work& w, const Plan& p, unsigned char* memory, Unit u) {
  using X = typename F::X;
  const Kept<F> kept(p, memory);
  const Slice s(w, p);
  const unsigned char* from = kept.rows(kept.stage());
#pragma unroll 1
  for (int i = 0; i < u.count; ++i) {
    X* to = static_cast<X*>(w.out.data) + u.sample * w.out.sample + s.first * w.out.channel +
            offset_of(w, p, w.out, p.out, u.at + i);
#pragma unroll 4
    for (int k = 0; k < s.count; ++k) to[k * w.out.channel] = reinterpret_cast<const X*>(from + k * Kept<F>::step())[i];
  }
}

__device__ __forceinline__ int renewed(int v) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(v));
#endif
  return v;
}

// The softmax of a thread's pixels: e * inv is the probability, 0 in pixels that do not count.
template <class F>
struct Pixels {
  static constexpr int kK = F::kK, kV = F::kV;
  using X = typename F::X;
  using Row = typename F::Row;
  Row row[kK];
  float e[kK][kV], inv[kV], log_sum[kV];
  float nll[kV], own[kV];  // of the target class: -log p and p
  float more[kV];          // gradient: the sum of p times its slope; else of the weighted distances to the maximum
  float weight[kV];        // of the pixel
  int id[kV], said[kV];
  float target[kV];  // the logit of the target class
  Unit unit;

  // f(k, i) for the thread's classes, two at a time; an odd number leaves one more. The number is made to look new to
  // each loop: else the compiler keeps all its comparisons, in registers that are not there.
  template <class G>
  static __device__ __forceinline__ void each(const Slice& s, const G& f) {
    const int count = renewed(s.count);
#pragma unroll
    for (int k = 0; k < kK; k += 2) {
      if (k >= count) break;
#pragma unroll
      for (int j = k; j < k + 2; ++j)
#pragma unroll
        for (int i = 0; i < kV; ++i) f(j, i);
    }
  }
  // f(k), without one more.
  template <class G>
  static __device__ __forceinline__ void each_class(const Slice& s, const G& f) {
    const int count = renewed(s.count);
#pragma unroll
    for (int k = 0; k < kK; ++k) {
      if (k % 2 == 0 && k >= count) break;
      if (k % 2 == 0 || k < count) f(k);
    }
  }

  // Where the thread's logits lie, and from there to the next class; as vectors.
  struct From {
    unsigned char* at;
    uint32_t step;
  };
  static __device__ __forceinline__ From far(const Array& a, const Slice& s, const Unit& u) {
    X* at = static_cast<X*>(a.data) + u.sample * a.sample + s.first * a.channel + u.at;
    return {reinterpret_cast<unsigned char*>(at), static_cast<uint32_t>(a.channel) * static_cast<uint32_t>(sizeof(X))};
  }
  __device__ __forceinline__ void load_rows(const Slice& s, const From& from) {
    const unsigned char* at = from.at;
    const unsigned step = renewed(from.step);
    each_class(s, [&](int k) {
      row[k].load(at);
      at += step;
    });
  }
  __device__ __forceinline__ void store_rows(const Slice& s, const From& to) const {
    unsigned char* at = to.at;
    const unsigned step = renewed(to.step);
    each_class(s, [&](int k) {
      *reinterpret_cast<typename Row::Chunk*>(at) = row[k].chunk[0];
      at += step;
    });
  }
  // Pixels that are vectors in memory, or lie on the stage, or were kept.
  enum Where { kFar, kStage, kNear };
  __device__ __forceinline__ void load(const Work& w, const Plan& p, const Slice& s, const Kept<F>& kept, Where where,
                                       uint32_t turn, bool& bad) {
    From from;
    if (where == kFar) {
      load_classes<kV>(w, p, unit, id, bad);
      from = far(w.x, s, unit);
    } else {
      unsigned char* near = where == kStage ? kept.stage() : kept.at(turn);
      const typename Kept<F>::Classes own = kept.classes(near);
#pragma unroll
      for (int i = 0; i < kV; ++i) id[i] = own.x[i];
      from = {Kept<F>::rows(near), Kept<F>::step()};
    }
    load_rows(s, from);
    if (where == kStage) {
      const typename Kept<F>::Numbers logit = kept.number(0), own = kept.number(1);
#pragma unroll
      for (int i = 0; i < kV; ++i) target[i] = logit.x[i], weight[i] = own.x[i];
      return;
    }
    const X* logits = static_cast<const X*>(w.x.data) + unit.sample * w.x.sample + unit.at;
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      const float logit = widen(logits[static_cast<uint64_t>(static_cast<uint32_t>(id[i] < 0 ? 0 : id[i])) *
                                           static_cast<uint32_t>(w.x.channel) +
                                       i],
                                p.brain);
      target[i] = id[i] < 0 ? 0.0f : logit;  // whatever lies there
      weight[i] = id[i] < 0 ? 0.0f : 1.0f;
    }
    if (w.pixel_weight.data) {
      Vector<float, kV> own;
      own.load(static_cast<const float*>(w.pixel_weight.data) + unit.sample * w.pixel_weight.sample + unit.at);
#pragma unroll
      for (int i = 0; i < kV; ++i) weight[i] = id[i] < 0 ? 0.0f : own.x[i];
    }
  }

  // Two places, in turn.
  template <bool kMax, bool kPairs, int kN>
  static __device__ __forceinline__ void join(const Plan& p, unsigned char* memory, float (&v)[kN]) {
    if constexpr (F::kSliced)
      meet<kMax, kPairs>(p, shared_at<float>(memory, p.meeting) + (kMax ? 0 : 2 * kV * blockDim.x), v);
  }

  // slopes: of the sum of p, by class (gradient), or the weights of the term that smooths its labels, or null.
  template <bool kGrad>
  __device__ __forceinline__ void set(const Work& w, const Plan& p, const Slice& s, unsigned char* memory,
                                      const float* slopes) {
    constexpr float kUnit = 1.44269504f;  // powers of two
    float max[kV];
    bool skips = false;
#pragma unroll
    for (int i = 0; i < kV; ++i) max[i] = -INFINITY, skips |= id[i] < 0;
    each(s, [&](int k, int i) { e[k][i] = k % 2 == 0 || k < s.count ? widen(row[k].x[i], p.brain) : -INFINITY; });
    if (__any_sync(kAllLanes, skips)) {  // whatever lies in pixels that do not count
      each(s, [&](int k, int i) {
        if (k % 2 == 0 || k < s.count) e[k][i] = id[i] < 0 ? 0.0f : e[k][i];
      });
    }
    each(s, [&](int k, int i) { max[i] = fmaxf(max[i], e[k][i]); });
    if (!kGrad && w.counting) {
      float found[2 * kV];
#pragma unroll
      for (int i = 0; i < kV; ++i) found[i] = max[i], found[kV + i] = static_cast<float>(s.first);
#pragma unroll
      for (int k = kK - 1; k >= 0; --k)
#pragma unroll
        for (int i = 0; i < kV; ++i)
          if (k < s.count && e[k][i] == max[i]) found[kV + i] = static_cast<float>(s.first + k);
      join<true, true>(p, memory, found);
#pragma unroll
      for (int i = 0; i < kV; ++i) max[i] = found[i], said[i] = static_cast<int>(found[kV + i]);
    } else {
      join<true, false>(p, memory, max);
    }
    float found[2 * kV];  // the sum of exponentials, then `more`
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      found[i] = found[kV + i] = 0.0f;
      if (fabsf(max[i]) < 1e38f) continue;  // else the limit: the class that has an infinite maximum gets it all
#pragma unroll
      for (int k = 0; k < kK; ++k) {
        if (k >= s.count) break;
        e[k][i] = fl::softmax_shift<true>(e[k][i], max[i]);
      }
      target[i] = fl::softmax_shift<true>(target[i], max[i]);
      max[i] = 0.0f;
    }
    if (!kGrad && slopes)
      each(s, [&](int k, int i) {
        if (k % 2 == 0 || k < s.count) found[kV + i] = fl::fma_(slopes[s.first + k], max[i] - e[k][i], found[kV + i]);
      });
#pragma unroll
    for (int i = 0; i < kV; ++i) max[i] *= -kUnit;
    each(s, [&](int k, int i) {
      e[k][i] = fl::exp2_(fl::fma_(e[k][i], kUnit, max[i]));
      found[i] += e[k][i];
      if (kGrad) found[kV + i] = fl::fma_(e[k][i], slopes[s.first + k], found[kV + i]);
    });
    join<false, false>(p, memory, found);
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      const float power = fl::fma_(target[i], kUnit, max[i]), all = fl::inverse(found[i]);
      log_sum[i] = fl::log_(found[i]);
      nll[i] = fl::fma_(power, -0.693147181f, log_sum[i]);
      inv[i] = id[i] < 0 ? 0.0f : all;
      own[i] = fl::exp2_(power) * inv[i];
      more[i] = kGrad ? found[kV + i] * inv[i] : found[kV + i];
    }
  }

  // g_c = p_c (dL/dp_c - less) + flat_c + [c is the target's] extra, into the rows
  __device__ __forceinline__ void gradient(const Plan& p, const Slice& s, const Tables<float>& tables,
                                           const float (&slope)[kV], float flats) {
    float less[kV], extra[kV];
    int local[kV];
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      const float inter = own[i] * tables.inter()[id[i] < 0 ? 0 : id[i]];
      less[i] = -inv[i] * (more[i] + inter + fl::fma_(flats, weight[i], slope[i]));
      extra[i] = inter + slope[i];
      local[i] = id[i] - s.first;
    }
    const float* pred = tables.pred() + s.first;
    each(s, [&](int k, int i) {
      e[k][i] *= fl::fma_(inv[i], pred[k], less[i]);
      if (local[i] == k) e[k][i] += extra[i];
    });
    if (p.flats) {
      const float* flat = tables.flat() + s.first;
      each(s, [&](int k, int i) { e[k][i] = fl::fma_(flat[k], weight[i], e[k][i]); });
    }
    each(s, [&](int k, int i) { narrow(e[k][i], p.brain, row[k].x[i]); });
  }
};

}  // namespace fl_cuda

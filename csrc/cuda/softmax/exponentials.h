// The softmax of a thread's four pixels, for class indices: their classes lie in shared memory (tile.h), where they are
// logits, then exponentials, then the gradient.
#pragma once
#include "pixels.h"
#include "tile.h"

namespace fl_cuda {

template <class X>
struct Exponentials : SharedPixels<float> {
  static constexpr float kUnit = 1.44269504f;  // powers of two

  ClassTile<X> tile;
  float inv[kV];                // e * inv is the probability, 0 in pixels that do not count
  float nll[kV], own[kV];       // of the target class: -log p and p
  float log_sum[kV], more[kV];  // more: sum of p times its slope; or of the weighted distances to the maximum

  using SharedPixels<float>::SharedPixels;

  // The block's first l.kept units keep their tile, with what is of the pixels in rows behind the classes; for others
  // the group has one.
  __device__ __forceinline__ uint32_t place(uint32_t turn) const { return turn * turns.groups + turns.group; }
  __device__ __forceinline__ bool keeps(uint32_t turn) const { return place(turn) < static_cast<uint32_t>(l.kept); }
  __device__ __forceinline__ void begin(uint32_t turn, const Cursor& at) {
    const uint32_t rows = static_cast<uint32_t>(w.channels);
    tile.base = keeps(turn) ? memory + p.kept + place(turn) * (rows + kPixelRows) * kRowBytes
                            : memory + p.stage + turns.group * rows * kRowBytes;
    unit = turns.there(turn) ? at.unit<kV>(w) : Unit{0, 0, 0, false};
  }

  __device__ __forceinline__ float logit(int k, int i) const { return widen(tile.raw(s.first + k, i), p.brain); }
  // The class that the logits say, of those that share the largest one the first.
  __device__ __forceinline__ void find_class() {
    float found[2 * kV];
#pragma unroll
    for (int i = 0; i < kV; ++i) found[i] = -INFINITY, found[kV + i] = static_cast<float>(s.first);
#pragma unroll 1
    for (int k = 0; k < s.count; ++k)
#pragma unroll
      for (int i = 0; i < kV; ++i)
        if (logit(k, i) > found[i]) found[i] = logit(k, i), found[kV + i] = static_cast<float>(s.first + k);
    join<true, true>(found);
#pragma unroll
    for (int i = 0; i < kV; ++i) said[i] = static_cast<int>(found[kV + i]);
  }
  // The logit of the target class, which may be another warp's.
  __device__ __forceinline__ float target_logit(int i) const {
    if (id[i] < 0) return 0.0f;
    if (p.slices == 1) return widen(tile.raw(id[i], i), p.brain);
    return widen(static_cast<const X*>(
                     w.x.data)[unit.sample * w.x.sample + id[i] * w.x.channel + offset_of(w, p, w.x, p.x, unit.at + i)],
                 p.brain);
  }
  // The same by the largest logit of each pixel; where that is infinite, the class that holds it gets it all.
  __device__ __forceinline__ void shift_by_largest(float (&target)[kV], float (&shift)[kV]) {
    float max[kV];
#pragma unroll
    for (int i = 0; i < kV; ++i) max[i] = -INFINITY;
#pragma unroll 1
    for (int k = 0; k < s.count; ++k)
#pragma unroll
      for (int i = 0; i < kV; ++i) max[i] = fmaxf(max[i], logit(k, i));
    join<true, false>(max);
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      if (!(fabsf(max[i]) < 1e38f)) {
#pragma unroll 1
        for (int k = 0; k < s.count; ++k)
          narrow(fl::softmax_shift<true>(logit(k, i), max[i]), p.brain, tile.raw(s.first + k, i));
        target[i] = fl::softmax_shift<true>(target[i], max[i]), max[i] = 0.0f;
      }
      shift[i] = -kUnit * max[i];
    }
  }

  // Logits become exponentials of x + shift, the first half of `found` their sums, the second those of them times
  // `slopes` (kSloped), or of -(x + shift) times it (kDistances).
  enum What { kPlain, kSloped, kDistances };
  template <What kWhat, bool kBrain>
  __device__ __forceinline__ void raise(const float (&shift)[kV], const float* slopes, bool skips,
                                        float (&found)[2 * kV]) const {
    each_row(s, [&](int k, auto n) {
      Row rows[n.count];
      const Row slope = numbers<n.count>(slopes, k, kWhat != kPlain);
#pragma unroll
      for (int j = 0; j < n.count; ++j) {
        typename ClassTile<X>::Raw raw;
        raw.load(tile.at(s.first + k + j));
#pragma unroll
        for (int i = 0; i < kV; ++i) {
          const float x = fl::fma_(widen(raw.x[i], kBrain), kUnit, shift[i]);
          if (kWhat == kDistances) found[kV + i] -= fl::product(slope.x[j], x);
          rows[j].x[i] = fl::exp2_(x);
        }
      }
      if (skips) {  // whatever lies in pixels that do not count
#pragma unroll
        for (int j = 0; j < n.count; ++j)
#pragma unroll
          for (int i = 0; i < kV; ++i) rows[j].x[i] = id[i] < 0 ? 0.0f : rows[j].x[i];
      }
#pragma unroll
      for (int j = 0; j < n.count; ++j) {
#pragma unroll
        for (int i = 0; i < kV; ++i) {
          found[i] += rows[j].x[i];
          if (kWhat == kSloped) found[kV + i] = fl::fma_(rows[j].x[i], slope.x[j], found[kV + i]);
        }
        tile.row(s.first + k + j) = rows[j];
      }
    });
  }
  template <What kWhat>
  __device__ __forceinline__ void raise(const float (&shift)[kV], const float* slopes, bool skips,
                                        float (&found)[2 * kV]) {
    if (sizeof(X) == 2 && p.brain)
      raise<kWhat, true>(shift, slopes, skips, found);
    else
      raise<kWhat, false>(shift, slopes, skips, found);
    if constexpr (kWhat != kPlain) {
      join<false, false>(found);
    } else {
      float sum[kV];
#pragma unroll
      for (int i = 0; i < kV; ++i) sum[i] = found[i];
      join<false, false>(sum);
#pragma unroll
      for (int i = 0; i < kV; ++i) found[i] = sum[i];
    }
  }
  // `slopes` of the next kN classes: aligned, unless it is one.
  template <int kN>
  __device__ __forceinline__ Row numbers(const float* slopes, int k, bool wanted) const {
    Row v;
    if (!wanted) return v;
    if (kN == 1)
      v.x[0] = slopes[s.first + k];
    else
      v.load(slopes + s.first + k);
    return v;
  }

  // From memory. slopes: of the sum of p, by class (kGrad), or the weights of the term that smooths its labels, or
  // null.
  //
  // Exponentials are of the distance to the target's logit: the sum is at least 1, and no pass looks for the largest
  // one. Where that is so far above that digits are lost, the unit is read again and shifted by it.
  template <bool kGrad>
  __device__ __forceinline__ void load(const float* slopes) {
    constexpr float kFar = 0x1p48f;
    tile.fetch(w, p, s, unit);
    this->load_targets();
    tile.arrive(p);
    float shift[kV], target[kV], found[2 * kV];
    bool skips = false;
#pragma unroll
    for (int i = 0; i < kV; ++i) target[i] = target_logit(i), shift[i] = -kUnit * target[i], skips |= id[i] < 0;
    skips = __any_sync(kAllLanes, skips);
    if (!kGrad && w.counting) find_class();
#pragma unroll 1
    for (bool again = false;; again = true) {
      if (again) {
        tile.fetch(w, p, s, unit);
        tile.arrive(p);
        shift_by_largest(target, shift);
      }
#pragma unroll
      for (int i = 0; i < 2 * kV; ++i) found[i] = 0.0f;
      if (kGrad && p.region)
        raise<kSloped>(shift, slopes, skips, found);
      else if (!kGrad && slopes)
        raise<kDistances>(shift, slopes, skips, found);
      else
        raise<kPlain>(shift, slopes, skips, found);
      bool far = false;
#pragma unroll
      for (int i = 0; i < kV; ++i) far |= !(found[i] < kFar);
      if (again || !(p.slices == 1 ? __any_sync(kAllLanes, far) : __syncthreads_or(far))) break;
    }
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      const float power = fl::fma_(target[i], kUnit, shift[i]);
      const float sum = id[i] < 0 ? 1.0f : found[i];
      inv[i] = id[i] < 0 ? 0.0f : fl::inverse(sum);
      own[i] = fl::exp2_(power) * inv[i];
      more[i] = kGrad ? found[kV + i] * inv[i] : found[kV + i] * 0.693147181f;
      nll[i] = log_sum[i] = 0.0f;
      if (!p.terms) continue;
      log_sum[i] = fl::log_(sum);
      nll[i] = fl::fma_(power, -0.693147181f, log_sum[i]);
    }
  }
  // What of it the gradient needs, to the tile and from there.
  __device__ __forceinline__ void keep() const {
    Row v;
    const int c = static_cast<int>(w.channels);
#pragma unroll
    for (int i = 0; i < kV; ++i) v.x[i] = inv[i];
    tile.row(c) = v;
#pragma unroll
    for (int i = 0; i < kV; ++i) v.x[i] = nll[i];
    tile.row(c + 1) = v;
#pragma unroll
    for (int i = 0; i < kV; ++i) v.x[i] = fl::bit_cast<float>(id[i]);
    tile.row(c + 2) = v;
#pragma unroll
    for (int i = 0; i < kV; ++i) v.x[i] = weight[i];
    tile.row(c + 3) = v;
  }
  __device__ __forceinline__ void recall(const float* slopes) {
    const int c = static_cast<int>(w.channels);
    const Row all = tile.row(c), cost = tile.row(c + 1), ids = tile.row(c + 2), weights = tile.row(c + 3);
    float found[kV] = {};
#pragma unroll
    for (int i = 0; i < kV; ++i) {
      id[i] = fl::bit_cast<int>(ids.x[i]), inv[i] = all.x[i], nll[i] = cost.x[i], weight[i] = weights.x[i];
      own[i] = id[i] < 0 ? 0.0f : tile.number(id[i], i) * inv[i];
    }
    if (p.region) {
      each_row(s, [&](int k, auto n) {
        const Row slope = numbers<n.count>(slopes, k, true);
#pragma unroll
        for (int j = 0; j < n.count; ++j) {
          const Row e = tile.row(s.first + k + j);
#pragma unroll
          for (int i = 0; i < kV; ++i) found[i] = fl::fma_(e.x[i], slope.x[j], found[i]);
        }
      });
      join<false, false>(found);
    } else if (p.slices > 1) {
      __syncthreads();  // all have read `own`
    }
#pragma unroll
    for (int i = 0; i < kV; ++i) more[i] = found[i] * inv[i];
  }
};

}  // namespace fl_cuda

// What fast kernels read with each pack of logits: labels as bits, with or without invalid pixels, or soft labels. A
// policy has load(), for what can be in flight with the logits, and complete(), for the rest; both are of one turn.
#pragma once
#include "../../math/label.h"
#include "walk.h"

namespace fl_cuda {

constexpr uint32_t kLowBits = 0x01010101u;

// Where the labels of a part lie, and of the turn's first pack.
struct LabelPlane {
  const uint8_t *part, *at;
  __device__ __forceinline__ LabelPlane(const Work& w, const Walk& k, const Share& own)
      : part(static_cast<const uint8_t*>(w.y.data) +
             (own.sample * w.y.sample + own.channel * w.y.channel) * k.label_bytes) {}
  __device__ __forceinline__ void begin() { at = part; }
  __device__ __forceinline__ void move(const Work& w, const Walk& k, uint32_t plane, int64_t pixel) {
    at = part + (plane * w.y.sample + pixel) * k.label_bytes;
  }
  __device__ __forceinline__ void advance(const Walk& k, int pixels) { at += pixels * k.label_bytes; }
};

// to[i] = f(pointer to the labels of pack i), one pack after the other: wide labels would take many registers at once.
template <class Labels, int n, class F>
__device__ __forceinline__ void one_by_one(const uint8_t* from, int bytes, int there, Labels (&to)[n], const F& f) {
#pragma unroll 1
  for (int i = 0; i < n; ++i) {
    Labels labels;
    if (i * kWarp < there) f(from, labels);
    from += kWarp * kPack * bytes;
#pragma unroll
    for (int p = 0; p + 1 < n; ++p) to[p] = to[p + 1];
    to[n - 1] = labels;
  }
}

// Whether bit 0 of byte i is set; in assembly because the compiler makes three instructions of the shift it prefers.
__device__ __forceinline__ bool is_set(uint32_t bytes, int i) {
  uint32_t bit;
#ifdef __CUDA_ARCH__
  asm("and.b32 %0, %1, %2;" : "=r"(bit) : "r"(bytes), "r"(1u << 8 * i));
#else
  bit = bytes >> (8 * i) & 1;
#endif
  return bit != 0;
}

// A byte of one where the byte is not zero.
__device__ __forceinline__ uint32_t nonzero_bytes(uint32_t v) {
  return (((v & ~(kLowBits << 7)) + ~(kLowBits << 7)) | v) >> 7 & kLowBits;
}

// Labels 0 and 1 as bytes, four pixels in a word.
struct HardBytes {
  uint32_t on = 0;
  __device__ __forceinline__ bool label(int i) const { return is_set(on, i); }
  __device__ __forceinline__ bool there(int) const { return true; }
  template <class X>
  __device__ __forceinline__ void hide(Pack<X>&) const {}
  template <class T>
  __device__ __forceinline__ T shown(int, T v) const {
    return v;
  }
  template <class Totals>
  __device__ __forceinline__ void count(Totals& t) const {
    t.on += __popc(on);
  }
};
struct ValidBytes {
  uint32_t on = 0, valid = 0;
  __device__ __forceinline__ bool label(int i) const { return is_set(on, i); }
  __device__ __forceinline__ bool there(int i) const { return is_set(valid, i); }
  template <class X>
  __device__ __forceinline__ void hide(Pack<X>& x) const {  // invalid pixels add nothing
#pragma unroll
    for (int i = 0; i < kPack; ++i)
      if (!there(i)) x.v[i] = narrow<X>(-INFINITY);
  }
  template <class T>
  __device__ __forceinline__ T shown(int i, T v) const {
    return there(i) ? v : T(0);
  }
  template <class Totals>
  __device__ __forceinline__ void count(Totals& t) const {
    t.on += __popc(on), t.valid += __popc(valid);
  }
};

// Calls f with an unsigned integer of this many bytes, more than one. The same for all threads.
template <class F>
__device__ __forceinline__ void with_integer(int bytes, const F& f) {
  if (bytes == 8)
    f(uint64_t());
  else if (bytes == 4)
    f(uint32_t());
  else
    f(uint16_t());
}

template <bool kCanHide>
struct HardLabels : LabelPlane {
  static constexpr bool kMasked = kCanHide, kSoft = false;
  static constexpr int kPacks = 4;
  using Labels = std::conditional_t<kCanHide, ValidBytes, HardBytes>;
  const uint8_t *part_mask, *mask;

  __device__ __forceinline__ HardLabels(const Work& w, const Walk& k, const Share& own) : LabelPlane(w, k, own) {
    if (kCanHide) part_mask = w.mask.data ? plane_of<const uint8_t>(w.mask, own) : nullptr;
  }
  __device__ __forceinline__ void begin() {
    LabelPlane::begin();
    if (kCanHide) mask = part_mask;
  }
  __device__ __forceinline__ void move(const Work& w, const Walk& k, uint32_t plane, int64_t pixel) {
    LabelPlane::move(w, k, plane, pixel);
    if (kCanHide) mask = part_mask + plane * w.mask.sample + pixel;
  }
  __device__ __forceinline__ void advance(const Walk& k, int pixels) {
    LabelPlane::advance(k, pixels);
    if (kCanHide) mask += pixels;
  }

  template <bool kAll>
  __device__ __forceinline__ void load(const Walk& k, int there, Labels (&to)[kPacks]) const {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (!kAll && i * kWarp >= there) continue;
      if (k.label_bytes == 1) to[i].on = load_pack(at + i * kWarp * kPack).raw[0];
      if constexpr (kCanHide) to[i].valid = part_mask ? load_pack(mask + i * kWarp * kPack).raw[0] : kLowBits;
    }
  }
  __device__ __forceinline__ void complete(const Walk& k, int there, Labels (&to)[kPacks], uint32_t& bad) const {
    if (k.label_bytes == 1) {
#pragma unroll
      for (int i = 0; i < kPacks; ++i) {
        if constexpr (kCanHide) {
          to[i].valid = nonzero_bytes(to[i].valid);
          if (k.ignores) to[i].valid &= nonzero_bytes(to[i].on ^ static_cast<uint32_t>(k.ignore_index) * kLowBits);
          to[i].on &= to[i].valid * 0xffu;
        }
        bad |= to[i].on & ~kLowBits;
      }
      return;
    }
    uint32_t valid[kPacks];
    if constexpr (kCanHide) {
#pragma unroll
      for (int i = 0; i < kPacks; ++i) valid[i] = nonzero_bytes(to[i].valid);
    }
    one_by_one(at, k.label_bytes, there, to, [&](const uint8_t* from, Labels& labels) {
      with_integer(k.label_bytes, [&](auto type) {
        using E = decltype(type);
        const Pack<E> pack = load_pack(reinterpret_cast<const E*>(from));
        uint32_t kept = kLowBits;
        if constexpr (kCanHide) {
#pragma unroll
          for (int i = 0; i < kPack; ++i)
            if (k.ignores && pack.v[i] == static_cast<E>(k.ignore_index)) kept &= ~(1u << (8 * i));
          kept &= valid[0];
#pragma unroll
          for (int p = 0; p + 1 < kPacks; ++p) valid[p] = valid[p + 1];
          labels.valid = kept;
        }
        E any = 0;
#pragma unroll
        for (int i = 0; i < kPack; ++i) {
          const E v = !kCanHide || (kept >> (8 * i) & 1) ? pack.v[i] : E(0);  // once: gcc's checks of twice go wrong
          labels.on |= static_cast<uint32_t>(v & 1) << (8 * i), any |= v;
        }
        bad |= (any & static_cast<E>(~E(1))) != 0;
      });
    });
  }
  // One pixel, as the first one of a pack.
  __device__ __forceinline__ void one(const Walk& k, Labels& to, uint32_t& bad) const {
    uint64_t v = 0;
#pragma unroll 1
    for (int b = 0; b < k.label_bytes; ++b) v |= static_cast<uint64_t>(at[b]) << (8 * b);
    if constexpr (kCanHide) {
      to.valid = !part_mask || *mask != 0;
      if (k.ignores && v == k.ignore_index) to.valid = 0;
      if (!to.valid) return;
    }
    to.on = static_cast<uint32_t>(v & 1), bad |= v > 1;
  }
};

struct SoftValues {
  float y[kPack] = {};
  __device__ __forceinline__ float label(int i) const { return y[i]; }
  template <class X>
  __device__ __forceinline__ void hide(Pack<X>&) const {}
  template <class T>
  __device__ __forceinline__ T shown(int, T v) const {
    return v;
  }
  template <class Totals>
  __device__ __forceinline__ void count(Totals&) const {}

  __device__ __forceinline__ void clamp(const Walk& k, int i, uint32_t& bad) {
    y[i] = fl::clamp_label(y[i], k.tolerance);
    bad |= !(y[i] >= 0.0f && y[i] <= 1.0f);
  }
};

// Calls f with a value of the labels' floating-point type. The same for all threads.
template <class F>
__device__ __forceinline__ void with_float(int dtype, const F& f) {
  if (dtype == fl::kF32)
    f(float());
  else if (dtype == fl::kF64)
    f(double());
  else if (dtype == fl::kF16)
    f(__half());
  else
    f(__nv_bfloat16());
}

// Labels from 0 to 1, all of them valid. Two packs a turn: they take as many registers as the logits do.
struct SoftLabels : LabelPlane {
  static constexpr bool kMasked = false, kSoft = true;
  static constexpr int kPacks = 2;
  using Labels = SoftValues;
  using LabelPlane::LabelPlane;

  template <bool kAll>
  __device__ __forceinline__ void load(const Walk& k, int there, Labels (&to)[kPacks]) const {
    if (k.label_dtype != fl::kF32) return;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (!kAll && i * kWarp >= there) continue;
      const Pack<float> pack = load_pack(reinterpret_cast<const float*>(at) + i * kWarp * kPack);
#pragma unroll
      for (int j = 0; j < kPack; ++j) to[i].y[j] = pack.v[j];
    }
  }
  __device__ __forceinline__ void complete(const Walk& k, int there, Labels (&to)[kPacks], uint32_t& bad) const {
    if (k.label_dtype != fl::kF32)
      one_by_one(at, k.label_bytes, there, to, [&](const uint8_t* from, Labels& labels) {
        with_float(k.label_dtype, [&](auto type) {
          const auto pack = load_pack(reinterpret_cast<const decltype(type)*>(from));
#pragma unroll
          for (int j = 0; j < kPack; ++j) labels.y[j] = static_cast<float>(widen(pack.v[j]));
        });
      });
#pragma unroll
    for (int i = 0; i < kPacks; ++i)
#pragma unroll
      for (int j = 0; j < kPack; ++j) to[i].clamp(k, j, bad);
  }
  __device__ __forceinline__ void one(const Walk& k, Labels& to, uint32_t& bad) const {
    with_float(k.label_dtype,
               [&](auto type) { to.y[0] = static_cast<float>(widen(*reinterpret_cast<const decltype(type)*>(at))); });
    to.clamp(k, 0, bad);
  }
};

}  // namespace fl_cuda

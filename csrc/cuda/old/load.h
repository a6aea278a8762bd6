// Reading and writing pixels: sixteen bytes of logits at a time with the labels of the same pixels as bits, or one
// element of anything, with whatever strides.
#pragma once
#include "../../math/label.h"
#include "params.h"

namespace fl_old {

template <class X>
struct LogitOf {
  using Compute = float;
};
template <>
struct LogitOf<double> {
  using Compute = double;
};
template <class X>
constexpr int kVector = 16 / sizeof(X);  // logits in sixteen bytes

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ double widen(double v) { return v; }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
template <class X>
__device__ __forceinline__ X narrow(float v);
template <>
__device__ __forceinline__ float narrow<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ __half narrow<__half>(float v) {
  return __float2half_rn(v);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}
template <class X>
__device__ __forceinline__ X narrow(double v) {
  return static_cast<X>(v);
}

template <class X>
union Pack {
  uint4 raw;
  X x[kVector<X>];
  __device__ __forceinline__ Pack() : raw{0, 0, 0, 0} {}
};

// Where a thread's vector of a tile lies: its first pixel in the plane. Offset is the type of element offsets: 32 bits
// where registers are scarce.
template <class Offset>
struct Place {
  Offset sample, at;
  bool there;  // the plane reaches so far

  __device__ __forceinline__ Offset in(const Array& a, int64_t channel) const {
    return sample * static_cast<Offset>(a.sample) + static_cast<Offset>(channel) * static_cast<Offset>(a.channel) + at;
  }
};

struct Part {
  int64_t sample, channel, row;  // row: of the sums
};
__device__ __forceinline__ Part part_of(const Params& p, int64_t part) {
  const bool softmax = p.spec.activation == fl::kSoftmax;
  Part at{0, softmax ? 0 : part, 0};
  if (p.by_sample) at.sample = softmax ? part : part / p.channels, at.channel = softmax ? 0 : part % p.channels;
  at.row = p.groups > 1 ? at.sample : 0;
  return at;
}

template <int kWidth, class Offset>
__device__ __forceinline__ Place<Offset> place_of(const Params& p, const Part& part, uint32_t tile) {
  const uint32_t plane = tile < p.tiles_per_plane.d ? 0 : p.tiles_per_plane.divide(tile);
  const Offset at = (static_cast<Offset>(tile - plane * p.tiles_per_plane.d) * blockDim.x + threadIdx.x) * kWidth;
  return {static_cast<Offset>(part.sample) + plane, at, tile < p.tiles && at + kWidth <= static_cast<Offset>(p.pixels)};
}

template <class X, bool kOnce, class Offset>
__device__ __forceinline__ Pack<X> load_logits(const Params& p, const Part& part, const Place<Offset>& at) {
  Pack<X> pack;
  const uint4* from = reinterpret_cast<const uint4*>(static_cast<const X*>(p.x.data) + at.in(p.x, part.channel));
  if (at.there) pack.raw = kOnce ? __ldcs(from) : *from;
  return pack;
}

template <class X, class Offset>
__device__ __forceinline__ void store_gradient(const Params& p, const Part& part, const Place<Offset>& at,
                                               const Pack<X>& pack) {
  __stcs(reinterpret_cast<uint4*>(static_cast<X*>(p.out.data) + at.in(p.out, part.channel)), pack.raw);
}

// Values that the compiler must take as new: else it keeps what it has computed from them before a barrier, in
// registers that are not there, instead of computing it again.
__device__ __forceinline__ void renew(uint32_t& v) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(v));
#endif
}
__device__ __forceinline__ void renew(uint4& v) { renew(v.x), renew(v.y), renew(v.z), renew(v.w); }

// The labels of kWidth pixels as bits. `bad` gathers what is neither 0 nor 1.
template <class E, int kWidth>
__device__ __forceinline__ uint32_t label_bits(const E* from, bool there, uint32_t& bad) {
  constexpr int kBytes = kWidth * sizeof(E), kChunk = kBytes < 16 ? kBytes : 16;
  using Chunk = std::conditional_t<kChunk == 16, uint4, std::conditional_t<kChunk == 8, uint2, uint32_t>>;
  union {
    uint32_t word[kBytes / 4];
    Chunk chunk[kBytes / kChunk];
    E label[kWidth];
  } v{};
#pragma unroll
  for (int i = 0; i < kBytes / kChunk; ++i)
    if (there) v.chunk[i] = __ldcs(reinterpret_cast<const Chunk*>(from) + i);
  uint32_t bits = 0;
  if constexpr (sizeof(E) == 1) {
#pragma unroll
    for (int i = 0; i < kWidth / 4; ++i) {  // the four low bits side by side
      bad |= v.word[i] & 0xfefefefeu;
      bits |= ((v.word[i] & 0x01010101u) * 0x01020408u >> 24 & 0xfu) << (4 * i);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      bad |= (v.label[i] & static_cast<E>(~E(1))) != 0;
      bits |= static_cast<uint32_t>(v.label[i] & 1) << i;
    }
  }
  return bits;
}

// The same for kBatch tiles, `step` apart, side by side in one word. Bytes are all in flight at once; wider labels are
// not, which would take more registers than there are. Their type is the same for all threads.
template <int kWidth, int kBatch, class Offset>
__device__ __forceinline__ uint32_t load_labels(const Params& p, const Part& part, uint32_t tile, uint32_t step,
                                                uint32_t& bad) {
  static_assert(kWidth * kBatch <= 32, "a batch's labels fit a word");
  const auto one = [&](auto element, int i) {
    using E = decltype(element);
    const Place<Offset> at = place_of<kWidth, Offset>(p, part, tile + i * step);
    const E* from = static_cast<const E*>(p.y.data) + at.in(p.y, part.channel);
    return label_bits<E, kWidth>(from, at.there, bad) << (i * kWidth);
  };
  uint32_t bits = 0;
  const auto all = [&](auto element) {
#pragma unroll 1
    for (int i = 0; i < kBatch; ++i) bits |= one(element, i);
  };
  switch (p.y.dtype) {
    case fl::kI16:
    case fl::kU16:
      all(uint16_t());
      break;
    case fl::kI32:
    case fl::kU32:
      all(uint32_t());
      break;
    case fl::kI64:
    case fl::kU64:
      all(uint64_t());
      break;
    default:
#pragma unroll
      for (int i = 0; i < kBatch; ++i) bits |= one(uint8_t(), i);
  }
  return bits;
}

__device__ __forceinline__ int64_t offset_of(const Array& a, const int64_t (&space)[3], int64_t pixel) {
  if (space[0] == 1 && space[1] == 1) return pixel * a.space[2];
  const int64_t row = pixel / space[2];
  return pixel % space[2] * a.space[2] + row % space[1] * a.space[1] + row / space[1] * a.space[0];
}

// Calls f with an element of the array, as the type that it has there.
template <class F>
__device__ __forceinline__ auto visit(const Array& a, int64_t offset, F&& f) {
  switch (a.dtype) {
    case fl::kF32:
      return f(static_cast<const float*>(a.data)[offset]);
    case fl::kF64:
      return f(static_cast<const double*>(a.data)[offset]);
    case fl::kF16:
      return f(widen(static_cast<const __half*>(a.data)[offset]));
    case fl::kBF16:
      return f(widen(static_cast<const __nv_bfloat16*>(a.data)[offset]));
    case fl::kI8:
      return f(static_cast<const int8_t*>(a.data)[offset]);
    case fl::kI16:
      return f(static_cast<const int16_t*>(a.data)[offset]);
    case fl::kI32:
      return f(static_cast<const int32_t*>(a.data)[offset]);
    case fl::kI64:
      return f(static_cast<const int64_t*>(a.data)[offset]);
    case fl::kU16:
      return f(static_cast<const uint16_t*>(a.data)[offset]);
    case fl::kU32:
      return f(static_cast<const uint32_t*>(a.data)[offset]);
    case fl::kU64:
      return f(static_cast<const uint64_t*>(a.data)[offset]);
    default:
      return f(static_cast<const uint8_t*>(a.data)[offset]);  // bool too
  }
}

// A label, in [0, 1] or the id of a class (-1 where ignored or bad), and whether the element counts.
template <class T>
struct Label {
  T y;
  int32_t id;
  bool valid, bad;
};
template <class T>
__device__ __forceinline__ bool masked_in(const Params& p, int64_t n, int64_t c, int64_t pixel) {
  if (!p.mask.data) return true;
  return static_cast<const uint8_t*>(
             p.mask.data)[n * p.mask.sample + c * p.mask.channel + offset_of(p.mask, p.space, pixel)] != 0;
}
template <class T>
__device__ __forceinline__ Label<T> load_label(const Params& p, int64_t n, int64_t c, int64_t pixel) {
  const int64_t at = n * p.y.sample + c * p.y.channel + offset_of(p.y, p.space, pixel);
  Label<T> l{T(0), -1, masked_in<T>(p, n, c, pixel), false};
  visit(p.y, at, [&](auto v) {
    using E = decltype(v);
    if constexpr (std::is_integral<E>::value) {
      // Compared in the label's own type: one that cannot hold the value ignores nothing.
      const E ignore = static_cast<E>(p.spec.ignore_index);
      const bool holds =
          static_cast<int64_t>(ignore) == p.spec.ignore_index && (std::is_signed<E>::value || p.spec.ignore_index >= 0);
      if (p.spec.has_ignore && holds && v == ignore) l.valid = false;
      using U = std::make_unsigned_t<E>;
      const uint64_t limit = p.ids ? static_cast<uint64_t>(p.channels) : 2;
      l.bad = l.valid && static_cast<uint64_t>(static_cast<U>(v)) >= limit;
      if (p.ids) l.valid = l.valid && !l.bad, l.id = l.valid ? static_cast<int32_t>(v) : -1;
      l.y = l.valid && !l.bad ? static_cast<T>(v) : T(0);
    } else {
      const T tolerance = p.y.dtype == fl::kF16    ? T(fl::label_tolerance(0x1p-10))
                          : p.y.dtype == fl::kBF16 ? T(fl::label_tolerance(0x1p-7))
                                                       : T(fl::label_tolerance(0.0));
      const T y = fl::clamp_label(static_cast<T>(v), tolerance);
      if (p.spec.activation != fl::kSoftmax) {  // as in torch, any number is a probability
        if (p.spec.has_ignore && static_cast<T>(v) == static_cast<T>(p.spec.ignore_index)) l.valid = false;
        l.bad = l.valid && !(y >= T(0) && y <= T(1));
      }
      l.y = l.valid ? y : T(0);
    }
  });
  return l;
}

template <class T>
__device__ __forceinline__ T load_weight(const Params& p, int64_t n, int64_t c, int64_t pixel) {
  if (!p.pixel_weight.data) return T(1);
  const Array& a = p.pixel_weight;
  const int64_t at = n * a.sample + c * a.channel + offset_of(a, p.space, pixel);
  return visit(a, at, [](auto v) { return static_cast<T>(v); });
}

}  // namespace fl_old

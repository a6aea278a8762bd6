// Any dtype, any strides -> a short run of float (or double) in L1, and back. The loops over pixels see nothing else.
#pragma once
#include <type_traits>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "../math/elementary.h"
#include "../math/label.h"
#include "problem.h"

FL_NAMESPACE_BEGIN

using fl_cpu::CpuProblem;

constexpr int kChunk = 1024;         // pixels that the loops see at a time: all their arrays stay in L1
constexpr int kLongRow = 2048;       // the same for softmax, whose rows of channels stay in L2: short runs of many rows
                                     // defeat the prefetcher
constexpr int kBlock = 16 * kChunk;  // pixels of a task; fixed, so that results do not depend on the threads

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline float widen(BFloat16 h) { return bit_cast<float>(static_cast<uint32_t>(h.bits) << 16); }
inline float widen(Half h) {
  // Exponent moved by a multiplication, which also normalises subnormals; inf and NaN keep their payload.
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000u) << 16, rest = h.bits & 0x7fffu;
  const float scaled = bit_cast<float>(rest << 13) * bit_cast<float>(0x77800000u);  // 2^112
  const uint32_t special = rest >= 0x7c00u ? 0x7f800000u : 0u;
  return bit_cast<float>(bit_cast<uint32_t>(scaled) | special | sign);
}
template <class From>
inline From widen(From v) {
  return v;
}

// Of targets of type E, in the type that the loops compute in.
template <class E, class T>
constexpr T tolerance_of = static_cast<T>(label_tolerance(0.0));
template <class T>
constexpr T tolerance_of<Half, T> = static_cast<T>(label_tolerance(0x1p-10));
template <class T>
constexpr T tolerance_of<BFloat16, T> = static_cast<T>(label_tolerance(0x1p-7));

inline void narrow(float v, BFloat16* out) {
  const uint32_t bits = bit_cast<uint32_t>(v);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out->bits = static_cast<uint16_t>(v != v ? 0x7fc0u : rounded);
}
inline void narrow(float v, Half* out) {
  const uint32_t bits = bit_cast<uint32_t>(v), sign = bits >> 16 & 0x8000u;
  const float magnitude = bit_cast<float>(bits & 0x7fffffffu);
  // Subnormal halves: adding 0.5 lets the float unit round at 2^-24. Normal ones: round to even in the integer.
  const uint32_t subnormal = bit_cast<uint32_t>(magnitude + 0.5f) - 0x3f000000u;
  const uint32_t m = bit_cast<uint32_t>(magnitude);
  const uint32_t normal = (m + 0xc8000fffu + ((m >> 13) & 1u)) >> 13;
  const uint32_t finite = magnitude < 6.103515625e-5f ? subnormal : normal;
  const uint32_t large = v != v ? 0x7e00u : 0x7c00u;
  out->bits = static_cast<uint16_t>(sign | (magnitude < 65520.0f ? finite : large));
}
template <class To>
inline void narrow(To v, To* out) {
  *out = v;
}

// The strides of an array seen as runs: pixels s, s + 1, … of a plane are `step` apart until a run ends.
struct Runs {
  int64_t rows[2], row_stride[2], length, step;
  explicit Runs(const Array& a, const int64_t* space) {
    int64_t size[3], stride[3];
    int n = 0;
    for (int i = 0; i < 3; ++i) {
      if (space[i] == 1) continue;
      if (n && stride[n - 1] == a.space[i] * space[i]) {  // this axis continues the one before it
        size[n - 1] *= space[i];
        stride[n - 1] = a.space[i];
      } else {
        size[n] = space[i], stride[n] = a.space[i], ++n;
      }
    }
    length = n ? size[n - 1] : 1, step = n ? stride[n - 1] : 1;
    rows[1] = n > 1 ? size[n - 2] : 1, row_stride[1] = n > 1 ? stride[n - 2] : 0;
    rows[0] = n > 2 ? size[n - 3] : 1, row_stride[0] = n > 2 ? stride[n - 3] : 0;
  }
  bool one() const { return rows[0] == 1 && rows[1] == 1; }
  bool contiguous() const { return one() && (step == 1 || length == 1); }

  // body(first element's offset, step, elements, position in the chunk) for every run that [begin, begin + n) touches
  template <class Body>
  void each(int64_t begin, int64_t n, const Body& body) const {
    if (one()) return body(begin * step, step, n, int64_t(0));
    for (int64_t done = 0; done < n;) {
      const int64_t s = begin + done, row = s / length, column = s - row * length;
      const int64_t take = length - column < n - done ? length - column : n - done;
      body(row / rows[1] * row_stride[0] + row % rows[1] * row_stride[1] + column * step, step, take, done);
      done += take;
    }
  }
};

template <class From, class T>
inline void load_run(const From* __restrict in, int64_t step, int64_t n, T* __restrict out) {
  if (step == 1) {
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(widen(in[i]));
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(widen(in[i * step]));
  }
}
#if defined(__F16C__)
inline void load_run(const Half* __restrict in, int64_t step, int64_t n, float* __restrict out) {
  int64_t i = 0;
  for (; step == 1 && i + 8 <= n; i += 8)
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
  for (; i < n; ++i) out[i] = widen(in[i * step]);
}
#endif

template <class To, class T>
inline void store_run(const T* __restrict in, int64_t step, int64_t n, To* __restrict out) {
  if (step == 1) {
    for (int64_t i = 0; i < n; ++i) narrow(in[i], out + i);
  } else {
    for (int64_t i = 0; i < n; ++i) narrow(in[i], out + i * step);
  }
}
#if defined(__F16C__)
inline void store_run(const float* __restrict in, int64_t step, int64_t n, Half* __restrict out) {
  int64_t i = 0;
  for (; step == 1 && i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(in + i), 0));
  for (; i < n; ++i) narrow(in[i], out + i * step);
}
#endif

// A plane (sample n, channel c) of floating-point values. T is float for float32 and half types, double for float64.
template <class T>
struct FloatPlanes {
  Array a;
  Runs runs;
  bool direct;  // the memory itself is a run of T
  FloatPlanes(const Array& array, const int64_t* space)
      : a(array), runs(array, space), direct(dtype_of() == array.dtype && runs.contiguous()) {}
  static constexpr int dtype_of() { return std::is_same<T, double>::value ? kF64 : kF32; }

  template <class E>
  E* base(int64_t n, int64_t c) const {
    return static_cast<E*>(a.data) + n * a.sample + c * a.channel;
  }
  template <class E>
  void load_as(int64_t n, int64_t c, int64_t begin, int64_t count, T* out) const {
    runs.each(begin, count, [&](int64_t offset, int64_t step, int64_t length, int64_t at) {
      load_run(base<const E>(n, c) + offset, step, length, out + at);
    });
  }
  template <class E>
  void store_as(int64_t n, int64_t c, int64_t begin, int64_t count, const T* in) const {
    runs.each(begin, count, [&](int64_t offset, int64_t step, int64_t length, int64_t at) {
      store_run(in + at, step, length, base<E>(n, c) + offset);
    });
  }
  const T* load(int64_t n, int64_t c, int64_t begin, int64_t count, T* buffer) const {
    if (direct) return base<const T>(n, c) + begin;
    switch (a.dtype) {
      case kF64:
        load_as<double>(n, c, begin, count, buffer);
        break;
      case kF16:
        load_as<Half>(n, c, begin, count, buffer);
        break;
      case kBF16:
        load_as<BFloat16>(n, c, begin, count, buffer);
        break;
      default:
        load_as<float>(n, c, begin, count, buffer);
    }
    return buffer;
  }
  void store_from(int64_t n, int64_t c, int64_t begin, int64_t count, const T* in) const {
    if (direct)
      memcpy(base<T>(n, c) + begin, in, count * sizeof(T));
    else
      store(n, c, begin, count, in);
  }
  T* target(int64_t n, int64_t c, int64_t begin, T* buffer) const { return direct ? base<T>(n, c) + begin : buffer; }
  void store(int64_t n, int64_t c, int64_t begin, int64_t count, const T* in) const {
    if (direct) return;
    if constexpr (std::is_same<T, double>::value)
      return store_as<double>(n, c, begin, count, in);
    else
      switch (a.dtype) {
        case kF16:
          return store_as<Half>(n, c, begin, count, in);
        case kBF16:
          return store_as<BFloat16>(n, c, begin, count, in);
        default:
          return store_as<float>(n, c, begin, count, in);
      }
  }
};

FL_NAMESPACE_END

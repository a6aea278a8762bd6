// CUDA's small types for a plain C++ compiler, so that the emulator needs no CUDA toolkit: vectors with their
// alignment, half precision, and the qualifiers that mean nothing here.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __constant__ static const
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
// All of them together are the library's thread-local segment, which the emulator exchanges between blocks.
#define __shared__ static thread_local

#define FL_VECTOR2(T, name, align)           \
  struct alignas(align) name##2 { T x, y; }; \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }
#define FL_VECTOR3(T, name)      \
  struct name##3 { T x, y, z; }; \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }
#define FL_VECTOR4(T, name, align)                 \
  struct alignas(align) name##4 { T x, y, z, w; }; \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define FL_VECTORS(T, name, align2, align4) FL_VECTOR2(T, name, align2) FL_VECTOR3(T, name) FL_VECTOR4(T, name, align4)
FL_VECTORS(signed char, char, 2, 4)
FL_VECTORS(unsigned char, uchar, 2, 4)
FL_VECTORS(short, short, 4, 8)
FL_VECTORS(unsigned short, ushort, 4, 8)
FL_VECTORS(int, int, 8, 16)
FL_VECTORS(unsigned, uint, 8, 16)
FL_VECTORS(long long, longlong, 16, 16)
FL_VECTORS(unsigned long long, ulonglong, 16, 16)
FL_VECTORS(float, float, 8, 16)
FL_VECTORS(double, double, 16, 16)
#undef FL_VECTORS
#undef FL_VECTOR4
#undef FL_VECTOR3
#undef FL_VECTOR2

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

template <class To, class From>
inline To fl_emulator_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "equal sizes");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

struct __half_raw {
  unsigned short x;
};
struct __nv_bfloat16_raw {
  unsigned short x;
};

struct alignas(2) __half {
  unsigned short bits;
  __half() = default;
  __half(__half_raw raw) : bits(raw.x) {}
  __half(float v) : bits(fl_emulator_bits<unsigned short>(static_cast<_Float16>(v))) {}
  operator float() const { return static_cast<float>(fl_emulator_bits<_Float16>(bits)); }
};
struct alignas(2) __nv_bfloat16 {
  unsigned short bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(__nv_bfloat16_raw raw) : bits(raw.x) {}
  __nv_bfloat16(float v) {  // to nearest, ties to even; one NaN
    const uint32_t u = fl_emulator_bits<uint32_t>(v);
    bits = v != v ? 0x7fff : static_cast<unsigned short>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  operator float() const { return fl_emulator_bits<float>(static_cast<uint32_t>(bits) << 16); }
};
struct alignas(4) __half2 {
  __half x, y;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline float __half2float(__half h) { return h; }
inline __half __float2half(float v) { return v; }
inline __half __float2half_rn(float v) { return v; }
inline float2 __half22float2(__half2 h) { return {h.x, h.y}; }
inline __half2 __floats2half2_rn(float a, float b) { return {a, b}; }
inline __half2 __float22half2_rn(float2 v) { return {v.x, v.y}; }
inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline __half __ushort_as_half(unsigned short u) { return __half_raw{u}; }
inline float __bfloat162float(__nv_bfloat16 b) { return b; }
inline __nv_bfloat16 __float2bfloat16(float v) { return v; }
inline __nv_bfloat16 __float2bfloat16_rn(float v) { return v; }
inline float2 __bfloat1622float2(__nv_bfloat162 b) { return {b.x, b.y}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {a, b}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return {v.x, v.y}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) { return b.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short u) { return __nv_bfloat16_raw{u}; }

inline float __int_as_float(int v) { return fl_emulator_bits<float>(v); }
inline int __float_as_int(float v) { return fl_emulator_bits<int>(v); }
inline float __uint_as_float(unsigned v) { return fl_emulator_bits<float>(v); }
inline unsigned __float_as_uint(float v) { return fl_emulator_bits<unsigned>(v); }
inline double __longlong_as_double(long long v) { return fl_emulator_bits<double>(v); }
inline long long __double_as_longlong(double v) { return fl_emulator_bits<long long>(v); }

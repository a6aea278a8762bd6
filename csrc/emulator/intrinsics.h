// What kernels call: barriers, warps, atomics, cached loads and stores, bits. Atomics are plain: fibers change only
// where they wait. There are none on floating-point numbers, whose sum would depend on the order.
#pragma once
#include <algorithm>
#include <type_traits>

#include "scheduler.h"

#define FL_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(FL_HERE) { fl_emulator::sync_block(fl_emulator::kSync, 0, file, line); }
inline int __syncthreads_or(int p, FL_HERE) { return fl_emulator::sync_block(fl_emulator::kSyncOr, p, file, line); }
inline int __syncthreads_and(int p, FL_HERE) { return fl_emulator::sync_block(fl_emulator::kSyncAnd, p, file, line); }
inline int __syncthreads_count(int p, FL_HERE) {
  return fl_emulator::sync_block(fl_emulator::kSyncCount, p, file, line);
}
inline void grid_sync(FL_HERE) { fl_emulator::sync_grid(file, line); }
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace fl_emulator {

template <class T>
inline T shuffle(uint32_t mask, T value, int source, const char* file, int line) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) <= 8 && sizeof(T) >= 4, "32 or 64 bits");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = sync_warp(kShuffle, mask, bits, source, file, line);
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace fl_emulator

// Lanes are counted within segments of `width`; a lane beyond its segment reads its own value.
template <class T>
inline T __shfl_sync(unsigned mask, T v, int source, int width = warpSize, FL_HERE) {
  const int lane = fl_emulator::lane();
  return fl_emulator::shuffle(mask, v, (lane & ~(width - 1)) | (source & (width - 1)), file, line);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = warpSize, FL_HERE) {
  const int lane = fl_emulator::lane(), source = lane ^ bits;
  return fl_emulator::shuffle(mask, v, source < (lane & ~(width - 1)) + width ? source : lane, file, line);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = warpSize, FL_HERE) {
  const int lane = fl_emulator::lane(), source = lane + static_cast<int>(by);
  return fl_emulator::shuffle(mask, v, source < (lane & ~(width - 1)) + width ? source : lane, file, line);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = warpSize, FL_HERE) {
  const int lane = fl_emulator::lane(), source = lane - static_cast<int>(by);
  return fl_emulator::shuffle(mask, v, source >= (lane & ~(width - 1)) ? source : lane, file, line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, FL_HERE) {
  fl_emulator::sync_warp(fl_emulator::kSyncWarp, mask, 0, 0, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int p, FL_HERE) {
  return static_cast<unsigned>(fl_emulator::sync_warp(fl_emulator::kBallot, mask, p != 0, 0, file, line));
}
inline int __any_sync(unsigned mask, int p, FL_HERE) { return __ballot_sync(mask, p, file, line) != 0; }
inline int __all_sync(unsigned mask, int p, FL_HERE) { return __ballot_sync(mask, p, file, line) == mask; }
template <class T>
inline unsigned __match_any_sync(unsigned mask, T v, FL_HERE) {
  uint64_t bits = 0;
  memcpy(&bits, &v, sizeof v);
  return static_cast<unsigned>(fl_emulator::sync_warp(fl_emulator::kMatch, mask, bits, 0, file, line));
}
#define FL_REDUCE(name, wait)                                                                        \
  inline unsigned name(unsigned mask, unsigned v, FL_HERE) {                                         \
    return static_cast<unsigned>(fl_emulator::sync_warp(fl_emulator::wait, mask, v, 0, file, line)); \
  }
FL_REDUCE(__reduce_add_sync, kAdd)
FL_REDUCE(__reduce_min_sync, kMin)
FL_REDUCE(__reduce_max_sync, kMax)
FL_REDUCE(__reduce_or_sync, kOr)
FL_REDUCE(__reduce_and_sync, kAnd)
#undef FL_REDUCE
#undef FL_HERE

// The operand's type follows the address, as with CUDA's overloads.
#define FL_ATOMIC(name, becomes)                                             \
  template <class T>                                                         \
  inline T name(T* at, std::common_type_t<T> v) {                            \
    static_assert(std::is_integral_v<T> && sizeof(T) >= 4, "32 or 64 bits"); \
    const T old = *at;                                                       \
    *at = becomes;                                                           \
    return old;                                                              \
  }
FL_ATOMIC(atomicAdd,
          static_cast<T>(static_cast<std::make_unsigned_t<T>>(old) + static_cast<std::make_unsigned_t<T>>(v)))
FL_ATOMIC(atomicSub,
          static_cast<T>(static_cast<std::make_unsigned_t<T>>(old) - static_cast<std::make_unsigned_t<T>>(v)))
FL_ATOMIC(atomicMax, old < v ? v : old)
FL_ATOMIC(atomicMin, v < old ? v : old)
FL_ATOMIC(atomicOr, old | v)
FL_ATOMIC(atomicAnd, old& v)
FL_ATOMIC(atomicXor, old ^ v)
FL_ATOMIC(atomicExch, v)
#undef FL_ATOMIC
inline unsigned atomicInc(unsigned* at, unsigned limit) {
  const unsigned old = *at;
  *at = old >= limit ? 0 : old + 1;
  return old;
}
template <class T>
inline T atomicCAS(T* at, std::common_type_t<T> expected, std::common_type_t<T> v) {
  const T old = *at;
  if (old == expected) *at = v;
  return old;
}

#define FL_LOAD(name)          \
  template <class T>           \
  inline T name(const T* at) { \
    return *at;                \
  }
FL_LOAD(__ldg)
FL_LOAD(__ldca)
FL_LOAD(__ldcg)
FL_LOAD(__ldcs)
FL_LOAD(__ldlu)
FL_LOAD(__ldcv)
#undef FL_LOAD
#define FL_STORE(name)                               \
  template <class T>                                 \
  inline void name(T* at, std::common_type_t<T> v) { \
    *at = v;                                         \
  }
FL_STORE(__stcg)
FL_STORE(__stcs)
FL_STORE(__stwb)
FL_STORE(__stwt)
#undef FL_STORE

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __clz(int v) { return v ? __builtin_clz(static_cast<unsigned>(v)) : 32; }
inline int __clzll(long long v) { return v ? __builtin_clzll(static_cast<unsigned long long>(v)) : 64; }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
  return static_cast<unsigned>((uint64_t(high) << 32 | low) >> (by & 31));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
  return static_cast<unsigned>((uint64_t(high) << 32 | low) << (by & 31) >> 32);
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __expf(float a) { return expf(a); }
inline float __logf(float a) { return logf(a); }
inline float __log2f(float a) { return log2f(a); }
inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }
inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }

using std::max;
using std::min;

// Shared by host and device: the one macro layer under the loss mathematics. Torch-free.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define FL_HD __host__ __device__ __forceinline__
#else
#define FL_HD inline __attribute__((always_inline))
#endif

// In front of a loop of the small code in double, which nvcc would unroll: its instructions are fetched cold.
#ifdef __CUDACC__
#define FL_ROLLED _Pragma("unroll 1")
#else
#define FL_ROLLED
#endif

// Each ISA build of the CPU kernels names its own inline namespace: a weak symbol shared by two builds would let the
// linker put AVX-512 code into the baseline.
#ifndef FL_ISA
#define FL_ISA fl_plain
#endif
#define FL_NAMESPACE_BEGIN \
  namespace fl {           \
  inline namespace FL_ISA {
#define FL_NAMESPACE_END \
  }                      \
  }

FL_NAMESPACE_BEGIN

template <class To, class From>
FL_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// Operand order matters: a NaN in `x` survives both (a comparison with it is false).
template <class T>
FL_HD T at_least(T low, T x) {
  return x < low ? low : x;
}
template <class T>
FL_HD T at_most(T high, T x) {
  return x > high ? high : x;
}

template <class T>
FL_HD T select_(bool c, T a, T b) {
  return c ? a : b;
}

// w v, and 0 where the weight is 0, whatever v: 0 * inf would be NaN.
template <class T>
FL_HD T product(T w, T v) {
  return select_(w != T(0), w * v, T(0));
}

FL_NAMESPACE_END

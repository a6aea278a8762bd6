// A vector of float32 pixels as wide as the build's registers, for the loops that the compiler does not turn into good
// vector code by itself: labels as bits, sums in several accumulators, half types. Arithmetic is the compiler's vector
// extension; what it has no word for (fused multiply-adds, masks, half types) is asked for by instruction.
// The mathematics of csrc/math takes a Vec as it takes a float.
#pragma once
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "load.h"

FL_NAMESPACE_BEGIN

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Words __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Unsigned __attribute__((vector_size(kLanes * 4)));

struct Vec {
  Floats v;
  Vec() = default;
  FL_HD Vec(Floats lanes) : v(lanes) {}
  template <class Number, class = std::enable_if_t<std::is_arithmetic<Number>::value>>
  FL_HD explicit Vec(Number x) : v(static_cast<float>(x) - Floats{}) {}
  FL_HD Vec& operator+=(Vec b) { return v += b.v, *this; }
};

FL_HD Vec operator+(Vec a, Vec b) { return a.v + b.v; }
FL_HD Vec operator-(Vec a, Vec b) { return a.v - b.v; }
FL_HD Vec operator*(Vec a, Vec b) { return a.v * b.v; }
FL_HD Vec operator/(Vec a, Vec b) { return a.v / b.v; }
FL_HD Vec operator-(Vec a) { return -a.v; }
FL_HD Vec inverse(Vec a) { return 1.0f / a.v; }
FL_HD Vec quotient(Vec a, Vec b) { return a / b; }

FL_HD Words bits_of(Vec a) { return reinterpret_cast<Words>(a.v); }
FL_HD Vec of_bits(Words a) { return reinterpret_cast<Floats>(a); }
FL_HD Vec abs_(Vec a) { return of_bits(bits_of(a) & 0x7fffffff); }
FL_HD Vec relu(Vec a) { return of_bits(bits_of(a) & ~(bits_of(a) >> 31)); }
FL_HD Vec at_least_tiny(Vec a) {
  const Words bits = bits_of(a), tiny = 0x00800000 - Words{};
  return of_bits(bits < tiny ? tiny : bits);
}
FL_HD void split_exponent(Vec x, Vec* n, Vec* m) {
  const Words shifted = (Words)((Unsigned)bits_of(x) - 0x3f3504f3u);
  *n = __builtin_convertvector(shifted >> 23, Floats);
  *m = of_bits((shifted & 0x007fffff) + 0x3f3504f3) - Vec(1.0f);
}

FL_HD Vec fma_(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return (Floats)_mm512_fmadd_ps((__m512)a.v, (__m512)b.v, (__m512)c.v);
#elif defined(__FMA__)
  return (Floats)_mm256_fmadd_ps((__m256)a.v, (__m256)b.v, (__m256)c.v);
#elif defined(__aarch64__)
  Vec r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = fma_(a.v[i], b.v[i], c.v[i]);
  return r;
#else
  return a * b + c;
#endif
}

constexpr float kExpLimit = 87.33654f;  // exp of less is below the smallest normal float

// A choice for each lane: a bit where the registers have such masks, else a word of ones or zeros.
#if defined(__AVX512F__)
struct Mask {
  __mmask16 m;
};
FL_HD Mask operator^(Mask a, Mask b) { return {static_cast<__mmask16>(a.m ^ b.m)}; }
FL_HD Mask operator!(Mask a) { return {static_cast<__mmask16>(~a.m)}; }
FL_HD Mask operator>(Vec a, Vec b) { return {_mm512_cmp_ps_mask((__m512)a.v, (__m512)b.v, _CMP_GT_OQ)}; }
FL_HD Mask operator>=(Vec a, Vec b) { return {_mm512_cmp_ps_mask((__m512)a.v, (__m512)b.v, _CMP_GE_OQ)}; }
FL_HD Mask operator==(Vec a, Vec b) { return {_mm512_cmp_ps_mask((__m512)a.v, (__m512)b.v, _CMP_EQ_OQ)}; }
FL_HD bool all(Mask a) { return a.m == 0xffff; }
FL_HD Vec keep(Mask c, Vec a) { return (Floats)_mm512_maskz_mov_ps(c.m, (__m512)a.v); }
FL_HD Vec larger(Vec a, Vec b) {
  return (Floats)_mm512_maskz_max_ps(0xffff, (__m512)a.v, (__m512)b.v);
}  // b where either is NaN
FL_HD Mask equal(Words a, Words b) { return {_mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b)}; }
FL_HD Mask negative(Vec a) { return {_mm512_movepi32_mask((__m512i)a.v)}; }
FL_HD Vec select_(Mask c, Vec a, Vec b) { return (Floats)_mm512_mask_blend_ps(c.m, (__m512)b.v, (__m512)a.v); }
FL_HD Vec add_where(Mask c, Vec sum, Vec a) {
  return (Floats)_mm512_mask_add_ps((__m512)sum.v, c.m, (__m512)sum.v, (__m512)a.v);
}
FL_HD Vec scale_exponent(Vec p, Vec t, Vec a) {
  const __mmask16 normal = _mm512_cmp_ps_mask((__m512)a.v, _mm512_set1_ps(kExpLimit), _CMP_NGT_UQ);
  return of_bits((Words)_mm512_maskz_add_epi32(normal, (__m512i)p.v, (__m512i)(bits_of(t) << 23)));
}
#else
struct Mask {
  Words m;
};
FL_HD Mask operator^(Mask a, Mask b) { return {a.m ^ b.m}; }
FL_HD Mask operator!(Mask a) { return {~a.m}; }
FL_HD Mask operator>(Vec a, Vec b) { return {a.v > b.v}; }
FL_HD Mask operator>=(Vec a, Vec b) { return {a.v >= b.v}; }
FL_HD Mask operator==(Vec a, Vec b) { return {a.v == b.v}; }
FL_HD bool all(Mask a) {
  int32_t on = -1;
  for (int i = 0; i < kLanes; ++i) on &= a.m[i];
  return on != 0;
}
FL_HD Vec keep(Mask c, Vec a) { return of_bits(bits_of(a) & c.m); }
FL_HD Vec larger(Vec a, Vec b) {  // b where either is NaN
#if defined(__AVX2__)
  return (Floats)_mm256_max_ps((__m256)a.v, (__m256)b.v);
#elif defined(__SSE2__)
  return (Floats)_mm_max_ps((__m128)a.v, (__m128)b.v);
#else
  return of_bits((bits_of(a) & (a.v > b.v)) | (bits_of(b) & ~(a.v > b.v)));
#endif
}
FL_HD Mask equal(Words a, Words b) { return {a == b}; }
FL_HD Mask negative(Vec a) { return {bits_of(a) >> 31}; }
FL_HD Vec select_(Mask c, Vec a, Vec b) {
#if defined(__AVX2__)
  return (Floats)_mm256_blendv_ps((__m256)b.v, (__m256)a.v, (__m256)c.m);
#else
  return of_bits((bits_of(a) & c.m) | (bits_of(b) & ~c.m));
#endif
}
FL_HD Vec add_where(Mask c, Vec sum, Vec a) { return sum + keep(c, a); }
FL_HD Vec scale_exponent(Vec p, Vec t, Vec a) {
  const Unsigned normal = (Unsigned)bits_of(p) + ((Unsigned)bits_of(t) << 23);  // wraps where it is not kept
  return of_bits((Words)normal & ~(a.v > kExpLimit));
}
#endif
FL_HD Mask operator<(Vec a, Vec b) { return b > a; }
FL_HD Mask operator<=(Vec a, Vec b) { return b >= a; }
FL_HD Mask operator!=(Vec a, Vec b) { return !(a == b); }

// Lanes i to i + kLanes of a row of bits; i is a multiple of kLanes.
FL_HD Mask mask_at(const uint8_t* bits, int64_t i) {
#if defined(__AVX512F__)
  uint16_t word;
  memcpy(&word, bits + i / 8, 2);
  return {word};
#elif defined(__AVX2__)
  const Words lane = {1, 2, 4, 8, 16, 32, 64, 128};
  return {((bits[i / 8] - Words{}) & lane) == lane};
#else
  const Words lane = {1, 2, 4, 8};
  return {(((bits[i / 8] >> (i & 4)) - Words{}) & lane) == lane};
#endif
}

// Those of two vectors from i on, of even and of odd places.
struct MaskPair {
  Mask even, odd;
};
FL_HD MaskPair mask_pair_at(const uint8_t* bits, int64_t i) {
#if defined(__AVX512F__)
  uint32_t word;
  memcpy(&word, bits + i / 8, 4);
  return {{static_cast<__mmask16>(_pext_u32(word, 0x55555555u))},
          {static_cast<__mmask16>(_pext_u32(word, 0xaaaaaaaau))}};
#elif defined(__AVX2__)
  uint16_t word;
  memcpy(&word, bits + i / 8, 2);
  const Words lane = {1, 4, 16, 64, 256, 1024, 4096, 16384}, all = word - Words{};
  return {{(all & lane) == lane}, {(all & (lane + lane)) == lane + lane}};
#else
  const Words lane = {1, 4, 16, 64}, all = bits[i / 8] - Words{};
  return {{(all & lane) == lane}, {(all & (lane + lane)) == lane + lane}};
#endif
}

FL_HD float sum_lanes(Vec a) {
#if defined(__SSE2__)
  __m128 part[kLanes / 4];
  memcpy(part, &a.v, sizeof(a.v));
  for (int n = kLanes / 8; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) part[i] = _mm_add_ps(part[i], part[i + n]);
  const __m128 two = _mm_add_ps(part[0], _mm_movehl_ps(part[0], part[0]));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
  return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
#endif
}

FL_HD Vec load_vec(const float* p) {
  Vec r;
  memcpy(&r.v, p, sizeof(r.v));
  return r;
}
FL_HD void store_vec(Vec a, float* p) { memcpy(p, &a.v, sizeof(a.v)); }

// bfloat16 is the upper half of a float. The compiler's own conversions cross the halves of a register on the way.
FL_HD Vec load_vec(const BFloat16* p) {
#if defined(__AVX512F__)
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return of_bits((Words)_mm512_maskz_cvtepu16_epi32(0xffff, h) << 16);
#elif defined(__AVX2__)
  return of_bits((Words)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))) << 16);
#elif defined(__SSE2__)
  return of_bits((Words)_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  Vec r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = widen(p[i]);
  return r;
#endif
}
// Its bits in the upper half, rounded to even. Only a NaN with payload in its lowest bits could overflow, and none
// comes from bfloat16 logits.
FL_HD Words round_bf16(Vec a) {
  const Words bits = bits_of(a);
#if defined(__AVX512F__)
  const __m512i up = (__m512i)(bits + 0x7fff);
  const __mmask16 odd = _mm512_test_epi32_mask((__m512i)bits, _mm512_set1_epi32(0x10000));
  return (Words)_mm512_mask_sub_epi32(up, odd, up, _mm512_set1_epi32(-1));
#else
  return (Words)((Unsigned)bits + 0x7fffu + (((Unsigned)bits >> 16) & 1u));
#endif
}
FL_HD void store_vec(Vec a, BFloat16* p) {
  const Words rounded = round_bf16(a) >> 16;
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)rounded));
#elif defined(__AVX2__)
  const __m256i pairs = _mm256_packs_epi32((__m256i)rounded, (__m256i)rounded);
  const __m256i h = _mm256_permute4x64_epi64(pairs, 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(h));
#elif defined(__SSE2__)
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi32((__m128i)rounded, (__m128i)rounded));
#else
  for (int i = 0; i < kLanes; ++i) p[i].bits = static_cast<uint16_t>(rounded[i]);
#endif
}
// Two vectors of bfloat16 at once, the pixels of even and of odd places: each is a shift or a mask away from a float,
// where consecutive ones cross the register. mask_pair_at has the labels in the same order.
struct Pair {
  Vec even, odd;
};
FL_HD Pair load_pair(const BFloat16* p) {
  Words both;
  memcpy(&both, p, sizeof(both));
  return {of_bits(both << 16), of_bits(both & static_cast<int32_t>(0xffff0000))};
}
FL_HD void store_pair(Pair a, BFloat16* p) {
  const Words even = round_bf16(a.even), odd = round_bf16(a.odd);
  const Words both = (Words)((Unsigned)even >> 16) | (odd & static_cast<int32_t>(0xffff0000));
  memcpy(p, &both, sizeof(both));
}

FL_HD Vec load_vec(const Half* p) {
#if defined(__AVX512F__)
  return (Floats)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return (Floats)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  Vec r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = widen(p[i]);
  return r;
#endif
}
FL_HD void store_vec(Vec a, Half* p) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(0xffff, (__m512)a.v, 0));
#elif defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)a.v, 0));
#else
  for (int i = 0; i < kLanes; ++i) narrow(a.v[i], p + i);
#endif
}

// Doubles, whose exponential is libm's, go through the same loops one at a time.
FL_HD double load_vec(const double* p) { return *p; }
FL_HD void store_vec(double a, double* p) { *p = a; }
FL_HD double sum_lanes(double a) { return a; }
FL_HD double keep(bool c, double a) { return c ? a : 0.0; }
FL_HD double larger(double a, double b) { return a > b ? a : b; }
FL_HD bool equal(int32_t a, int32_t b) { return a == b; }
FL_HD bool all(bool a) { return a; }

template <class T>
struct LanesOf {
  using Value = Vec;
  using Integers = Words;
  using Choice = Mask;
  static constexpr int kCount = kLanes;
};
template <>
struct LanesOf<double> {
  using Value = double;
  using Integers = int32_t;
  using Choice = bool;
  static constexpr int kCount = 1;
};

constexpr int kUnroll = 4;  // vectors at a time: the exponential of one hides behind the others'
constexpr int kStrip = 64;  // what a chunk is filled up to: a multiple of kUnroll vectors

// Labels of 0 and 1 as bits, 64 to a word; what is missing of the last word is 0. Returns whether all are 0 or 1.
inline bool pack_labels(const uint8_t* y, int64_t n, uint8_t* bits) {
  alignas(64) uint8_t last[64] = {};
  uint8_t high = 0;
#if defined(__AVX512F__)
  __m512i seen = _mm512_setzero_si512();
#elif defined(__SSE2__)
  __m128i seen = _mm_setzero_si128();
#endif
  for (int64_t i = 0; i < n; i += 64) {
    const uint8_t* in = y + i;
    if (n - i < 64) memcpy(last, in, n - i), in = last;
    uint8_t* out = bits + i / 8;
#if defined(__AVX512F__)
    const __m512i v = _mm512_loadu_si512(in);
    const uint64_t word = _mm512_test_epi8_mask(v, v);
    seen = _mm512_or_si512(seen, v);
    memcpy(out, &word, 8);
#elif defined(__SSE2__)
    for (int k = 0; k < 4; ++k) {
      const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in) + k);
      const uint16_t word = static_cast<uint16_t>(_mm_movemask_epi8(_mm_slli_epi16(v, 7)));
      seen = _mm_or_si128(seen, v);
      memcpy(out + 2 * k, &word, 2);
    }
#else
    for (int k = 0; k < 8; ++k) {
      uint64_t v;
      memcpy(&v, in + 8 * k, 8);
      out[k] = static_cast<uint8_t>((v & 0x0101010101010101u) * 0x0102040810204080u >> 56);
      for (int b = 0; b < 8; ++b) high |= in[8 * k + b];
    }
#endif
  }
#if defined(__AVX512F__)
  return _mm512_test_epi8_mask(seen, _mm512_set1_epi8(~1)) == 0 && high == 0;
#elif defined(__SSE2__)
  const __m128i rest = _mm_and_si128(seen, _mm_set1_epi8(~1));
  return _mm_movemask_epi8(_mm_cmpeq_epi8(rest, _mm_setzero_si128())) == 0xffff && high == 0;
#else
  return high <= 1;
#endif
}

inline int64_t count_bits(const uint8_t* bits, int64_t n) {
  int64_t total = 0;
  for (int64_t i = 0; i < n; i += 64) {
    uint64_t word;
    memcpy(&word, bits + i / 8, 8);
    total += __builtin_popcountll(word);
  }
  return total;
}

FL_NAMESPACE_END

// Targets, masks and pixel weights of a chunk, read as they are: labels become T or int32 in L1, ignored elements are
// marked, and values out of range are reported.
#pragma once
#include "vec.h"

FL_NAMESPACE_BEGIN

struct IgnoreRule {
  bool on;
  int64_t index;
};

// Calls f(pointer to the first element) with the array's element type.
template <class F>
inline void visit_target(int dtype, const void* data, F&& f) {
  switch (dtype) {
    case kF32:
      return f(static_cast<const float*>(data));
    case kF64:
      return f(static_cast<const double*>(data));
    case kF16:
      return f(static_cast<const Half*>(data));
    case kBF16:
      return f(static_cast<const BFloat16*>(data));
    case kI8:
      return f(static_cast<const int8_t*>(data));
    case kI16:
      return f(static_cast<const int16_t*>(data));
    case kI32:
      return f(static_cast<const int32_t*>(data));
    case kI64:
      return f(static_cast<const int64_t*>(data));
    case kU16:
      return f(static_cast<const uint16_t*>(data));
    case kU32:
      return f(static_cast<const uint32_t*>(data));
    case kU64:
      return f(static_cast<const uint64_t*>(data));
    default:
      return f(static_cast<const uint8_t*>(data));  // bool too
  }
}

// Labels of one run as T. `valid` (0 or 1) is only written where the ignore rule is on. Returns whether all valid
// labels are 0 or 1: their bits or-ed together tell, without widening.
template <bool kIgnore, class E, class T>
inline bool decode_labels(const E* __restrict in, int64_t step, int64_t n, E ignore, T* __restrict out,
                          T* __restrict valid) {
  using Narrow = std::conditional_t<sizeof(E) == 8, int32_t, E>;  // converts to T in fewer steps
  E seen = 0;
#pragma omp simd reduction(| : seen)
  for (int64_t i = 0; i < n; ++i) {
    const E v = kIgnore && in[i * step] == ignore ? E(0) : in[i * step];
    seen |= v;
    out[i] = static_cast<T>(static_cast<Narrow>(v));
    if (kIgnore) valid[i] = in[i * step] == ignore ? T(0) : T(1);
  }
  return (seen & static_cast<E>(~E(1))) == 0;
}
// Labels of one run as bytes; returns all their bits together.
template <class E>
inline uint64_t narrow_labels(const E* __restrict in, int64_t step, int64_t n, uint8_t* __restrict out) {
  E seen = 0;
#pragma omp simd reduction(| : seen)
  for (int64_t i = 0; i < n; ++i) {
    seen |= in[i * step];
    out[i] = static_cast<uint8_t>(in[i * step]);
  }
  return static_cast<uint64_t>(seen);
}
template <bool kIgnore, class E, class T>
inline bool decode_soft(const E* __restrict in, int64_t step, int64_t n, T ignore, T tolerance, T* __restrict out,
                        T* __restrict valid) {
  int bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    const T v = static_cast<T>(widen(in[i * step])), y = clamp_label(v, tolerance);
    const bool use = !kIgnore || v != ignore;
    bad |= use & !(y >= T(0) && y <= T(1));
    out[i] = use ? y : T(0);
    if (kIgnore) valid[i] = use ? T(1) : T(0);
  }
  return !bad;
}
// Class ids as int32, -1 where ignored; ids out of range are reported and read as ignored.
template <class E>
inline bool decode_ids(const E* __restrict in, int64_t step, int64_t n, int64_t classes, bool ignore_on, E ignore,
                       int32_t* __restrict out) {
  using U = std::conditional_t<sizeof(E) == 8, uint64_t, uint32_t>;  // a negative id becomes a huge one
  int bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    const E v = in[i * step];
    const bool use = !(ignore_on & (v == ignore)), fits = static_cast<U>(v) < static_cast<U>(classes);
    bad |= use & !fits;
    out[i] = use & fits ? static_cast<int32_t>(v) : -1;
  }
  return !bad;
}

template <class E>
inline bool representable(int64_t v) {
  return static_cast<int64_t>(static_cast<E>(v)) == v && (std::is_signed<E>::value || v >= 0);
}

// y (and the mask) of the planes of one problem.
template <class T>
struct TargetPlanes {
  const CpuProblem& p;
  IgnoreRule ignore;
  Runs runs, mask_runs;
  bool hard;    // labels are integers, so 0 or 1
  bool masked;  // elements can be invalid
  bool unbounded;
  TargetPlanes(CpuProblem& problem, IgnoreRule rule, bool any_number)
      : p(problem),
        ignore(rule),
        runs(problem.y, problem.space),
        mask_runs(problem.mask, problem.space),
        hard(!is_float(problem.y.dtype)),
        masked(rule.on || problem.mask.data),
        unbounded(any_number) {}

  // Integer labels, none of them invalid, as bits; `bytes` holds them where they are not bytes in a row.
  void label_bits(int64_t n, int64_t c, int64_t begin, int64_t count, uint8_t* bytes, uint8_t* bits) const {
    uint64_t high = 0;
    const uint8_t* row = bytes;
    visit_target(p.y.dtype, p.y.data, [&](auto* data) {
      using E = std::decay_t<decltype(*data)>;
      data += n * p.y.sample + c * p.y.channel;
      if constexpr (std::is_same<E, uint8_t>::value)
        if (runs.contiguous()) return void(row = data + begin);
      if constexpr (std::is_integral<E>::value)
        runs.each(begin, count, [&](int64_t offset, int64_t step, int64_t length, int64_t at) {
          high |= step == 1 ? narrow_labels(data + offset, 1, length, bytes + at)
                            : narrow_labels(data + offset, step, length, bytes + at);
        });
    });
    const bool good = pack_labels(row, count, bits);
    report(good && high <= 1, n, c, begin, count, nullptr);
  }

  // One plane of labels in [0, 1]. Without a mask or ignored values `valid` is not touched.
  void labels(int64_t n, int64_t c, int64_t begin, int64_t count, T* out, T* valid) const {
    bool good = true;
    visit_target(p.y.dtype, p.y.data, [&](auto* data) {
      using E = std::decay_t<decltype(*data)>;
      data += n * p.y.sample + c * p.y.channel;
      runs.each(begin, count, [&](int64_t offset, int64_t step, int64_t length, int64_t at) {
        if constexpr (std::is_integral<E>::value) {
          const bool on = ignore.on && representable<E>(ignore.index);
          const E value = static_cast<E>(ignore.index);
          if (on)
            good &= decode_labels<true>(data + offset, step, length, value, out + at, valid + at);
          else if (step == 1)
            good &= decode_labels<false>(data + offset, 1, length, value, out + at, valid + at);
          else
            good &= decode_labels<false>(data + offset, step, length, value, out + at, valid + at);
          if (ignore.on && !on)
            for (int64_t i = 0; i < length; ++i) valid[at + i] = T(1);
        } else {
          const T value = static_cast<T>(ignore.index), near = tolerance<E>();
          if (ignore.on)
            good &= decode_soft<true>(data + offset, step, length, value, near, out + at, valid + at);
          else if (step == 1)
            good &= decode_soft<false>(data + offset, 1, length, value, near, out + at, valid + at);
          else
            good &= decode_soft<false>(data + offset, step, length, value, near, out + at, valid + at);
        }
      });
    });
    if (!masked) return report(good, n, c, begin, count, nullptr);
    if (!ignore.on)
      for (int64_t i = 0; i < count; ++i) valid[i] = T(1);
    apply_mask(n, c, begin, count, valid);
    // A bad label under the mask does not count: look again, slowly, only then.
    if (!good) report(good, n, c, begin, count, valid);
    for (int64_t i = 0; i < count; ++i) out[i] = valid[i] != T(0) ? out[i] : T(0);
  }

  void class_ids(int64_t n, int64_t begin, int64_t count, int32_t* out) const {
    bool good = true;
    visit_target(p.y.dtype, p.y.data, [&](auto* data) {
      using E = std::decay_t<decltype(*data)>;
      if constexpr (std::is_integral<E>::value) {
        data += n * p.y.sample;
        const bool on = ignore.on && representable<E>(ignore.index);
        const E value = static_cast<E>(ignore.index);
        runs.each(begin, count, [&](int64_t offset, int64_t step, int64_t length, int64_t at) {
          if (step == 1)
            good &= decode_ids(data + offset, 1, length, p.channels, on, value, out + at);
          else
            good &= decode_ids(data + offset, step, length, p.channels, on, value, out + at);
        });
      }
    });
    T valid[kLongRow];
    for (int64_t i = 0; p.mask.data && i < count; ++i) valid[i] = T(1);
    if (p.mask.data) apply_mask(n, 0, begin, count, valid);
    if (!good) report(good, n, 0, begin, count, p.mask.data ? valid : nullptr);
    if (p.mask.data)
      for (int64_t i = 0; i < count; ++i) out[i] = valid[i] != T(0) ? out[i] : -1;
  }

  // Rows of probabilities, one per channel, `stride` apart; zero where not valid. As in torch, any number is one.
  void probabilities(int64_t n, int64_t begin, int64_t count, int64_t stride, const T* __restrict valid,
                     T* rows) const {
    for (int64_t c = 0; c < p.channels; ++c) {
      T* __restrict out = rows + c * stride;
      visit_target(p.y.dtype, p.y.data, [&](auto* data) {
        using E = std::decay_t<decltype(*data)>;
        data += n * p.y.sample + c * p.y.channel;
        runs.each(begin, count, [&](int64_t offset, int64_t step, int64_t length, int64_t at) {
          load_run(data + offset, step, length, out + at);
        });
        const T near = tolerance<E>();
        for (int64_t i = 0; i < count; ++i) out[i] = valid[i] != T(0) ? clamp_label(out[i], near) : T(0);
      });
    }
  }

  void apply_mask(int64_t n, int64_t c, int64_t begin, int64_t count, T* valid) const {
    if (!p.mask.data) return;
    const uint8_t* mask = static_cast<const uint8_t*>(p.mask.data) + n * p.mask.sample + c * p.mask.channel;
    mask_runs.each(begin, count, [&](int64_t offset, int64_t step, int64_t length, int64_t at) {
      for (int64_t i = 0; i < length; ++i) valid[at + i] = mask[offset + i * step] ? valid[at + i] : T(0);
    });
  }

 private:
  template <class E>
  T tolerance() const {  // one below 0 clamps nothing
    return unbounded ? T(-1) : tolerance_of<E, T>;
  }

  void report(bool good, int64_t n, int64_t c, int64_t begin, int64_t count, const T* valid) const {
    if (good || unbounded) return;
    visit_target(p.y.dtype, p.y.data, [&](auto* data) {
      using E = std::decay_t<decltype(*data)>;
      data += n * p.y.sample + c * p.y.channel;
      runs.each(begin, count, [&](int64_t offset, int64_t step, int64_t length, int64_t at) {
        for (int64_t i = 0; i < length; ++i) {
          const double v = static_cast<double>(widen(data[offset + i * step]));
          const T y = clamp_label(static_cast<T>(v), tolerance_of<E, T>);
          const bool fits = p.ids ? v >= 0 && v < p.channels : y >= T(0) && y <= T(1);
          const bool use = (!valid || valid[at + i] != T(0)) && !(ignore.on && v == static_cast<double>(ignore.index));
          if (fits || !use) continue;
          CpuProblem& shared = const_cast<CpuProblem&>(p);
          if (!shared.bad_target.exchange(true)) shared.bad_value = v;
          return;
        }
      });
    });
  }
};

FL_NAMESPACE_END

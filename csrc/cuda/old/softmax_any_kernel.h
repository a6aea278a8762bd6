// The kernels of softmax_any.h.
#pragma once
#include "softmax_any.h"
#include "topk.h"

namespace fl_old {

// Dynamic shared memory: a slot per thread and pointwise term; of a general gradient what each thread's pixel weighs in
// each term; then the sums, or the slopes, of all classes where they fit (p.cached).
inline int64_t any_shared(const Params& p, bool general, Phase phase, bool classes) {
  int64_t terms = 0;
  for (int i = 0; i < p.spec.n_terms; ++i) terms += p.spec.terms[i].kind != fl::kTversky;
  const int64_t size = p.wide ? 8 : 4, own = terms * kPixelThreads * (8 + (general ? size : 0));
  if (!classes || phase == kKeyPhase || phase == kValuePhase) return own;
  return own + (phase == kGradPhase ? p.channels * kSlopes * size : slot_bytes(p));
}

// f(sample, pixel) for every tile of the block, with the pixel of this thread.
template <class F>
__device__ __forceinline__ void each_tile(const Params& p, int64_t sample, int lanes, bool reverse, const F& f) {
  const uint32_t blocks = p.blocks, self = blockIdx.x % blocks;
  const uint32_t steps = p.tiles > self ? (p.tiles - 1 - self) / blocks + 1 : 0;
  for (uint32_t k = 0; k < steps; ++k) {
    const uint32_t tile = self + (reverse ? steps - 1 - k : k) * blocks;
    const uint32_t plane = p.planes == 1 ? 0 : p.tiles_per_plane.divide(tile);
    f(sample + plane, static_cast<int64_t>(tile - plane * p.tiles_per_plane.d) * lanes + threadIdx.x % lanes);
  }
}

// The value of a term at this thread's pixel, with the pixel's weight. All threads take part.
template <class T>
__device__ __forceinline__ T value_at(const Params& p, const PointTerm<T>& t, const Pixel<T>& x, bool dense, int lanes,
                                      AnyShared<T>& s) {
  T value = T(0);
  if (dense)
    value = join_sum(dense_value(p, t, x, threadIdx.x / lanes, kPixelThreads / lanes), lanes, s);
  else if (x.id >= 0)
    value = x.value(t, class_weight(p, t, x.id));
  return x.valid ? value * x.weight : T(0);
}

// dL/d(log p_t) of the pointwise terms on class ids.
template <class T>
__device__ __forceinline__ T target_slope(const Params& p, const Pixel<T>& x, const PointTerms<T>& terms) {
  T slope = T(0);
  for (int j = 0; j < terms.count && x.id >= 0; ++j) {
    const PointTerm<T>& t = terms.term[j];
    const T w = class_weight(p, t, x.id);
    const T weight = x.weight * (t.picks ? t.share(x.value(t, w) * x.weight) : T(1)) * t.scale;
    t.visit([&](const auto& element) { slope = fl::fma_(weight, element.slope(x.nll, x.miss, w), slope); });
  }
  return slope;
}

// g_c = p_c (dL/dp_c - dot - slope) + y_c slope
template <class T>
__device__ __forceinline__ void store_plain(const Params& p, const Pixel<T>& x, const ClassSlopes<T>* slopes, T slope,
                                            int lanes) {
  if (!x.there) return;
  const Column<T> out(p, p.out, x.n, x.at);
  const T less = (slopes && x.id >= 0 ? fl::fma_(x.target_p, (*slopes)(x.id, 0), x.dot) : T(0)) + slope;
  each_chunk(p, threadIdx.x / lanes, kPixelThreads / lanes, [&](int64_t c, int count) {
    T v[kClassChunk];
    x.logits(c, count, v);
#pragma unroll
    for (int k = 0; k < kClassChunk; ++k) {
      const bool own = x.id == c + k;
      T region = T(0);
      if (slopes && k < count) region = (*slopes)(c + k, 1) + (own ? (*slopes)(c + k, 0) : T(0));
      const T g = fl::fma_(x.probability(x.shift(v[k])), region - less, own ? slope : T(0));
      v[k] = x.valid ? g : T(0);
    }
    out.store(c, count, v);
  });
}

// The same with labels of all classes, h_c in place of y_c slope, and every kind of region term.
template <class T>
__device__ __forceinline__ void store_general(const Params& p, const Pixel<T>& x, const ClassSlopes<T>& d, bool dense,
                                              T* shares, int lanes, AnyShared<T>& s) {
  const int slice = threadIdx.x / lanes, slices = kPixelThreads / lanes;
  for (int j = 0; j < s.terms.count && dense; ++j) {
    const PointTerm<T>& t = s.terms.term[j];
    const T share = t.picks ? t.share(value_at(p, t, x, dense, lanes, s)) : T(1);
    shares[j * kPixelThreads + threadIdx.x] = share * x.weight * t.scale;
  }
  const auto own_slope = [&](int64_t c, T y, T shifted, T p_c) {
    T h = T(0);
    for (int j = 0; j < s.terms.count; ++j) {
      const PointTerm<T>& t = s.terms.term[j];
      h += shares[j * kPixelThreads + threadIdx.x] * x.template dense<true>(t, y, shifted, p_c, class_weight(p, t, c));
    }
    return h;
  };
  const auto region = [&](int64_t c, T y, T p_c) {
    return fl::region_slope<true, true>(p_c, y, d(c, 0), d(c, 1), d(c, 2), d(c, 3));
  };
  T dot = T(0), slope = T(0);
  each_class(p, slice, slices, [&](int64_t c) {
    if (!x.valid) return;
    const T y = x.label(c), shifted = x.shift(x.logit(c)), p_c = x.probability(shifted);
    dot = fl::fma_(p_c, region(c, y, p_c), dot);
    if (dense) slope += own_slope(c, y, shifted, p_c);
  });
  dot = join_sum(dot, lanes, s);
  slope = dense ? join_sum(slope, lanes, s) : target_slope(p, x, s.terms);
  if (!x.there) return;
  const Column<T> out(p, p.out, x.n, x.at);
  each_class(p, slice, slices, [&](int64_t c) {
    if (!x.valid) return out.put(c, T(0));
    const T y = x.label(c), shifted = x.shift(x.logit(c)), p_c = x.probability(shifted);
    const T own = dense ? own_slope(c, y, shifted, p_c) : y * slope;
    out.put(c, fl::fma_(p_c, region(c, y, p_c) - dot - slope, own));
  });
}

// The keys of top-k, or the values of a single term.
template <class T>
__device__ __forceinline__ void store_value(const Params& p, const Pixel<T>& x, T value, bool bad) {
  if (p.phase == kKeyPhase)
    static_cast<typename fl::KeyOf<T>::type*>(p.keys)[x.n * p.pixels + x.at] = x.valid ? fl::topk_key(value) : 0;
  else
    Column<T>(p, p.out, x.n, x.at).put(0, bad ? static_cast<T>(NAN) : value);
}

// Blocks of a multiprocessor that the registers leave room for.
template <class T, bool kGeneral>
constexpr int kAnyBlocks = sizeof(T) == 8 ? 1 : (kGeneral ? 2 : 3);

// Every phase, chosen at run time outside of the loops over classes. kGeneral: labels of all classes, region terms of
// squares or differences, statistics, or values instead of sums.
template <class T, bool kGeneral>
__global__ void __launch_bounds__(kPixelThreads, kAnyBlocks<T, kGeneral>) softmax_any(const FL_GRID_CONSTANT Params p) {
  FL_DYNAMIC_SHARED(memory);
  __shared__ AnyShared<T> s;
  const bool grads = p.phase == kGradPhase, both = !kGeneral && p.phase == kBothPhases;
  const bool each = p.phase == kKeyPhase || (kGeneral && p.phase == kValuePhase);
  if (grads && is_settled(p)) return;
  const int lanes = tile_lanes(p);
  const Part part = part_of(p, blockIdx.x / p.blocks);
  const double* row = grads ? p.dsums + part.row * p.channels * sum_columns(p) : nullptr;
  if (threadIdx.x == 0) fill_terms(p, row, grads || both, s.terms);
  __syncthreads();
  double* points = reinterpret_cast<double*>(memory);
  T* shares = reinterpret_cast<T*>(points + s.terms.count * kPixelThreads);
  T* classes = shares + (kGeneral ? s.terms.count * kPixelThreads : 0);
  const bool dense = kGeneral && is_dense(p), extra = kGeneral && (p.spec.any_squared() || p.spec.any_l1());
  int64_t arg = 0;
  bool bad = false;
  if (grads) {
    ClassSlopes<T> slopes{p.cached ? classes : nullptr, row, upstream_of(p), sum_columns(p)};
    slopes.fill(p.channels);
    __syncthreads();
    each_tile(p, part.sample, lanes, true, [&](int64_t n, int64_t at) {
      Pixel<T> x;
      x.load(p, n, at, bad);
      activate<!kGeneral, false>(p, x, lanes, &slopes, s, arg);
      if constexpr (kGeneral)
        store_general(p, x, slopes, dense, shares, lanes, s);
      else
        store_plain(p, x, &slopes, target_slope(p, x, s.terms), lanes);
    });
    return;
  }
  if (each) {
    int own = 0;  // all terms of top-k order the pixels alike
    while (p.phase == kKeyPhase && !s.terms.term[own].picks) ++own;
    each_tile(p, part.sample, lanes, false, [&](int64_t n, int64_t at) {
      Pixel<T> x;
      bool own_bad = false;
      x.load(p, n, at, own_bad);
      activate<false, false>(p, x, lanes, static_cast<const ClassSlopes<T>*>(nullptr), s, arg);
      const T value = value_at(p, s.terms.term[own], x, dense, lanes, s);
      if (x.there && static_cast<int>(threadIdx.x) < lanes) store_value(p, x, value, own_bad);
    });
    return;
  }
  const ClassSlots slots = make_slots(p, classes);
  clear_points(points, s.terms.count);
  double valid = 0.0;
  __syncthreads();
  each_tile(p, part.sample, lanes, false, [&](int64_t n, int64_t at) {
    Pixel<T> x;
    x.load(p, n, at, bad);
    activate<false, kGeneral>(p, x, lanes, static_cast<const ClassSlopes<T>*>(nullptr), s, arg);
    const bool first = static_cast<int>(threadIdx.x) < lanes;
    valid += first && x.valid;
    for (int j = 0; j < s.terms.count; ++j) {
      const PointTerm<T>& t = s.terms.term[j];
      const T value = value_at(p, t, x, dense, lanes, s), share = t.share(value);
      if (first && x.valid && share != T(0))
        points[j * kPixelThreads + threadIdx.x] += static_cast<double>(share * value);
    }
    if (p.ids) add_targets(x, lanes, slots);
    if (s.terms.region) add_classes<kGeneral>(p, x, lanes, extra, slots);
    if (kGeneral && p.counting) count_pixel(p, x, arg, lanes, slots);
    if (both) store_plain(p, x, static_cast<const ClassSlopes<T>*>(nullptr), target_slope(p, x, s.terms), lanes);
  });
  const bool any_bad = __syncthreads_or(bad);
  add_up_points(points, s.terms.count, s.totals);
  valid = block_sum(valid, s.valid);
  write_record(p, slots, s.terms, s.totals, valid, any_bad);
}

// Counts a digit of the keys, of which 0 takes no part; in a cooperative launch all digits, up to the thresholds.
template <class T>
__global__ void __launch_bounds__(kPixelThreads, 3) softmax_digits(const FL_GRID_CONSTANT Params p, int level) {
  using Key = typename fl::KeyOf<T>::type;
  __shared__ DigitCounter<T> counter;
  const Key* keys = static_cast<const Key*>(p.keys);
  const int64_t n = p.samples * p.pixels, step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const auto count = [&] {
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
      if (const Key key = keys[i]) counter.count(key);
  };
  if (p.cooperative) clear_histograms(p);
  counter.begin(level, level == 0 ? Key(0) : static_cast<Key>(p.selection->prefix));
  count();
  if (p.cooperative) grid_barrier();  // the histograms are empty
  counter.flush(p.histogram);
  if (!p.cooperative) return;
  __shared__ Found found;
  grid_barrier();
  unsigned long long* further = p.histogram;
#pragma unroll 1
  for (int i = 0; i < p.spec.n_terms; ++i) {
    if (p.spec.terms[i].kind != fl::kTopk) continue;
    const Pick<T> pick = find_threshold<T, kPixelThreads>(p.spec.terms[i], p.histogram, further, counter, found, count);
    if (blockIdx.x == 0 && threadIdx.x == 0) store_pick(p, i, pick);
  }
}

}  // namespace fl_old

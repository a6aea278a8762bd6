// Multiclass on class ids: of a block of pixels all classes stay in cache, so that a class costs little more than its
// exponential. softmax.h has the dense form and what happens once for each pixel.
#pragma once
#include "softmax.h"

FL_NAMESPACE_BEGIN

// Rows of channels, `stride` elements apart.
template <class E>
struct Rows {
  E* data;
  int64_t stride;
  FL_HD E* row(int64_t c) const { return data + c * stride; }
};

enum RegionKind {
  kNoRegion,
  kLinear,
  kExtra
};  // what the region terms need: no sums, the plain ones, squares and |p - y|

// The block must be in registers, so no function may take its address.
#define FL_INLINE_LAMBDA __attribute__((always_inline))

// A number for each pixel while the classes pass by: of a strip in registers, of a longer block in L1.
template <class V>
struct InRegisters {
  V v[kUnroll];
  template <class T>
  FL_HD explicit InRegisters(T*) {}
  FL_HD V get(int64_t, int j) const { return v[j]; }
  FL_HD void set(int64_t, int j, V x) { v[j] = x; }
};
template <class T>
struct InMemory {
  T* __restrict data;
  FL_HD explicit InMemory(T* p) : data(p) {}
  FL_HD auto get(int64_t i, int) const { return load_vec(data + i); }
  template <class V>
  FL_HD void set(int64_t i, int, V x) {
    store_vec(x, data + i);
  }
};

// Pixels [at, at + n) of a chunk of class ids, n a multiple of kUnroll vectors and with few classes no more than those.
// kMasked: some ids are -1, which is no class.
template <bool kMasked, bool kFew, class T>
struct IdsBlock {
  using V = typename LanesOf<T>::Value;
  using Ids = typename LanesOf<T>::Integers;
  using Choice = typename LanesOf<T>::Choice;
  static constexpr int kWidth = LanesOf<T>::kCount;
  using PerPixel = std::conditional_t<kFew, InRegisters<V>, InMemory<T>>;

  const SoftmaxChunk<T>& k;
  const int64_t at, n, channels;
  T* const block;  // [C, n]
  mutable PerPixel max, sum;

  FL_HD IdsBlock(const SoftmaxChunk<T>& chunk, int64_t begin, int64_t count)
      : k(chunk),
        at(begin),
        n(kFew ? kUnroll * kWidth : count),
        channels(chunk.channels),
        block(chunk.s.block),
        max(chunk.s.max + begin),
        sum(chunk.s.inv + begin) {}

  // loop(i, j): kUnroll vectors at a time, so that the exponential of one hides behind the others'.
  template <class Loop>
  FL_HD void each(const Loop& loop) const {
    for (int64_t i = 0; i < n; i += kUnroll * kWidth) {
#pragma GCC unroll 4
      for (int j = 0; j < kUnroll; ++j) loop(i + j * kWidth, j);
    }
  }
  FL_HD static Ids ids_at(const int32_t* id) {
    Ids r;
    memcpy(&r, id, sizeof(r));
    return r;
  }
  FL_HD static Ids class_id(int64_t c) { return Ids{} + static_cast<int32_t>(c); }
  FL_HD static V valid(const int32_t* id, V v) { return kMasked ? keep(!equal(ids_at(id), class_id(-1)), v) : v; }
  // Asks for the same row of the next block: rows lie in pages of their own, too many for the hardware to run ahead in.
  template <class E>
  FL_HD static void ask_for(const E* next) {
    if (sizeof(V) > 4 * sizeof(T) || (reinterpret_cast<uintptr_t>(next) & 63) < sizeof(V))
      __builtin_prefetch(next, 0, kFew ? 3 : 2);
  }

  // Logits, 0 where ignored, into the block, and their maximum; returns whether all maxima are finite.
  template <class E>
  FL_HD bool take(Rows<const E> x) const {
    const int32_t* __restrict id = k.s.id + at;
    each([&](int64_t i, int j) { max.set(i, j, V(-INFINITY)); });
    for (int64_t c = 0; c < channels; ++c) {
      const E* __restrict in = x.row(c) + at;
      T* __restrict out = block + c * n;
      each([&](int64_t i, int j) {
        const V v = valid(id + i, load_vec(in + i));
        store_vec(v, out + i), max.set(i, j, larger(max.get(i, j), v));
      });
    }
    bool finite = true;
    each([&](int64_t i, int j) { finite &= all(V(std::numeric_limits<T>::max()) >= abs_(max.get(i, j))); });
    return finite;
  }

  // The class of the largest logit, the first of equals.
  FL_HD void argmax() const {
    for (int64_t i = 0; i < n; ++i) {
      int32_t best = 0;
      for (int64_t c = 1; c < channels; ++c)
        if (block[c * n + i] > block[best * n + i]) best = static_cast<int32_t>(c);
      k.s.arg[at + i] = best;
    }
  }

  // Exponentials in place of the logits, the inverse of their sum, and -log p of the target class. A comparison for
  // each of few classes costs less than fetching the target's logit by itself.
  template <bool kInfinite, class E>
  FL_HD void exponentiate(Rows<const E> x, Rows<T> p, bool store) const {
    const int32_t* __restrict id = k.s.id + at;
    PerPixel own(k.s.nll + at);
    for (int64_t i = 0; !kFew && i < n; ++i) k.s.nll[at + i] = id[i] < 0 ? T(0) : block[id[i] * n + i];
    each([&](int64_t i, int j) {
      sum.set(i, j, V(0)), own.set(i, j, kFew ? V(0) : distance<kInfinite>(own.get(i, j), max.get(i, j)));
    });
    for (int64_t c = 0; c < channels; ++c) {
      const E* next = x.row(c) + at + n;
      const T* kept = store ? p.row(c) + at : block;
      T* __restrict e = block + c * n;
      each([&](int64_t i, int j) {
        ask_for(next + i), ask_for(kept + i);
        const V below = distance<kInfinite>(load_vec(e + i), max.get(i, j));
        if (kFew) own.set(i, j, select_(equal(ids_at(id + i), class_id(c)), below, own.get(i, j)));
        const V v = exp_minus(below);
        store_vec(v, e + i), sum.set(i, j, sum.get(i, j) + v);
      });
    }
    each([&](int64_t i, int j) {
      const V total = sum.get(i, j);
      store_vec(own.get(i, j) + log_(total), k.s.nll + at + i), sum.set(i, j, V(1) / total);
    });
  }
  template <bool kInfinite>
  FL_HD static V distance(V x, V max) {
    return kInfinite ? select_(x == max, V(0), max - x) : max - x;
  }

  // Probabilities to p, and the sums over the valid pixels to k.s.sums, [C, kStripSums] vectors.
  template <RegionKind kKind>
  FL_HD void normalize(Rows<T> p, bool store) const {
    const int32_t* __restrict id = k.s.id + at;
    for (int64_t c = 0; c < channels; ++c) {
      const T* __restrict e = block + c * n;
      T* __restrict out = store ? p.row(c) + at : nullptr;
      T* sums = k.s.sums + c * kStripSums * kWidth;
      V inter = V(0), pred = V(0), target = V(0), squares = V(0), diff = V(0), cross = V(0);
      each([&](int64_t i, int j) {
        const V v = load_vec(e + i) * sum.get(i, j), counted = valid(id + i, v);
        if (out) store_vec(v, out + i);
        if (kKind == kNoRegion) return;
        const Choice y = equal(ids_at(id + i), class_id(c));
        inter = add_where(y, inter, v), pred += counted, target = add_where(y, target, V(1));
        if (kKind != kExtra) return;
        squares += counted * counted, diff += abs_(counted - select_(y, V(1), V(0))),
            cross = add_where(y, cross, v * v);
      });
      if (kKind == kNoRegion) continue;
      const V parts[kStripSums] = {inter, pred, target, squares, diff, cross};
      for (int part = 0; part < (kKind == kExtra ? kStripSums : 3); ++part)
        store_vec(load_vec(sums + part * kWidth) + parts[part], sums + part * kWidth);
    }
  }

  // g_c = p_c (dL/dp_c - dot - h) + y_c h, where dot = sum over channels of p_c dL/dp_c.
  template <RegionKind kKind, class E>
  FL_HD void gradient(Rows<const T> p, const T* h, Rows<E> g) const {
    const int32_t* __restrict id = k.s.id + at;
    PerPixel base(k.s.dot + at);
    h += at;
    each([&](int64_t i, int j) { base.set(i, j, V(0)); });
    for (int64_t c = 0; c < channels; ++c) {
      const T* __restrict in = p.row(c) + at;
      T* __restrict out = block + c * n;
      const ClassLine<T> d = k.s.lines[c];
      each([&](int64_t i, int j) {
        ask_for(in + n + i);
        const V v = valid(id + i, load_vec(in + i));
        store_vec(v, out + i);
        if (kKind != kNoRegion) base.set(i, j, fma_(v, slope<kKind>(d, v, ids_at(id + i), c), base.get(i, j)));
      });
    }
    each([&](int64_t i, int j) { base.set(i, j, base.get(i, j) + load_vec(h + i)); });
    for (int64_t c = 0; c < channels; ++c) {
      const T* __restrict in = block + c * n;
      E* out = g.row(c) + at;
      const ClassLine<T> d = k.s.lines[c];
      each([&](int64_t i, int j) {
        const V v = load_vec(in + i), rest = base.get(i, j);
        const V factor = kKind != kNoRegion ? slope<kKind>(d, v, ids_at(id + i), c) - rest : -rest;
        store_vec(add_where(equal(ids_at(id + i), class_id(c)), v * factor, load_vec(h + i)), out + i);
      });
    }
  }
  // dL/dp_c of the region terms.
  template <RegionKind kKind>
  FL_HD static V slope(const ClassLine<T>& d, V p, Ids id, int64_t c) {
    const Choice y = equal(id, class_id(c));
    if (kKind == kLinear) return select_(y, V(d.both), V(d.pred));
    return region_grad<true>(p, select_(y, V(1), V(0)), V(d.inter), V(d.pred), V(d.square), V(d.cross), V(d.diff));
  }
};

constexpr int kFewClasses = 24;

// f(block) for the blocks of a chunk.
template <bool kMasked, class T, class F>
inline void each_ids_block(const SoftmaxChunk<T>& k, const F& f) {
  const int64_t whole = (k.n + kStrip - 1) / kStrip * kStrip, step = k.s.block_pixels;
  if constexpr (LanesOf<T>::kCount > 1)  // there are registers to stay in
    if (k.channels <= kFewClasses) {
      for (int64_t at = 0; at < whole; at += kUnroll * LanesOf<T>::kCount) f(IdsBlock<kMasked, true, T>(k, at, 0));
      return;
    }
  for (int64_t at = 0; at < whole; at += step)
    f(IdsBlock<kMasked, false, T>(k, at, at + step < whole ? step : whole - at));
}

// Softmax, nll of the target class, and the region terms' sums of a chunk whose labels are in the scratch.
template <bool kMasked, RegionKind kKind, class T, class E>
inline void ids_forward(const SoftmaxChunk<T>& k, Rows<const E> x, Rows<T> p, bool store, bool counts) {
  each_ids_block<kMasked>(k, [&](const auto& block) FL_INLINE_LAMBDA {
    const bool finite = block.take(x);
    if (counts) block.argmax();
    if (finite)
      block.template exponentiate<false>(x, p, store);
    else
      block.template exponentiate<true>(x, p, store);
    block.template normalize<kKind>(p, store);
  });
}
template <bool kMasked, RegionKind kKind, class T, class E>
inline void ids_gradient(const SoftmaxChunk<T>& k, Rows<const T> p, const T* h, Rows<E> g) {
  each_ids_block<kMasked>(k, [&](const auto& block) FL_INLINE_LAMBDA { block.template gradient<kKind>(p, h, g); });
}

FL_NAMESPACE_END

// The classes of a unit's pixels in shared memory: a row for each class, 16 bytes of it for each lane. They arrive as
// they lie in memory, all classes at once, and are numbers of type T from the first look at them on. Loops over them
// are rolled, so that any number of classes takes the same code.
#pragma once
#include "access.h"

namespace fl_cuda {

constexpr int kRowBytes = 16 * kWarp + 16;  // the last 16 bring neighbouring classes to different banks
constexpr int kPixelRows = 4;               // behind the classes, of a tile that is kept

// Calls f(k, n) for the thread's classes k .. k + n - 1: four at a time, then two, then one.
template <int kN>
struct Rows {
  static constexpr int count = kN;
};
template <class F>
__device__ __forceinline__ void each_row(const Slice& s, const F& f) {
  int k = 0;
#pragma unroll 1
  for (; k + 4 <= s.count; k += 4) f(k, Rows<4>());
  if (s.count & 2) f(k, Rows<2>()), k += 2;
  if (s.count & 1) f(k, Rows<1>());
}

// Warps that share pixels wait for each other.
__device__ __forceinline__ void sync_slices(const Plan& p) {
  if (p.slices == 1)
    __syncwarp();
  else
    __syncthreads();
}

// From global to shared memory, past the registers; wait_copies: until the thread's own have arrived.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* to, const void* from) {
#ifdef __CUDA_ARCH__
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(kBytes) : "memory");
#else
  memcpy(to, from, kBytes);
#endif
}
__device__ __forceinline__ void wait_copies() {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

template <class X>
struct ClassTile {
  using T = ComputeOf<X>;
  static constexpr int kV = 16 / sizeof(T);
  using Raw = Vector<X, kV>;
  using Row = Vector<T, kV>;

  unsigned char* base;  // of the group of warps
  __device__ __forceinline__ unsigned char* at(int c) const { return base + c * kRowBytes + threadIdx.x % kWarp * 16; }
  __device__ __forceinline__ Row& row(int c) const { return *reinterpret_cast<Row*>(at(c)); }
  __device__ __forceinline__ T& number(int c, int i) const { return reinterpret_cast<T*>(at(c))[i]; }
  __device__ __forceinline__ X& raw(int c, int i) const { return reinterpret_cast<X*>(at(c))[i]; }  // before it is one

  // Walks over a unit whose channels lie side by side, 16 bytes a turn, neighbouring threads of the group beside each
  // other: each(element, class, pixel of the unit) after or before move(first element, all of them).
  template <bool kStores, class F, class G>
  static __device__ __forceinline__ void each_chunk(const Work& w, const Plan& p, const F& move, const G& each) {
    constexpr uint32_t kEach = 16 / sizeof(X);
    const uint32_t channels = static_cast<uint32_t>(w.channels), end = kWarp * kV * channels;
#pragma unroll 1
    for (uint32_t e = threadIdx.x % (kWarp * p.slices) * kEach; e < end; e += kWarp * p.slices * kEach) {
      uint32_t pixel = p.classes.divide(e), c = e - pixel * channels;
      Vector<X, kEach> v;
      if (!kStores) move(e, v);
#pragma unroll
      for (uint32_t j = 0; j < kEach; ++j) {
        each(v.x[j], c, pixel);
        if (++c == channels) c = 0, ++pixel;
      }
      if (kStores) move(e, v);
    }
  }

  // Pixels of any strides, one after the other.
  static __device__ __noinline__ void gather(ClassTile t, const Work& w, const Plan& p, Slice s, Unit u) {
#pragma unroll 1
    for (int i = 0; i < kV; ++i) {
      const X* from = static_cast<const X*>(w.x.data) + u.sample * w.x.sample + s.first * w.x.channel;
      if (i < u.count) from += offset_of(w, p, w.x, p.x, u.at + i);
#pragma unroll 4
      for (int k = 0; k < s.count; ++k, from += w.x.channel) t.raw(s.first + k, i) = i < u.count ? *from : X{};
    }
  }
  static __device__ __noinline__ void scatter(ClassTile t, const Work& w, const Plan& p, Slice s, Unit u) {
#pragma unroll 1
    for (int i = 0; i < u.count; ++i) {
      X* to = static_cast<X*>(w.out.data) + u.sample * w.out.sample + s.first * w.out.channel +
              offset_of(w, p, w.out, p.out, u.at + i);
#pragma unroll 4
      for (int k = 0; k < s.count; ++k, to += w.out.channel) narrow(t.number(s.first + k, i), p.brain, *to);
    }
  }

  // The thread's logits, as they lie in memory, into the tile. They are there after arrive().
  __device__ __forceinline__ void fetch(const Work& w, const Plan& p, const Slice& s, const Unit& u) const {
    const X* from = static_cast<const X*>(w.x.data) + u.sample * w.x.sample;
    if (p.x.vectors && u.whole) {
      from += s.first * w.x.channel + u.at;
      each_row(s, [&](int k, auto n) {
#pragma unroll
        for (int j = 0; j < n.count; ++j) copy_async<sizeof(Raw)>(at(s.first + k + j), from), from += w.x.channel;
      });
    } else if (p.x.interleaved && u.whole) {
      from += static_cast<int64_t>(u.at - threadIdx.x % kWarp * kV) * w.channels;
      each_chunk<false>(
          w, p, [&](uint32_t e, auto& v) { v.load(from + e); },
          [&](X x, uint32_t c, uint32_t pixel) {
            reinterpret_cast<X*>(base + c * kRowBytes + pixel / kV * 16)[pixel % kV] = x;
          });
    } else {
      gather(*this, w, p, s, u);
    }
  }
  __device__ __forceinline__ void arrive(const Plan& p) const {
    wait_copies();
    if (p.x.interleaved) sync_slices(p);
  }

  // The tile's numbers to the gradient.
  template <bool kBrain>
  __device__ __forceinline__ void store(const Work& w, const Plan& p, const Slice& s, const Unit& u) const {
    X* to = static_cast<X*>(w.out.data) + u.sample * w.out.sample;
    if (p.out.interleaved) sync_slices(p);
    if (p.out.vectors && u.whole) {
      to += s.first * w.out.channel + u.at;
      each_row(s, [&](int k, auto n) {
#pragma unroll
        for (int j = 0; j < n.count; ++j, to += w.out.channel) {
          const Row own = row(s.first + k + j);
          Raw v;
#pragma unroll
          for (int i = 0; i < kV; ++i) narrow(own.x[i], kBrain, v.x[i]);
          v.store(to);
        }
      });
    } else if (p.out.interleaved && u.whole) {
      to += static_cast<int64_t>(u.at - threadIdx.x % kWarp * kV) * w.channels;
      each_chunk<true>(
          w, p, [&](uint32_t e, auto& v) { v.store(to + e); },
          [&](X& x, uint32_t c, uint32_t pixel) {
            narrow(reinterpret_cast<const T*>(base + c * kRowBytes)[pixel], kBrain, x);
          });
    } else {
      scatter(*this, w, p, s, u);
    }
    if (p.out.interleaved) sync_slices(p);
  }
};

}  // namespace fl_cuda

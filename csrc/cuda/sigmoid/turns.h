// The pixels of a fast kernel, a turn of a thread at a time: from memory, or from shared memory where a block keeps
// them.
#pragma once
#include "inputs.h"

namespace fl_cuda {

// A turn's pixels.
template <class X, class Inputs>
struct Batch {
  static constexpr int kPacks = Inputs::kPacks;
  Pack<X> x[kPacks];
  typename Inputs::Labels y[kPacks];
  X* out;     // where the gradient of the first pack goes
  int there;  // packs, counted by the lanes; of an edge, whether its pixel is
  bool edge;  // a single pixel

  __device__ __forceinline__ bool has(int p) const { return p * kWarp < there; }
  __device__ __forceinline__ void clear() {  // to pixels that add nothing
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      y[i] = {};
#pragma unroll
      for (int j = 0; j < kPack; ++j) x[i].v[j] = narrow<X>(-INFINITY);
    }
  }
  __device__ __forceinline__ void put(int p, const Pack<X>& grad) const {
    if (!has(p)) return;
    if (p == 0 && edge)
      *out = grad.v[0];
    else
      store_pack(out + p * kWarp * kPack, grad);
  }
  // f(number of the pack, logits, labels), n packs at a time.
  template <int kWanted, class F>
  __device__ __forceinline__ void each(const F& f) {
    constexpr int n = kWanted < kPacks ? kWanted : kPacks;
    if constexpr (n == kPacks) {
#pragma unroll
      for (int p = 0; p < n; ++p) f(p, x[p], y[p]);
    } else {
#pragma unroll 1
      for (int done = 0; done < kPacks; done += n) {
#pragma unroll
        for (int p = 0; p < n; ++p) f(p, x[p], y[p]);
#pragma unroll
        for (int i = 0; i + n < kPacks; ++i) x[i] = x[i + n], y[i] = y[i + n];
        out += n * kWarp * kPack, there -= n * kWarp;
      }
    }
  }
};

// Rows of shared memory: a pack of logits and its labels, of each thread.
template <class X, class Labels, int kThreads>
struct Rows {
  static constexpr int kBytes = kThreads * (sizeof(Pack<X>) + sizeof(Labels));
  unsigned char* memory;
  __device__ __forceinline__ Pack<X>& logits(int row) const {
    return reinterpret_cast<Pack<X>*>(memory + row * kBytes)[threadIdx.x];
  }
  __device__ __forceinline__ Labels& labels(int row) const {
    return reinterpret_cast<Labels*>(memory + row * kBytes + kThreads * sizeof(Pack<X>))[threadIdx.x];
  }
};

template <class X, class Inputs, int kThreads>
struct Reader {
  static constexpr int kPacks = Inputs::kPacks;
  const Work& w;
  const Launch& l;
  const Walk& k;
  const Share& own;
  Rows<X, typename Inputs::Labels, kThreads> rows;
  Inputs inputs;
  const X *part_x, *x;  // x, out: the first pack of this turn
  X *part_out, *out;
  uint32_t tile = 0, full = 0;  // of the plane: the one that was read last, and how many have all packs
  int tiles, pixels;            // from one turn to the next, if the plane has it

  __device__ __forceinline__ Reader(const Work& w_, const Launch& l_, const Walk& k_, const Share& own_,
                                    unsigned char* memory)
      : w(w_), l(l_), k(k_), own(own_), rows{memory}, inputs(w_, k_, own_) {
    part_x = plane_of<const X>(w.x, own), part_out = plane_of<X>(w.out, own);
  }
  __device__ __forceinline__ void begin(bool reverse) {
    const int step = static_cast<int>(k.blocks.d) * (kThreads / kWarp);
    tiles = reverse ? -step : step, pixels = tiles * (kPacks * kWarp * kPack), tile = full = 0;
    x = part_x, out = part_out, inputs.begin();  // nothing lives on from loop to loop
  }

  // The pixels of a turn, if it has any. `again`: not the first time, what is kept is there.
  __device__ __forceinline__ bool read(int turn, bool again, Batch<X, Inputs>& batch, uint32_t& bad) {
    tile += tiles;
    if (tile < full) {  // as most turns are: as far again in the same plane
      x += pixels, out += pixels, inputs.advance(k, pixels);
      batch.there = kPacks * kWarp, batch.edge = false;
    } else if (!find(turn, batch)) {
      return false;
    }
    batch.out = out;
    if (again && turn < l.kept) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        batch.x[p] = rows.logits(turn * kPacks + p), batch.y[p] = rows.labels(turn * kPacks + p);
      return true;
    }
    if ((kPacks - 1) * kWarp < batch.there) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p) batch.x[p] = load_pack(x + p * kWarp * kPack);
      inputs.template load<true>(k, batch.there, batch.y);
    } else {
      batch.clear();
      if (!batch.edge) {
#pragma unroll
        for (int p = 0; p < kPacks; ++p)
          if (batch.has(p)) batch.x[p] = load_pack(x + p * kWarp * kPack);
        inputs.template load<false>(k, batch.there, batch.y);
      } else if (batch.there) {
        batch.x[0].v[0] = *x;
        inputs.one(k, batch.y[0], bad);
      }
    }
    if (!batch.edge) inputs.complete(k, batch.there, batch.y, bad);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) batch.y[p].hide(batch.x[p]);
    if (turn < l.kept) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        rows.logits(turn * kPacks + p) = batch.x[p], rows.labels(turn * kPacks + p) = batch.y[p];
    }
    return true;
  }

  // Where a turn lies.
  __device__ __forceinline__ bool find(int turn, Batch<X, Inputs>& batch) {
    const int lane = threadIdx.x % kWarp, tile_packs = kWarp * k.packs;
    uint32_t start, plane;
    batch.edge = turn >= k.turns, full = 0;
    if (!batch.edge) {
      tile = (turn * k.blocks.d + own.self) * (kThreads / kWarp) + threadIdx.x / kWarp;
      if (tile >= l.tiles) return false;
      plane = tile < l.tiles_per_plane.d ? 0 : l.tiles_per_plane.divide(tile);
      tile -= plane * l.tiles_per_plane.d;
      start = tile * tile_packs;
    } else {  // a thread for each pixel of the ends of each plane
      start = ((turn - k.turns) * k.blocks.d + own.self) * kThreads + threadIdx.x;
      plane = start / 8, start %= 8;
      if (plane >= k.planes) return false;
    }
    x = part_x + plane * w.x.sample;
    const uint32_t head = head_of(x), packs = k.pixels > head ? static_cast<uint32_t>((k.pixels - head) / kPack) : 0;
    int64_t first = head;  // pixel
    if (!batch.edge) {
      const int rest = static_cast<int>(packs - start);
      batch.there = (rest < tile_packs ? rest : tile_packs) - lane;
      first += static_cast<int64_t>(start + lane) * kPack;
      if (rest >= kPacks * kWarp && k.packs == kPacks) full = packs / (kPacks * kWarp);
    } else {
      const bool behind = start >= kPack;
      first = behind ? first + static_cast<int64_t>(packs) * kPack + (start - kPack) : start;
      batch.there = first < k.pixels && (behind || start < head);
    }
    x += first, out = part_out + plane * w.out.sample + first;
    inputs.move(w, k, plane, first);
    return true;
  }
};

}  // namespace fl_cuda

// The fast kernels of binary and multilabel losses: planes that can be read in packs, plain region terms and at most
// one pointwise term.
#pragma once
#include "../epilogue.h"
#include "inputs.h"
#include "terms.h"

namespace fl_cuda {

// Threads of a block and blocks of a multiprocessor, each thread with four packs in flight: 2 x 512 and 3 x 256 were
// measured best, and alike. The latter leave 80 registers to a thread.
template <class Terms, class Inputs>
struct Shape {
  static constexpr bool kPlain = !Terms::kPointwise && !Inputs::kMasked;
  static constexpr int kThreads = kPlain ? 512 : 256, kBlocks = kPlain ? 2 : 3;
};

// What a thread has summed up.
struct Totals {
  double inter = 0.0, pred = 0.0, target = 0.0, point = 0.0;
  uint32_t on = 0, valid = 0, bad = 0;
  __device__ __forceinline__ void add(const Sums& s) {
    inter += static_cast<double>(s.inter), pred += static_cast<double>(s.pred);
    target += static_cast<double>(s.target), point += static_cast<double>(s.point);
  }
};

// The block's sums, by their slots.
template <class Terms, class Inputs>
__device__ __forceinline__ void leave_sums(const Work& w, const Walk& k, const Share& own, const Totals& t,
                                           double* scratch) {
  const int warp = threadIdx.x / kWarp;
  const double inter = warp_sum(t.inter), pred = warp_sum(t.pred);
  const double target = Inputs::kSoft ? warp_sum(t.target) : __reduce_add_sync(kAllLanes, t.on);
  const double point = Terms::kPointwise ? warp_sum(t.point) : 0.0;
  const double valid = Inputs::kMasked ? __reduce_add_sync(kAllLanes, t.valid) : 0.0;
  if (threadIdx.x % kWarp == 0) {
    double* to = scratch + warp * 5;
    to[0] = inter, to[1] = pred, to[2] = target, to[3] = point, to[4] = valid;
  }
  const bool bad = __syncthreads_or(t.bad != 0);
  if (threadIdx.x >= 6) return;
  double v = threadIdx.x == 5 && bad ? 1.0 : 0.0;
  for (int i = 0; threadIdx.x < 5 && i < static_cast<int>(blockDim.x) / kWarp; ++i) v += scratch[i * 5 + threadIdx.x];
  if (!Inputs::kMasked && threadIdx.x == 4 && own.self == 0) v = static_cast<double>(k.planes) * k.pixels;
  int slot = w.slots.bad;
  if (threadIdx.x < 3) slot = w.slots.column[fl::kInter + threadIdx.x];
  if (threadIdx.x == 3) slot = Terms::kPointwise ? w.slots.column[fl::kFixedSums + k.point] : -1;
  if (threadIdx.x == 4) slot = w.slots.column[fl::kValid];
  if (slot >= 0) w.partials[(own.part * k.partials + slot) * k.blocks.d + own.self] = v;
}

template <class Terms>
__device__ __forceinline__ Slopes slopes_of(const Work& w, const Walk& k, const Share& own, const double* grad_sums) {
  const double* row = grad_sums + own.row * k.columns;
  const double scale = grad_output_of(w);
  Slopes d;
  d.inter = static_cast<float>(scale * row[fl::kInter]), d.pred = static_cast<float>(scale * row[fl::kPred]);
  if (Terms::kPointwise) d.point = static_cast<float>(scale * row[fl::kFixedSums + k.point]);
  return d;
}

// A turn's pixels.
template <class X, class Inputs>
struct Batch {
  static constexpr int kPacks = Inputs::kPacks;
  Pack<X> x[kPacks];
  typename Inputs::Labels y[kPacks];

  __device__ __forceinline__ void clear() {  // to pixels that add nothing
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      y[i] = {};
#pragma unroll
      for (int j = 0; j < kPack; ++j) x[i].v[j] = narrow<X>(-INFINITY);
    }
  }
  template <int n>
  __device__ __forceinline__ void drop() {
#pragma unroll
    for (int i = 0; i + n < kPacks; ++i) x[i] = x[i + n], y[i] = y[i + n];
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

// One loop over the pixels serves all phases: what to do with a turn is a branch that all threads take alike, and its
// instructions are fetched once.
template <class X, class Terms, class Inputs>
__global__ void __launch_bounds__(Shape<Terms, Inputs>::kThreads, Shape<Terms, Inputs>::kBlocks)
    sigmoid_fast(const FL_GRID_CONSTANT Work w, const FL_GRID_CONSTANT Launch l, const FL_GRID_CONSTANT Walk k) {
  constexpr int kPacks = Inputs::kPacks;
  FL_DYNAMIC_SHARED(memory);
  __shared__ Epilogue e;
  if (l.phase == kGradPhase && is_rescaled(w, l)) return;
  const Rows<X, typename Inputs::Labels, Shape<Terms, Inputs>::kThreads> rows{memory};
  const Share own(w, k);
  const X* part_x = plane_of<const X>(w.x, own);
  X* part_out = plane_of<X>(w.out, own);
  Inputs inputs(w, k, own);
  const Terms terms(w, k.point, own.channel);
  const int lane = threadIdx.x % kWarp, tile_packs = kWarp * k.packs;
  const uint32_t warps = blockDim.x / kWarp, first_tile = own.self * warps + threadIdx.x / kWarp;
  Totals total;
  bool again = l.phase == kGradPhase;

  for (;;) {
    Slopes d;
    if (again) d = slopes_of<Terms>(w, k, own, l.phase == kGradPhase ? w.grad_sums : e.grad_sums);
    if (Terms::kPointwise && l.phase == kBothPhases)
      d.point = static_cast<float>(grad_output_of(w) *
                                   (weight_of(w, k.point) * fl::pointwise_scale(w.spec.terms[k.point], w.known_valid)));
    uint32_t plane = ~0u, packs = 0, head = 0;
    const X* x = nullptr;
    X* out = nullptr;
    const auto move = [&](uint32_t to) {
      if (to == plane) return;
      plane = to;
      x = part_x + to * w.x.sample;
      head = head_of(x);
      packs = k.pixels > head ? static_cast<uint32_t>((k.pixels - head) / kPack) : 0;
      x += head;
      out = part_out + to * w.out.sample + head;
      inputs.move(w, k, to, head);
    };
    const int all = k.turns + k.edge_turns;
#pragma unroll 1
    for (int i = 0; i < all; ++i) {
      const int turn = again ? all - 1 - i : i;
      const bool edge = turn >= k.turns;
      uint32_t start, to;
      if (!edge) {
        const uint32_t tile = first_tile + turn * (k.blocks.d * warps);
        if (tile >= l.tiles) continue;
        to = tile < l.tiles_per_plane.d ? 0 : l.tiles_per_plane.divide(tile);
        start = (tile - to * l.tiles_per_plane.d) * tile_packs;
      } else {  // a thread for each pixel of the ends of each plane
        start = ((turn - k.turns) * k.blocks.d + own.self) * blockDim.x + threadIdx.x;
        to = start / 8, start %= 8;
        if (to >= k.planes) continue;
      }
      if (to != plane) {
        plane = to;
        x = part_x + plane * w.x.sample;
        head = head_of(x);
        packs = k.pixels > head ? static_cast<uint32_t>((k.pixels - head) / kPack) : 0;
        x += head;
        out = part_out + plane * w.out.sample + head;
        inputs.move(w, k, plane, head);
      }
      Batch<X, Inputs> batch;
      int64_t first;  // pixel behind the head
      int there;      // packs; of an edge, whether its pixel is
      if (!edge) {
        const int rest = static_cast<int>(packs - start);
        there = (rest < tile_packs ? rest : tile_packs) - lane;
        first = static_cast<int64_t>(start + lane) * kPack;
      } else {
        const bool behind = start >= kPack;
        first = behind ? static_cast<int64_t>(packs) * kPack + (start - kPack) : static_cast<int64_t>(start) - head;
        there = behind ? first < k.pixels - head : start < head && start < k.pixels;
      }
      if (again && turn < l.kept) {
#pragma unroll
        for (int p = 0; p < kPacks; ++p)
          batch.x[p] = rows.logits(turn * kPacks + p), batch.y[p] = rows.labels(turn * kPacks + p);
      } else {
        if ((kPacks - 1) * kWarp < there) {
#pragma unroll
          for (int p = 0; p < kPacks; ++p) batch.x[p] = load_pack(x + first + p * kWarp * kPack);
          inputs.template load<true>(k, first, there, batch.y);
        } else {
          batch.clear();
          if (!edge) {
#pragma unroll
            for (int p = 0; p < kPacks; ++p)
              if (p * kWarp < there) batch.x[p] = load_pack(x + first + p * kWarp * kPack);
            inputs.template load<false>(k, first, there, batch.y);
          } else if (there) {
            batch.x[0].v[0] = x[first];
            inputs.one(k, first, batch.y[0], total.bad);
          }
        }
        if (!edge) inputs.complete(k, first, there, batch.y, total.bad);
#pragma unroll
        for (int p = 0; p < kPacks; ++p) batch.y[p].hide(batch.x[p]);
        if (turn < l.kept) {
#pragma unroll
          for (int p = 0; p < kPacks; ++p)
            rows.logits(turn * kPacks + p) = batch.x[p], rows.labels(turn * kPacks + p) = batch.y[p];
        }
      }
      X* to_out = out + first;
      const auto put = [&](int p, const Pack<X>& grad) {
        if (p * kWarp >= there) return;
        if (!edge)
          store_pack(to_out + p * kWarp * kPack, grad);
        else
          *to_out = grad.v[0];
      };
      const auto each = [&](auto unroll, const auto& f) {
        constexpr int n = decltype(unroll)::value < kPacks ? decltype(unroll)::value : kPacks;
#pragma unroll 1
        for (int done = 0; done < kPacks; done += n) {
#pragma unroll
          for (int p = 0; p < n; ++p) f(p, batch.x[p], batch.y[p]);
          if (n == kPacks) break;
          batch.template drop<n>();
          to_out += n * kWarp * kPack, there -= n * kWarp;
        }
      };
      if (again) {
        each(std::integral_constant<int, Terms::kGradUnroll>(), [&](int p, const Pack<X>& v, const auto& y) {
          Pack<X> grad;
#pragma unroll
          for (int j = 0; j < kPack; ++j) grad.v[j] = narrow<X>(y.shown(j, terms.grad(widen(v.v[j]), y.label(j), d)));
          put(p, grad);
        });
        continue;
      }
      Sums s;
      if (Terms::kPointwise && l.phase == kBothPhases) {
        each(std::integral_constant<int, Terms::kUnroll>(), [&](int p, const Pack<X>& v, const auto& y) {
          Pack<X> grad;
#pragma unroll
          for (int j = 0; j < kPack; ++j)
            grad.v[j] = narrow<X>(y.shown(j, terms.add_grad(widen(v.v[j]), y.label(j), s, d)));
          y.count(total);
          put(p, grad);
        });
      } else {
        each(std::integral_constant<int, Terms::kUnroll>(), [&](int, const Pack<X>& v, const auto& y) {
#pragma unroll
          for (int j = 0; j < kPack; ++j) terms.add(widen(v.v[j]), y.label(j), s);
          y.count(total);
        });
      }
      total.add(s);
    }
    if (again) return;
    leave_sums<Terms, Inputs>(w, k, own, total, e.sums);
    if (!l.finishes) return;
    grid_barrier();
    if (l.phase != kAllPhases && blockIdx.x > 0) return;
    finish_sums(w, l, e);
    if (l.phase != kAllPhases) return;
    again = true;
  }
}

}  // namespace fl_cuda

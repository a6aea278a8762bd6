// The host's side of losses of interpolated logits: tiles, and which kernels.
#include <cmath>

#include "kernel.h"

namespace fl_cuda {
namespace {

constexpr int kMostInputs = 16;  // of a tile along an axis

// The tile of at most `side` inputs along each axis, all of one size.
void cut(Tiling& t, int side, int per_group) {
  t.reads = 1;
  for (int a = 0; a < 3; ++a) {
    const int in = t.inputs[a], out = t.outputs[a], halo = t.mixes[a] ? 1 : 0;
    t.count[a] = (in + side - 1) / side, t.size[a] = (in + t.count[a] - 1) / t.count[a];
    t.count[a] = (in + t.size[a] - 1) / t.size[a];
    t.reads *= t.size[a] + 2 * halo;
    const bool corners = t.align_corners && in > 1 && out > 1;
    const double ratio = corners ? std::fmax(double(out) / in, double(out - 1) / (in - 1)) : double(out) / in;
    const double most = std::ceil((t.size[a] + halo + 1) * ratio) + 2;  // an end's cell has half as many again
    t.most[a] = most < out ? static_cast<int>(most) : out;
  }
  const int cells = t.size[2] + (t.mixes[2] ? 1 : 0);
  t.groups = t.most[2] / per_group + cells + 1;
}

int64_t bytes(const Work& w, const Tiling& t, bool gradient) {
  return reinterpret_cast<intptr_t>(TileMemory(w, t, gradient, nullptr).at);
}

// The largest tile of which two fit a multiprocessor, and smaller ones as long as multiprocessors would have none.
void choose_tile(const Work& w, Tiling& t, bool gradient, int per_group) {
  const Device& d = device();
  const int64_t half = d.shared / 2 - 4096, room = half < d.block_shared ? half : d.block_shared;
  for (int side = kMostInputs; side > 0; --side) {
    cut(t, side, per_group);
    const int64_t blocks = w.parts * w.planes * t.count[0] * t.count[1] * t.count[2];
    if (bytes(w, t, gradient) <= room && (blocks >= 2 * d.processors || side <= 4)) return;
  }
}

template <int kV, bool kSoftmax, bool kGradient>
const char* run(CudaCall& c, Tiling& t) {
  Work& w = c.w;
  choose_tile(w, t, kGradient, kV);
  const int64_t shared = bytes(w, t, kGradient), each = int64_t(t.count[0]) * t.count[1] * t.count[2];
  if (shared > device().block_shared) return "the classes of a tile need more shared memory than a block may have";
  const auto kernel = upsampled<kV, kSoftmax, kGradient>;
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  if (error != cudaSuccess) return fault(error);
  Launch l = divide(w, kGradient ? kGradPhase : kSumPhase, 1, 1);
  const int64_t tiles = each * w.planes, most = kGradient ? tiles : blocks_for_sums(w) / w.parts;
  l.tiles = static_cast<uint32_t>(tiles);
  l.blocks = static_cast<uint32_t>(tiles < most ? tiles : (most > 1 ? most : 1));
  error = FL_LAUNCH(kernel, w.parts * l.blocks, kTileThreads, shared, c.stream, w, l, t);
  if (error == cudaSuccess && !kGradient) error = launch_epilogue(w, l, c.stream);
  return fault(error);
}

template <bool kGradient>
const char* start(const Upsampled& u) {
  CudaCall c{};
  c.forward = !kGradient;
  if (const char* bad = begin(u.p, c)) return bad;
  Work& w = c.w;
  Tiling t{};
  t.low = u.low, t.out = u.grad, t.mode = u.mode, t.align_corners = u.align_corners;
  for (int a = 0; a < 3; ++a) {
    t.inputs[a] = static_cast<int>(u.inputs[a]), t.outputs[a] = static_cast<int>(w.space[a]);
    t.mixes[a] = u.mode >= fl::kInterpolateLinear && t.inputs[a] != t.outputs[a];
  }
  for (int i = 0; i < w.spec.n_terms; ++i) t.terms += !w.spec.terms[i].region();
  if (!is_softmax(w)) return run<4, false, kGradient>(c, t);
  const bool wide = t.outputs[2] > 2 * t.inputs[2];  // more outputs of a cell's row than two
  return wide ? run<4, true, kGradient>(c, t) : run<2, true, kGradient>(c, t);
}

}  // namespace

const char* upsampled_sums(const Upsampled& u) { return start<false>(u); }
const char* upsampled_backward(const Upsampled& u) { return start<true>(u); }

}  // namespace fl_cuda

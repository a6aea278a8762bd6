// Which of the fast kernels a call takes, and their launches, for one type of logits.
#pragma once
#include "launch.h"
#include "sigmoid_stream.h"
#include "sigmoid_topk.h"

namespace fl_old {

// Prepares `p` for the fast kernels with blocks of `threads`, if they can do the call.
template <class X>
bool is_hot(Params& p) {
  if (p.masked || p.counting || p.pixel_weight.data || p.y.dtype <= fl::kBF16) return false;
  p.pointwise = -1;
  for (int i = 0; i < p.spec.n_terms; ++i) {
    const fl::Term& t = p.spec.terms[i];
    if (t.squared || t.l1) return false;
    if (t.kind == fl::kTversky) continue;
    if (p.pointwise >= 0 || (t.kind == fl::kBce && t.label_smoothing != 0.0)) return false;
    if (t.kind == fl::kFocal && t.gamma != 2.0) return false;
    p.pointwise = i;
  }
  const int64_t label_bytes = kVector<X> * fl::bytes_of(p.y.dtype);
  const bool one_plane = p.by_sample || p.samples == 1;
  const auto dense = [&](const Array& a) { return !a.data || a.sample == p.pixels; };
  const bool joins = !one_plane && p.channels == 1 && dense(p.x) && dense(p.y) && dense(p.out);
  const int64_t starts = joins ? 1 : p.samples;
  if (!packed(p, p.x, starts, 16) || !packed(p, p.y, starts, label_bytes < 16 ? label_bytes : 16)) return false;
  if (p.out.data && !packed(p, p.out, starts, 16)) return false;
  if (joins) p.pixels *= p.samples, p.planes = 1;  // the batch is one long plane
  return one_plane || joins || p.pixels % kVector<X> == 0;
}

// sigmoid_stream or, for both phases at once, sigmoid_pointwise.
template <class X, class Element>
cudaError_t launch_stream(Call& c, Phase phase, bool cooperative) {
  Params& p = c.p;
  auto kernel = sigmoid_stream<X, Element>;
  int blocks = kStreamBlocks;
  if constexpr (Element::kThere)
    if (phase == kBothPhases) kernel = sigmoid_pointwise<X, Element>, blocks = kPointwiseBlocks;
  divide(p, p.parts, p.planes, kStreamThreads * kVector<X>, blocks * device().processors);
  if (phase == kAllPhases && !cooperative) p.blocks = 1;
  p.phase = phase, p.cooperative = cooperative;
  const int64_t grid = p.parts * p.blocks;
  if (cooperative) return FL_LAUNCH_COOPERATIVE(kernel, grid, kStreamThreads, 0, c.stream, p);
  return FL_LAUNCH(kernel, grid, kStreamThreads, 0, c.stream, p);
}

// Whether all parts of this call can have a block of their own at the same time.
inline bool can_meet(const Params& p, int64_t blocks) {
  return device().cooperative && p.parts <= blocks && forced_path() != kSplit;
}

// One block a multiprocessor, its pixels in registers and in as much shared memory as there is beyond `own` bytes.
// False: this call does not run so.
template <class X>
bool try_resident(Call& c, void (*kernel)(const Params), int held, size_t own, cudaError_t& error) {
  Params& p = c.p;
  const int64_t workers = device().processors - 1;
  const Path path = forced_path();
  if (!can_meet(p, workers) || path == kSmall || p.pixels == 0 || p.planes == 0) return false;
  constexpr int64_t kLimit = int64_t(1) << 31;
  for (const Array* a : {&p.x, &p.y, &p.out})
    if ((p.samples - 1) * a->sample + (p.channels - 1) * a->channel + p.pixels >= kLimit) return false;
  divide(p, p.parts, p.planes, kHotThreads * kVector<X>, workers);
  const int64_t least = (p.tiles + kLeastTiles - 1) / kLeastTiles;
  if (path == kAuto && least < p.blocks) p.blocks = static_cast<uint32_t>(least);
  const int rows = static_cast<int>((device().shared - own) / kCacheRow) / kBatch * kBatch;
  const int64_t each = (p.tiles + p.blocks - 1) / p.blocks;
  if (path == kAuto && each > kOverflow * (held + rows)) return false;
  const auto take = [](int64_t wanted, int most) {
    return static_cast<int>(wanted < most ? (wanted + kBatch - 1) / kBatch * kBatch : most);
  };
  if (path == kShared)
    p.cached = take(each, rows), p.held = take(each - p.cached, held);
  else
    p.held = take(each, held), p.cached = take(each - p.held, rows);
  const size_t shared = own + p.cached * kCacheRow;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  if (error != cudaSuccess) return true;
  p.cooperative = true;
  error = FL_LAUNCH_COOPERATIVE(kernel, p.parts * p.blocks + 1, kHotThreads, shared, c.stream, p);
  return !refused(error);
}

template <class X, class Element>
cudaError_t hot_region(Call& c) {
  Params& p = c.p;
  cudaError_t error = cudaSuccess;
  const bool meet = can_meet(p, kStreamBlocks * device().processors);
  if (p.out.data && forced_path() != kSplit) {
    divide(p, p.parts, p.planes, kStreamThreads * kVector<X>, 1);
    const bool small = p.parts == 1 && (p.tiles <= kSmallTiles || forced_path() == kSmall);
    if (small && forced_path() != kResident && forced_path() != kShared)
      return launch_stream<X, Element>(c, kAllPhases, false);
    if (try_resident<X>(c, sigmoid_resident<X, Element>, kHeld, 0, error)) return error;
  }
  if (meet && !p.out.data) {
    error = launch_stream<X, Element>(c, kSumPhase, true);
    if (!refused(error)) return error;
  }
  error = launch_stream<X, Element>(c, kSumPhase, false);
  if (error == cudaSuccess && p.parts * p.blocks > 1) error = launch_finish(p, c.stream);
  if (error == cudaSuccess && p.out.data) error = launch_stream<X, Element>(c, kGradPhase, false);
  return error;
}

template <class X, class Element>
cudaError_t hot_pointwise(Call& c) {
  Params& p = c.p;
  if (!p.out.data) return hot_region<X, Element>(c);
  if (can_meet(p, kPointwiseBlocks * device().processors)) {
    const cudaError_t error = launch_stream<X, Element>(c, kBothPhases, true);
    if (!refused(error)) return error;
  }
  const cudaError_t error = launch_stream<X, Element>(c, kBothPhases, false);
  return error == cudaSuccess && p.parts * p.blocks > 1 ? launch_finish(p, c.stream) : error;
}

template <class X>
const char* sigmoid_hot_forward(Call& c, bool& done) {
  Params& p = c.p;
  const Params before = p;
  done = is_hot<X>(p);
  if (!done) return p = before, nullptr;
  const bool region = p.spec.any_region();
  if (p.pointwise >= 0 && p.spec.terms[p.pointwise].kind == fl::kTopk) {
    cudaError_t error = cudaSuccess;
    done = p.out.data && try_resident<X>(c, sigmoid_topk_resident<X>, kTopkHeld<X>, kCounterBytes, error);
    if (!done) p = before;
    return fault(error);
  }
  if (p.pointwise < 0) return fault(hot_region<X, NoElement>(c));
  if (p.spec.terms[p.pointwise].kind == fl::kBce)
    return fault(region ? hot_region<X, HotBce>(c) : hot_pointwise<X, HotBce>(c));
  return fault(region ? hot_region<X, HotFocal>(c) : hot_pointwise<X, HotFocal>(c));
}

template <class X>
const char* sigmoid_hot_backward(Call& c, bool& done) {
  Params& p = c.p;
  const Params before = p;
  done = is_hot<X>(p) && !p.spec.any(fl::kTopk);
  if (!done) return p = before, nullptr;
  if (p.pointwise < 0) return fault(launch_stream<X, NoElement>(c, kGradPhase, false));
  if (p.spec.terms[p.pointwise].kind == fl::kBce) return fault(launch_stream<X, HotBce>(c, kGradPhase, false));
  return fault(launch_stream<X, HotFocal>(c, kGradPhase, false));
}

}  // namespace fl_old

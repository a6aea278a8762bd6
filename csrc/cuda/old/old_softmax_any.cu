#include "softmax_any_kernel.h"
#include "softmax_kinds.h"

namespace fl_old {
namespace {

constexpr int kMostBlocks = 3;  // a multiprocessor

template <class T, bool kGeneral>
cudaError_t launch_any(Call& c, Phase phase) {
  Params& p = c.p;
  p.phase = phase;
  divide(p, p.parts, p.planes, tile_lanes(p), kMostBlocks * device().processors);
  const int64_t grid = p.parts * p.blocks;
  if (grid == 0) return cudaSuccess;
  int64_t shared = any_shared(p, kGeneral, phase, true);
  p.cached = shared <= device().shared;
  if (!p.cached) shared = any_shared(p, kGeneral, phase, false);
  const auto kernel = softmax_any<T, kGeneral>;
  if (shared > 32768) {
    const auto most = cudaFuncAttributeMaxDynamicSharedMemorySize;
    const cudaError_t error = cudaFuncSetAttribute(kernel, most, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  return FL_LAUNCH(kernel, grid, kPixelThreads, shared, c.stream, p);
}

// Double logits have the general kernel only.
template <class T>
cudaError_t launch_form(Call& c, Phase phase, bool general) {
  if constexpr (std::is_same<T, float>::value)
    if (!general) return launch_any<T, false>(c, phase);
  return launch_any<T, true>(c, phase);
}

}  // namespace

template <class T>
cudaError_t softmax_any_keys(Call& c, bool general) {
  return launch_form<T>(c, kKeyPhase, general);
}

template <class T>
cudaError_t softmax_select(Call& c) {
  Params& p = c.p;
  const int64_t wanted = (p.samples * p.pixels + kPixelThreads - 1) / kPixelThreads;
  const int64_t limit = kMostBlocks * device().processors, grid = wanted < 1 ? 1 : (wanted < limit ? wanted : limit);
  if (device().cooperative && forced_path() != kSplit) {
    p.cooperative = true;
    const cudaError_t error = FL_LAUNCH_COOPERATIVE(softmax_digits<T>, grid, kPixelThreads, 0, c.stream, p, 0);
    p.cooperative = false;
    if (!refused(error)) return error;
  }
  cudaError_t error = cudaMemsetAsync(p.histogram, 0, fl::kRadixBins * sizeof(*p.histogram), c.stream);
  for (int i = 0; i < p.spec.n_terms; ++i) {
    if (p.spec.terms[i].kind != fl::kTopk) continue;
    for (int level = 0; level < kLevels<T> && error == cudaSuccess; ++level) {
      error = FL_LAUNCH(softmax_digits<T>, grid, kPixelThreads, 0, c.stream, p, level);
      if (error == cudaSuccess) error = FL_LAUNCH(select_digit<T>, 1, kSelectThreads, 0, c.stream, p, i, level);
    }
  }
  return error;
}

template <class T>
cudaError_t softmax_any_forward(Call& c, bool general, bool at_once) {
  const bool both = at_once && c.p.out.data && !general && std::is_same<T, float>::value;
  cudaError_t error = launch_form<T>(c, both ? kBothPhases : kSumPhase, general);
  if (error == cudaSuccess) error = launch_finish(c.p, c.stream);
  if (error == cudaSuccess && c.p.out.data && !both) error = launch_form<T>(c, kGradPhase, general);
  return error;
}

template <class T>
cudaError_t softmax_any_backward(Call& c, bool general) {
  return launch_form<T>(c, kGradPhase, general);
}

template <class T>
cudaError_t softmax_any_values(Call& c) {
  return c.p.parts == 0 ? cudaSuccess : launch_any<T, true>(c, kValuePhase);
}

#define FL_INSTANCES(T)                                           \
  template cudaError_t softmax_any_keys<T>(Call&, bool);          \
  template cudaError_t softmax_select<T>(Call&);                  \
  template cudaError_t softmax_any_forward<T>(Call&, bool, bool); \
  template cudaError_t softmax_any_backward<T>(Call&, bool);      \
  template cudaError_t softmax_any_values<T>(Call&);
FL_INSTANCES(float)
FL_INSTANCES(double)
#undef FL_INSTANCES

}  // namespace fl_old

// Binary and multilabel: the fast kernels where they apply, the general ones elsewhere.
#include "launch.h"
#include "sigmoid_any.h"

namespace fl_old {
namespace {

template <class F>
const char* with_logits(const Params& p, const F& f) {
  switch (p.x.dtype) {
    case fl::kF32:
      return f(float());
    case fl::kF64:
      return f(double());
    case fl::kF16:
      return f(__half());
    default:
      return f(__nv_bfloat16());
  }
}

constexpr int kAnyBlocks = 4;  // a multiprocessor

int64_t divide_any(Params& p) {
  divide(p, p.parts, p.planes, kAnyThreads, kAnyBlocks * device().processors);
  return p.parts * p.blocks;
}

template <class X>
cudaError_t select_topk(Call& c) {
  using T = typename LogitOf<X>::Compute;
  Params& p = c.p;
  cudaError_t error = cudaSuccess;
  bool begun = false;
  for (int i = 0; i < p.spec.n_terms; ++i) {
    if (p.spec.terms[i].kind != fl::kTopk) continue;
    if (!begun) error = cudaMemsetAsync(p.histogram, 0, fl::kRadixBins * sizeof(*p.histogram), c.stream);
    begun = true;
    for (int level = 0; level < kLevels<T> && error == cudaSuccess; ++level) {
      error = FL_LAUNCH(sigmoid_digits<X>, divide_any(p), kAnyThreads, 0, c.stream, p, i, level);
      if (error == cudaSuccess) error = FL_LAUNCH(select_digit<T>, 1, kSelectThreads, 0, c.stream, p, i, level);
    }
  }
  return error;
}

template <class X>
const char* any_forward(Call& c) {
  Params& p = c.p;
  const int64_t grid = divide_any(p);
  cudaError_t error = cudaSuccess;
  if (grid > 0) {
    error = select_topk<X>(c);
    const size_t shared = p.spec.n_terms * kAnyThreads * sizeof(double);
    if (error == cudaSuccess) error = FL_LAUNCH(sigmoid_any_sums<X>, grid, kAnyThreads, shared, c.stream, p);
  }
  if (error == cudaSuccess) error = launch_finish(p, c.stream);
  if (error == cudaSuccess && p.out.data && grid > 0)
    error = FL_LAUNCH(sigmoid_any_gradient<X>, grid, kAnyThreads, 0, c.stream, p);
  return fault(error);
}

}  // namespace

const char* sigmoid_forward(Call& c) {
  return with_logits(c.p, [&](auto logit) -> const char* {
    using X = decltype(logit);
    if constexpr (sizeof(X) <= 4) {
      bool done = false;
      const char* outcome = sigmoid_hot_forward<X>(c, done);
      if (done) return outcome;
    }
    return any_forward<X>(c);
  });
}

const char* sigmoid_backward(Call& c) {
  return with_logits(c.p, [&](auto logit) -> const char* {
    using X = decltype(logit);
    if constexpr (sizeof(X) <= 4) {
      bool done = false;
      const char* outcome = sigmoid_hot_backward<X>(c, done);
      if (done) return outcome;
    }
    const int64_t grid = divide_any(c.p);
    if (grid == 0) return nullptr;
    return fault(FL_LAUNCH(sigmoid_any_gradient<X>, grid, kAnyThreads, 0, c.stream, c.p));
  });
}

const char* sigmoid_elementwise(Call& c) {
  return with_logits(c.p, [&](auto logit) -> const char* {
    using X = decltype(logit);
    const int64_t grid = divide_any(c.p);
    if (grid == 0) return nullptr;
    return fault(FL_LAUNCH(sigmoid_elements<X>, grid, kAnyThreads, 0, c.stream, c.p));
  });
}

}  // namespace fl_old

// The kernels of one instruction set. Compiled once per ISA (FL_ISA names its namespace), chosen in dispatch.cpp.
#include "sigmoid_pass.h"
#include "softmax_pass.h"

FL_NAMESPACE_BEGIN

template <class F>
static void with_pass(CpuProblem& p, const F& f) {
  const bool wide = p.x.dtype == fl::kF64;
  if (p.ints[1] == kSoftmax) {
    if (wide)
      f(SoftmaxPass<double>(p));
    else
      f(SoftmaxPass<float>(p));
  } else {
    merge_samples(p);
    if (wide)
      f(SigmoidPass<double>(p));
    else
      f(SigmoidPass<float>(p));
  }
}

static void forward(CpuProblem& p) {
  with_pass(p, [](auto&& pass) { pass.forward(); });
}
static void backward(CpuProblem& p) {
  with_pass(p, [](auto&& pass) { pass.backward(); });
}
static void elementwise(CpuProblem& p) {
  with_pass(p, [](auto&& pass) { pass.elementwise(); });
}

static CallPath path(CpuProblem& p) {
  CallPath found = kFastCall;
  with_pass(p, [&](auto&& pass) { found = pass.path(); });
  return found;
}

extern const fl_cpu::Kernels kKernels;
const fl_cpu::Kernels kKernels = {forward, backward, elementwise, path};

FL_NAMESPACE_END

// Losses of interpolated logits, for one instruction set: see kernels.cpp.
#include "upsampled.h"

FL_NAMESPACE_BEGIN

template <class F>
static void with_pass(Upsampled& u, const F& f) {
  if (u.x.dtype == fl::kF64)
    f(UpsampledPass<double>(u));
  else
    f(UpsampledPass<float>(u));
}
static void sums(Upsampled& u) {
  with_pass(u, [](auto&& pass) { pass.sums(); });
}
static void backward(Upsampled& u) {
  with_pass(u, [](auto&& pass) { pass.backward(); });
}

extern const fl_cpu::UpsampledKernels kUpsampledKernels;
const fl_cpu::UpsampledKernels kUpsampledKernels = {sums, backward};

FL_NAMESPACE_END

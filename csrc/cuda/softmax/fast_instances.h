// Which instance of the fast kernels takes a call, by its number of classes.
#pragma once
#include "launch.h"

namespace fl_cuda {

template <class X>
cudaError_t softmax_fast_errand(CudaCall& c, Errand errand) {
  if (c.w.channels <= 4) return run_errand<FastLaunch<Fast<X, 4, 4, false>>>(c, errand);
  if (c.w.channels <= 8) return run_errand<FastLaunch<Fast<X, 8, 4, false>>>(c, errand);
  if (c.w.channels <= 16) return run_errand<FastLaunch<Fast<X, 16, 2, false>>>(c, errand);
  return run_errand<FastLaunch<Fast<X, 20, 2, true>>>(c, errand);
}

}  // namespace fl_cuda

#include "launch.h"

namespace fl_cuda {

template <class X>
cudaError_t softmax_fast_errand(CudaCall& c, Errand errand) {
  return run_errand<FastLaunch<X>>(c, errand);
}
template cudaError_t softmax_fast_errand<Half16>(CudaCall&, Errand);

}  // namespace fl_cuda

#include "launch.h"

namespace fl_cuda {

template <class T>
cudaError_t softmax_general_errand(CudaCall& c, Errand errand) {
  return run_errand<GeneralLaunch<T>>(c, errand);
}
template cudaError_t softmax_general_errand<float>(CudaCall&, Errand);
template cudaError_t softmax_general_errand<double>(CudaCall&, Errand);

}  // namespace fl_cuda

#include "fast_instances.h"

namespace fl_cuda {

template cudaError_t softmax_fast_errand<float>(CudaCall&, Errand);

}  // namespace fl_cuda

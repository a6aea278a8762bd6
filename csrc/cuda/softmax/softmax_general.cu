#include "launch.h"

namespace fl_cuda {

template <class T>
cudaError_t softmax_general_errand(Call& c, Errand errand) {
  return run_errand<GeneralLaunch<T>>(c, errand);
}
template cudaError_t softmax_general_errand<float>(Call&, Errand);
template cudaError_t softmax_general_errand<double>(Call&, Errand);

}  // namespace fl_cuda

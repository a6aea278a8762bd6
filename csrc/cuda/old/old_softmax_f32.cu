#include "softmax_launch.h"

namespace fl_old {

template cudaError_t softmax_small_forward<float>(Call&, bool);
template cudaError_t softmax_small_backward<float>(Call&);

}  // namespace fl_old

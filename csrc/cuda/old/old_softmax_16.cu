#include "softmax_launch.h"

namespace fl_old {

template cudaError_t softmax_small_forward<Half16>(Call&, bool);
template cudaError_t softmax_small_backward<Half16>(Call&);

}  // namespace fl_old

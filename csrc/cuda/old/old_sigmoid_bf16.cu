#include "sigmoid_launch.h"

namespace fl_old {
template const char* sigmoid_hot_forward<__nv_bfloat16>(Call&, bool&);
template const char* sigmoid_hot_backward<__nv_bfloat16>(Call&, bool&);
}  // namespace fl_old

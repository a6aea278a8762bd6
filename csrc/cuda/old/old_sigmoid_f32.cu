#include "sigmoid_launch.h"

namespace fl_old {
template const char* sigmoid_hot_forward<float>(Call&, bool&);
template const char* sigmoid_hot_backward<float>(Call&, bool&);
}  // namespace fl_old

#include "sigmoid_launch.h"

namespace fl_old {
template const char* sigmoid_hot_forward<__half>(Call&, bool&);
template const char* sigmoid_hot_backward<__half>(Call&, bool&);
}  // namespace fl_old

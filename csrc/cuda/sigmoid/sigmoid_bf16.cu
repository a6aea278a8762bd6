#include "instances.h"

namespace fl_cuda {
template Instance fast_instance<__nv_bfloat16>(FastTerm, FastInput);
}

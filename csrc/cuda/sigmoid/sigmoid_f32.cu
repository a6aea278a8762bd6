#include "instances.h"

namespace fl_cuda {
template Instance fast_instance<float>(FastTerm, FastInput);
}

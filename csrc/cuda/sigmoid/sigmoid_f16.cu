#include "instances.h"

namespace fl_cuda {
template Instance fast_instance<__half>(FastTerm, FastInput);
}

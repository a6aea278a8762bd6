#include "launch.h"
namespace fl_cuda {
const char* softmax_forward(Call&) { return "multiclass is not written yet"; }
const char* softmax_backward(Call&) { return "multiclass is not written yet"; }
const char* softmax_elementwise(Call&) { return "multiclass is not written yet"; }
}  // namespace fl_cuda

// The kernels of multiclass calls, by the source file that compiles them.
#pragma once
#include "launch.h"

namespace fl_old {

struct Half16;

// Few classes. at_once: no sum enters the gradient.
template <class X>
cudaError_t softmax_small_forward(Call&, bool at_once);
template <class X>
cudaError_t softmax_small_backward(Call&);

// Any call. T: float, or double for double logits.
template <class T>
cudaError_t softmax_any_forward(Call&, bool general, bool at_once);
template <class T>
cudaError_t softmax_any_backward(Call&, bool general);
template <class T>
cudaError_t softmax_any_values(Call&);
template <class T>
cudaError_t softmax_any_keys(Call&, bool general);
// From the keys: threshold, tie weight and count of every top-k term into p.aux.
template <class T>
cudaError_t softmax_select(Call&);

}  // namespace fl_old

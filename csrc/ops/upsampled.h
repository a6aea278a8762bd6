// What the ops for losses of interpolated logits ask of their inputs, on every backend.
#pragma once
#include "problem.h"

namespace fl_ops {

// `inputs`: the shape of the low-resolution logits; `call` is of what they are interpolated to.
template <class Call, class Upsampled>
void take_inputs(const Call& call, const Shape& inputs, int64_t mode, bool align_corners, Upsampled& u) {
  const auto& p = call.p;
  require(inputs.samples == p.samples && inputs.channels == p.channels && inputs.axes == call.shape.axes,
          "the logits have another number of samples, channels or axes than what they are interpolated to");
  for (int i = 0; i < 3; ++i) {
    require(inputs.space[i] > 0 && call.shape.space[i] > 0, "an axis has no pixel");
    require(inputs.space[i] < (1 << 30) && call.shape.space[i] < (1 << 30), "an axis is too long");
    u.inputs[i] = inputs.space[i];
  }
  require(!call.spec.any(fl::kTopk), "top-k is not a sum");
  require(mode >= 0, "a mode is negative");
  u.mode = static_cast<int>(mode), u.align_corners = align_corners;
}

}  // namespace fl_ops

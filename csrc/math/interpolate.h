// Where an output of an interpolation lies among the inputs of its axis: the formulas of
// torch.nn.functional.interpolate. fastloss/_interpolation.py mirrors them.
#pragma once
#include "hd.h"

FL_NAMESPACE_BEGIN

enum Interpolation {
  kInterpolateNearest,
  kInterpolateNearestExact,
  kInterpolateLinear
};  // the modes in order; all from kInterpolateLinear on are linear per axis

// value = (1 - weight) * in[first] + weight * in[second]
struct Interpolated {
  int64_t first, second;
  double weight;
};

FL_HD Interpolated interpolated(int64_t o, int64_t inputs, int64_t outputs, int mode, bool align_corners) {
  const int64_t last = inputs - 1;
  if (mode < kInterpolateLinear) {  // a step: in the precision in which torch finds it
    const float scale = static_cast<float>(inputs) / static_cast<float>(outputs);
    const float at = (static_cast<float>(o) + (mode == kInterpolateNearest ? 0.0f : 0.5f)) * scale;
    const int64_t first = static_cast<int64_t>(at);
    return {first < last ? first : last, first < last ? first : last, 0.0};
  }
  double at = 0.0;
  if (align_corners)
    at = outputs > 1 ? static_cast<double>(o) * (static_cast<double>(last) / static_cast<double>(outputs - 1)) : 0.0;
  else
    at = (static_cast<double>(o) + 0.5) * (static_cast<double>(inputs) / static_cast<double>(outputs)) - 0.5;
  at = at < 0.0 ? 0.0 : at;
  const int64_t whole = static_cast<int64_t>(at), first = whole < last ? whole : last;
  const double weight = at - static_cast<double>(first);
  return {first, first < last ? first + 1 : last, weight < 1.0 ? weight : 1.0};
}

FL_NAMESPACE_END

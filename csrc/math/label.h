// Targets given as floats: blurring, resizing and averaging leave them a rounding error outside [0, 1].
#pragma once
#include "hd.h"

FL_NAMESPACE_BEGIN

// How far outside a label may lie; eps: the distance from 1 to the next number of the target's own type.
FL_HD constexpr double label_tolerance(double eps) { return eps > 1e-5 ? eps : 1e-5; }

// A label within the tolerance of [0, 1] lies in it; anything else, NaN too, stays as it is.
template <class T>
FL_HD T clamp_label(T y, T tolerance) {
  const T low = y < T(0) && y >= -tolerance ? T(0) : y;
  return low > T(1) && low <= T(1) + tolerance ? T(1) : low;
}

FL_NAMESPACE_END

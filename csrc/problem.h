// One call as the kernels of every backend take it: raw pointers, sizes, strides. No torch, and nothing that depends on
// an instruction set or a device.
#pragma once
#include "math/spec.h"

namespace fl {

enum Dtype { kF32, kF64, kF16, kBF16, kBool, kU8, kI8, kI16, kI32, kI64, kU16, kU32, kU64, kNoDtype };

// Whether the kernels written for what most calls are take a call, or why not. fastloss/_ops.py has the sentences.
enum CallPath {
  kFastCall,
  kWideLogits,
  kMaskedElements,
  kPixelWeights,
  kSquaredSums,
  kSeveralTerms,
  kOtherTerm,
  kDenseTarget,
  kManyClasses,
  kSpecialWeight,
  kScatteredPlanes,
  kStatistics,
};

// Strides in elements. `space` always has three axes; missing ones have size 1.
struct Array {
  void* data = nullptr;
  int dtype = kNoDtype;
  int64_t sample = 0, channel = 0, space[3] = {0, 0, 0};
};

struct Scalar {  // a number where the tensors are; null: not there
  const void* data = nullptr;
  bool wide = false;  // double, else float
};

struct Arguments {
  Array x, y, mask, pixel_weight;
  Array out;  // the gradient, or the values of `elementwise`; null if not wanted
  int64_t samples = 0, channels = 0, space[3] = {1, 1, 1};
  bool ids = false;               // y holds class indices, not one value per channel
  const int64_t* ints = nullptr;  // the encoded spec: math/spec.h
  const double* floats = nullptr;
  int64_t n_ints = 0, n_floats = 0;
  int64_t groups = 1;         // rows of sums: 1, or one per sample
  double threshold = 0.5;     // of the counts
  Scalar weights[kMaxTerms];  // what the weight of each term is multiplied by, if anything
  Scalar grad_output;         // multiplies the gradient

  // Results; null where not wanted. Layouts: math/sums.h.
  double* values = nullptr;
  double* sums = nullptr;
  double* grad_sums = nullptr;  // d loss / d sums; an input of backward
  double* aux = nullptr;        // likewise
};

}  // namespace fl

FL_NAMESPACE_BEGIN

FL_HD bool is_float(int dtype) { return dtype <= kBF16; }

FL_HD int bytes_of(int dtype) {
  switch (dtype) {
    case kF64:
    case kI64:
    case kU64:
      return 8;
    case kF32:
    case kI32:
    case kU32:
      return 4;
    case kBool:
    case kU8:
    case kI8:
      return 1;
    default:
      return 2;
  }
}

FL_NAMESPACE_END

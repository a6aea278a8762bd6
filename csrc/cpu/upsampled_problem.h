// What the CPU kernels take for losses of interpolated logits.
#pragma once
#include "problem.h"

namespace fl_cpu {

// Logits that an interpolation makes of `x`, beside a problem of the interpolated size whose own x is not read.
struct Upsampled {
  CpuProblem& p;
  fl::Array x;
  int64_t inputs[3];  // the space of x
  int mode;           // math/interpolate.h
  bool align_corners;
  int64_t band_pixels;   // made at a time, of every class
  void* grad = nullptr;  // [samples, channels, inputs], float (double: for a float64 x), to which backward adds
};

struct UpsampledKernels {
  void (*sums)(Upsampled&);      // sums, aux, counts if wanted; no top-k
  void (*backward)(Upsampled&);  // grad from grad_sums and aux
};

const UpsampledKernels& upsampled_kernels();  // of the build that `kernels` gives

}  // namespace fl_cpu

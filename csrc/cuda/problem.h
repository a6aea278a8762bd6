// One call as the CUDA backend takes it: device pointers, sizes, strides, a stream. No torch and no CUDA header, so
// that the ops see it too.
#pragma once
#include "../problem.h"

namespace fl_cuda {

using fl::Array;
using fl::Scalar;

struct CudaProblem : fl::Arguments {
  double grad_output_value = 1.0;  // instead of a grad_output that is not there

  void* loss = nullptr;         // float, double for double logits
  double* counts = nullptr;     // [N, C, 4]
  double* scale = nullptr;      // what the gradient was multiplied by; an input of rescale_grad
  double* predicted = nullptr;  // rescale_grad leaves grad_output here

  void* workspace = nullptr;
  void* stream = nullptr;
};

// Each enqueues its kernels on the stream of the current device and waits for nothing. They return null, or a sentence
// that says what the driver refused.
const char* forward(const CudaProblem&);   // sums, aux; then loss, values, grad_sums, out, scale and counts if wanted
const char* backward(const CudaProblem&);  // out from grad_sums and aux
const char* rescale_grad(const CudaProblem&);  // the same, unless `scale` is the gradient of the loss already
const char* elementwise(const CudaProblem&);   // out: the values of a single pointwise term

// Logits that an interpolation makes of `low`, tile by tile, beside a problem of the interpolated size whose own x is
// not read: float32 or half types, no top-k, no statistics.
constexpr int64_t kTileClasses = 320, kTileRatio = 32;  // at most; the ratio of an axis
struct Upsampled {
  CudaProblem& p;
  Array low, grad;  // grad: as `low`; written by backward
  int64_t inputs[3];
  int mode;  // math/interpolate.h
  bool align_corners;
};
const char* upsampled_sums(const Upsampled&);      // sums, aux
const char* upsampled_backward(const Upsampled&);  // grad from grad_sums and aux

// Which kernels forward takes; launches nothing.
fl::CallPath path(const CudaProblem&);

// Bytes that `workspace` must hold for the call, 256-byte aligned; its contents do not matter.
int64_t workspace_bytes(const CudaProblem&);

// Null if these kernels can run on the current device, else why not.
const char* reason();

}  // namespace fl_cuda

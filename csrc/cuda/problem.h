// One call as the CUDA backend takes it: device pointers, sizes, strides, a stream. No torch and no CUDA header, so
// that the ops see it too.
#pragma once
#include "../problem.h"

namespace fl_cuda {

using fl::Array;
using fl::Scalar;

struct Problem : fl::Arguments {
  double grad_output_value = 1.0;  // instead of a grad_output that is not there

  void* loss = nullptr;         // float, double for double logits
  double* counts = nullptr;     // [N, C, 4]
  double* scale = nullptr;      // what the gradient was multiplied by; an input of settle
  double* predicted = nullptr;  // settle leaves grad_output here

  void* workspace = nullptr;
  void* stream = nullptr;
};

// Each enqueues its kernels on the stream of the current device and waits for nothing. They return null, or a sentence
// that says what the driver refused.
const char* forward(const Problem&);      // sums, aux; then loss, values, dsums, out, scale and counts if wanted
const char* backward(const Problem&);     // out from dsums and aux
const char* settle(const Problem&);       // the same, unless `scale` is the upstream gradient already
const char* elementwise(const Problem&);  // out: the values of a single pointwise term

// Bytes that `workspace` must hold for the call, 256-byte aligned; its contents do not matter.
int64_t workspace_bytes(const Problem&);

// Null if these kernels can run on the current device, else why not.
const char* reason();

}  // namespace fl_cuda

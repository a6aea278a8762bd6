// One call as the CUDA backend takes it: device pointers, sizes, strides, a stream. No torch and no CUDA header, so
// that the ops see it too.
#pragma once
#include <cstdint>

#include "../cpu/problem.h"  // Array and Dtype

namespace fl_cuda {

using fl_cpu::Array;

struct Scalar {  // a number on the device; null: not there
  const void* data = nullptr;
  bool wide = false;  // double, else float
};

constexpr int kMaxWeights = 16;

struct Problem {
  Array x, y, mask, pixel_weight;
  Array out;  // the gradient, or the values of `elementwise`; null if not wanted
  int64_t samples = 0, channels = 0, space[3] = {1, 1, 1};
  bool ids = false;  // y holds class ids, not one value per channel
  const int64_t* ints = nullptr;
  const double* floats = nullptr;
  int64_t n_ints = 0, n_floats = 0;
  Scalar weights[kMaxWeights];  // what the weight of each term is multiplied by, if anything
  int64_t groups = 1;           // rows of sums: 1, or one per sample
  Scalar upstream;              // multiplies the gradient; without it `upstream_value` does
  double upstream_value = 1.0;
  double threshold = 0.5;  // of the counts

  // Results; null where not wanted. Layouts: math/sums.h. All but `loss` hold doubles.
  void* loss = nullptr;  // float, double for double logits
  double* values = nullptr;
  double* sums = nullptr;
  double* dsums = nullptr;      // an input of backward
  double* aux = nullptr;        // likewise
  double* counts = nullptr;     // [N, C, 4]
  double* scale = nullptr;      // what the gradient was multiplied by; an input of settle
  double* predicted = nullptr;  // settle leaves the upstream gradient here

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

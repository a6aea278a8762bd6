// What the host side shares: the division of work for a call, and the launches of each family of kernels. They return
// null, or why the driver refused.
#pragma once
#include "params.h"

namespace fl_cuda {

struct Device {
  int processors = 0, shared = 0;  // multiprocessors; bytes of shared memory that a block may ask for
  bool cooperative = false;        // can launch grids with a barrier
};
const Device& device();  // the current one, asked for once

// How forward and backward of a region loss run; FASTLOSS_CUDA_PATH forces one where it can.
enum Path { kAuto, kResident, kSplit, kSmall };
Path forced_path();

struct Call {
  Params p;
  bool forward;  // else p.dsums and p.aux are given
  cudaStream_t stream;
};

const char* sigmoid_forward(Call&);
const char* sigmoid_backward(Call&);
const char* sigmoid_elementwise(Call&);
const char* softmax_forward(Call&);
const char* softmax_backward(Call&);
const char* softmax_elementwise(Call&);

// Divides `planes` planes a part of `pixels` pixels into tiles of `tile`, and at most `limit` blocks among the parts.
void divide(Params& p, int64_t parts, int64_t planes, int64_t tile, int64_t limit);

// The sums after their records: reduced by many blocks where there are many, then finished by one.
cudaError_t launch_finish(const Params& p, cudaStream_t stream);
// Threshold, tie weight and count of every top-k term into p.aux, from the keys that the histogram kernel counts.
const char* fault(cudaError_t);

}  // namespace fl_cuda

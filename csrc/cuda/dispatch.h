// What the host side shares: from a problem to Work, the division of work, the end of the sums where it needs launches
// of its own. Functions return null, or why the driver refused.
#pragma once
#include "work.h"

namespace fl_cuda {

struct Device {
  int processors = 0;        // multiprocessors
  int block_shared = 0;      // bytes of shared memory that a block may have
  int shared = 0;            // those of a multiprocessor
  bool cooperative = false;  // can launch grids with a barrier
};
const Device& device();  // the current one, asked for once

// FASTLOSS_CUDA_PATH: how forward and backward of a call whose gradient waits for its sums run. Resident: in one
// launch, with a barrier of the grid between them; split: in a launch each.
enum Path { kAuto, kResident, kSplit };
Path forced_path();

struct CudaCall {
  Work w;
  bool forward;    // else w.grad_sums and w.aux are given
  bool rescaling;  // backward that may find nothing to do
  cudaStream_t stream;
};

// From a problem to a call, the workspace shared out. Launches what the class vectors need.
const char* begin(const CudaProblem& q, CudaCall& c);

const char* sigmoid_forward(CudaCall&);
const char* sigmoid_backward(CudaCall&);
const char* sigmoid_elementwise(CudaCall&);
fl::CallPath sigmoid_path(const Work&);
const char* softmax_forward(CudaCall&);
const char* softmax_backward(CudaCall&);
const char* softmax_elementwise(CudaCall&);
fl::CallPath softmax_path(const Work&);

// Blocks that a launch may have: what they leave must fit the workspace.
int64_t blocks_for_sums(const Work& w);

// The launch of all parts' planes in tiles of `tile` pixels, by at most `limit` blocks in all.
Launch divide(const Work& w, Phase phase, int64_t tile, int64_t limit);

// Whether the blocks of this launch can meet: all of them run at the same time, and each can finish the sums.
inline bool can_meet(const Work& w, const Launch& l, int64_t resident_blocks) {
  const int64_t grid = w.parts * l.blocks;
  return finishes_in_block(w) && (grid == 1 || (device().cooperative && grid <= resident_blocks));
}

// Clears the histograms of so many terms of top-k where blocks cannot meet after it.
cudaError_t empty_histograms(const Work& w, int terms, cudaStream_t stream);

// The end of the sums where the blocks did not meet: one launch of one block, or two where there are many sums.
cudaError_t launch_epilogue(const Work& w, const Launch& l, cudaStream_t stream);

// Null for success, else a sentence.
const char* fault(cudaError_t);
// Whether a cooperative launch was refused for its size (a share of the device, other work): a launch each will do.
inline bool refused(cudaError_t e) {
  if (e != cudaErrorCooperativeLaunchTooLarge) return false;
  cudaGetLastError();
  return true;
}

// Whether the planes of an array are contiguous, and those of so many samples begin at multiples of `bytes`.
bool packed(const Work& w, const Array& a, int64_t samples, int64_t bytes);

// Whether top-k on classes keeps its keys in the first plane of each sample's gradient until that is written.
inline bool keys_in_gradient(const Work& w) {
  return w.out.data && w.x.dtype <= fl::kF64 && packed(w, w.out, w.samples, fl::bytes_of(w.x.dtype));
}

}  // namespace fl_cuda

// What the host side shares: the division of work for a call, and the launches of each family of kernels. They return
// null, or why the driver refused.
#pragma once
#include "params.h"

namespace fl_old {

struct Device {
  int processors = 0;        // multiprocessors
  int block_shared = 0;      // bytes of shared memory that a block may have
  int shared = 0;            // those left to a kernel that finishes sums in memory of its own
  bool cooperative = false;  // can launch grids with a barrier
};
const Device& device();  // the current one, asked for once

// How forward and backward of a region loss run; FASTLOSS_CUDA_PATH forces one where it can. kShared: resident, in
// registers only what shared memory does not hold.
enum Path { kAuto, kResident, kShared, kSplit, kSmall };
Path forced_path();

// The choice of path by size, in one place. Estimates: none of these has met a card yet.
constexpr int64_t kSmallTiles = 8;  // up to so many, one block is quicker than a barrier of many
constexpr int kLeastTiles = 4;      // a resident block has at least so many, so that small grids meet sooner
constexpr double kOverflow = 1.25;  // of what fits on the chip is still resident: the rest is read again from L2

struct Call {
  Params p;
  bool forward;  // else p.dsums and p.aux are given
  cudaStream_t stream;
};

const char* softmax_forward(Call&);
const char* softmax_backward(Call&);
const char* softmax_elementwise(Call&);

// Divides `planes` planes a part of `pixels` pixels into tiles of `tile`, and at most `limit` blocks among the parts.
void divide(Params& p, int64_t parts, int64_t planes, int64_t tile, int64_t limit);

// The sums after their records: reduced by many blocks where there are many, then finished by one.
cudaError_t launch_finish(const Params& p, cudaStream_t stream);
// Null for success, else a sentence.
const char* fault(cudaError_t);
// Whether a cooperative launch was refused for its size (a share of the device, other work): two phases will do.
inline bool refused(cudaError_t e) {
  if (e != cudaErrorCooperativeLaunchTooLarge) return false;
  cudaGetLastError();
  return true;
}

// Whether the planes of an array are contiguous, and those of so many samples begin at multiples of `bytes`.
bool packed(const Params& p, const Array& a, int64_t samples, int64_t bytes);

}  // namespace fl_old

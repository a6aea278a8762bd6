// Runs a kernel on the CPU: every CUDA thread is a fiber, all of them on the OS thread of the caller. A fiber runs
// until it must wait for others; which one goes on is drawn at random, so that a result that hangs on the order shows.
#pragma once
#include <cstddef>
#include <cstdint>

#include "types.h"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace fl_emulator {

// What a fiber waits in: the same one, at the same line, for all that it waits for.
enum Wait : int {
  kRuns,
  kSync,
  kSyncOr,
  kSyncAnd,
  kSyncCount,
  kGrid,
  kShuffle,
  kBallot,
  kMatch,
  kAdd,
  kMin,
  kMax,
  kOr,
  kAnd,
  kSyncWarp,
  kDone
};

// Arrives, waits for the block (or the grid), returns the combined predicate.
int sync_block(Wait wait, int predicate, const char* file, int line);
void sync_grid(const char* file, int line);

// Arrives with `value` and waits for the lanes of `mask`; kShuffle returns what lane `source` brought, the others a
// combination of what all of them brought.
uint64_t sync_warp(Wait wait, uint32_t mask, uint64_t value, int source, const char* file, int line);

int lane();
unsigned char* dynamic_shared();

struct Launch {
  dim3 grid, block;
  size_t shared_bytes;
  bool cooperative;
  void (*body)(void* context);  // the kernel with its arguments
  void* context;
};
// False if the kernel cannot go on; the reason is then on stderr.
bool run(const Launch& launch);

}  // namespace fl_emulator

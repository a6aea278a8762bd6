// Stands in for nvcc and the CUDA runtime, so that the kernels of csrc/cuda run on a CPU, in tests. Not modelled: the
// ordering of memory between threads (a missing fence), the time anything takes, streams.
//
// Environment: FASTLOSS_EMULATOR_SEED (order of the threads), FASTLOSS_EMULATOR_SMS (multiprocessors, 3),
// FASTLOSS_EMULATOR_COOPERATIVE (0: there are no cooperative launches, 2: there are, but each is refused).
#pragma once
#include "intrinsics.h"
#include "runtime.h"
#include "types.h"

#define FL_GRID_CONSTANT
#define FL_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  fl_emulator::launch(false, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#define FL_LAUNCH_COOPERATIVE(kernel, grid, block, shared_bytes, stream, ...) \
  fl_emulator::launch(true, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#define FL_DYNAMIC_SHARED(name) unsigned char* const name = fl_emulator::dynamic_shared()

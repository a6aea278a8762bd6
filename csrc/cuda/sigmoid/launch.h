// The instances of the kernels, by what they do, and what the host must know of each.
#pragma once
#include "walk.h"

namespace fl_cuda {

constexpr int kOwnShared = 10 << 10;  // bytes, at least, that a kernel has of its own: Epilogue

struct Instance {
  void (*kernel)(const Work, const Launch, const Walk);
  int threads, blocks;  // of a block; of a multiprocessor
  int packs, row;  // of a thread in a turn; bytes of shared memory that a pack of all threads takes, 0: kept by none
  int shared = 0;  // bytes beside those of the rows, for a block
};

enum FastTerm { kNoTerm, kBceTerm, kFocalTerm, kTopkTerm };
enum FastInput { kHardInput, kMaskedInput, kSoftInput };

template <class X>
Instance fast_instance(FastTerm, FastInput);
template <class X>
Instance general_instance(int slots, int terms, bool selecting);

}  // namespace fl_cuda

// What only the CPU kernels take and give; see csrc/problem.h.
#pragma once
#include <atomic>

#include "../problem.h"

namespace fl_cpu {

using ParallelBody = void (*)(void* context, int64_t begin, int64_t end);
using ParallelFor = void (*)(int64_t begin, int64_t end, void* context, ParallelBody body);

// body(context, from, to) over [begin, end) in parts, on the calling thread and up to `threads` - 1 others
// (threads.cpp).
void run_parallel(int threads, int64_t begin, int64_t end, void* context, ParallelBody body);

struct Problem : fl::Arguments {
  const double* effective = nullptr;  // the weight of each term
  double upstream = 1.0;              // multiplies the gradient
  ParallelFor parallel = nullptr;

  double* loss = nullptr;
  int64_t* counts = nullptr;

  std::atomic<bool> bad_target{false};  // some valid target is out of range; an example of it beside
  double bad_value = 0.0;
};

struct Kernels {
  void (*forward)(Problem&);      // sums, aux; then loss, values, dsums, out and counts if wanted
  void (*backward)(Problem&);     // out from dsums and aux
  void (*elementwise)(Problem&);  // out: the values of a single pointwise term
};

// The best build of the kernels that this processor runs, or the one that FASTLOSS_CPU=baseline|avx2|avx512 names; and
// its name, null if the one named does not exist or run here (the module then does not load).
const Kernels& kernels();
const char* capability();

}  // namespace fl_cpu

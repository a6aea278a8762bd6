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

struct CpuProblem : fl::Arguments {
  const double* effective = nullptr;  // the weight of each term
  double grad_output_value = 1.0;     // multiplies the gradient
  ParallelFor parallel = nullptr;

  double* loss = nullptr;
  int64_t* counts = nullptr;

  std::atomic<bool> bad_target{false};  // some valid target is out of range; an example of it beside
  double bad_value = 0.0;
};

struct Kernels {
  void (*forward)(CpuProblem&);       // sums, aux; then loss, values, grad_sums, out and counts if wanted
  void (*backward)(CpuProblem&);      // out from grad_sums and aux
  void (*elementwise)(CpuProblem&);   // out: the values of a single pointwise term
  fl::CallPath (*path)(CpuProblem&);  // of the other two
};

// The best build of the kernels that this processor runs, or the one that FASTLOSS_CPU=baseline|avx2|avx512 names; and
// its name, null if the one named does not exist or run here (the module then does not load).
const Kernels& kernels();
const char* capability();

}  // namespace fl_cpu

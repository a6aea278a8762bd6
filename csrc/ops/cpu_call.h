// A call of the `cpu` backend's kernels: memory, threads, and the faults of targets.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "../cpu/problem.h"
#include "ops.h"

namespace fl_ops {

inline void parallel(int64_t begin, int64_t end, void* context, fl_cpu::ParallelBody body) {
  fl_cpu::run_parallel(static_cast<int>(torch::stable::get_num_threads()), begin, end, context, body);
}

struct CpuCall : OpCall<fl_cpu::CpuProblem> {
  using OpCall::OpCall;

  Tensor doubles(std::vector<int64_t> sizes) const {
    Tensor t = torch::stable::new_empty(x, sizes, ScalarType::Double);
    std::fill_n(static_cast<double*>(t.mutable_data_ptr()), t.numel(), 0.0);  // memset must not see an empty one's null
    return t;
  }

  void check_targets() const {
    if (!p.bad_target) return;
    double v = p.bad_value;
    char given[32];
    std::snprintf(given, sizeof(given), std::trunc(v) == v ? "%.0f" : "%.9g", v);
    if (p.ids)
      throw std::invalid_argument("y must hold class ids from 0 to " + std::to_string(p.channels - 1) + ", got " +
                                  given + ".");
    throw std::invalid_argument(std::string("y must lie between 0 and 1, got ") + given + ".");
  }
};

}  // namespace fl_ops

// Picks the build of the kernels for this processor, once.
#include <cstdlib>
#include <cstring>

#include "problem.h"

namespace fl {
namespace fl_baseline {
extern const fl_cpu::Kernels kKernels;
}
#ifndef FL_BASELINE_ONLY
namespace fl_avx2 {
extern const fl_cpu::Kernels kKernels;
}
namespace fl_avx512 {
extern const fl_cpu::Kernels kKernels;
}
#endif
}  // namespace fl

namespace fl_cpu {
namespace {

struct Build {
  const char* name;
  const Kernels* kernels;
};

Build pick() {
  const char* wish = std::getenv("FASTLOSS_CPU");
#ifndef FL_BASELINE_ONLY
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  const bool any = wish == nullptr || *wish == 0;
  if (avx512 && (any || !std::strcmp(wish, "avx512"))) return {"avx512", &fl::fl_avx512::kKernels};
  if (avx2 && (any || std::strcmp(wish, "baseline"))) return {"avx2", &fl::fl_avx2::kKernels};
#else
  (void)wish;
#endif
  return {"baseline", &fl::fl_baseline::kKernels};
}

const Build& build() {
  static const Build chosen = pick();
  return chosen;
}

}  // namespace

const Kernels& kernels() { return *build().kernels; }
const char* capability() { return build().name; }

}  // namespace fl_cpu

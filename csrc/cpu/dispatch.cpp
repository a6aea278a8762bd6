// Picks the build of the kernels for this processor, once.
#include <cstdlib>
#include <cstring>

#include "upsampled_problem.h"

namespace fl {
namespace fl_baseline {
extern const fl_cpu::Kernels kKernels;
extern const fl_cpu::UpsampledKernels kUpsampledKernels;
}  // namespace fl_baseline
#ifndef FL_BASELINE_ONLY
namespace fl_avx2 {
extern const fl_cpu::Kernels kKernels;
extern const fl_cpu::UpsampledKernels kUpsampledKernels;
}  // namespace fl_avx2
namespace fl_avx512 {
extern const fl_cpu::Kernels kKernels;
extern const fl_cpu::UpsampledKernels kUpsampledKernels;
}  // namespace fl_avx512
#endif
}  // namespace fl

namespace fl_cpu {
namespace {

struct Build {
  const char* name;
  const Kernels* kernels;
  const UpsampledKernels* upsampled;
};

// Every build, the best first.
const Build kBuilds[] = {
#ifndef FL_BASELINE_ONLY
    {"avx512", &fl::fl_avx512::kKernels, &fl::fl_avx512::kUpsampledKernels},
    {"avx2", &fl::fl_avx2::kKernels, &fl::fl_avx2::kUpsampledKernels},
#endif
    {"baseline", &fl::fl_baseline::kKernels, &fl::fl_baseline::kUpsampledKernels},
};

bool runs_here(const Build& build) {
  bool runs = true;
#ifndef FL_BASELINE_ONLY
  __builtin_cpu_init();
  if (std::strcmp(build.name, "baseline"))
    runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (!std::strcmp(build.name, "avx512"))
    runs = runs && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2");
#else
  (void)build;
#endif
  return runs;
}

const Build* pick() {
  const char* wish = std::getenv("FASTLOSS_CPU");
  for (const Build& build : kBuilds)
    if (runs_here(build) && (!wish || !*wish || !std::strcmp(wish, build.name))) return &build;
  return nullptr;
}

const Build* build() {
  static const Build* chosen = pick();
  return chosen;
}

}  // namespace

const Kernels& kernels() { return *build()->kernels; }
const UpsampledKernels& upsampled_kernels() { return *build()->upsampled; }
const char* capability() { return build() ? build()->name : nullptr; }

}  // namespace fl_cpu

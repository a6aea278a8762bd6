// The ops of the `cpu` backend. Schemas: fastloss/_registry.py.
#include "cpu_call.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace fl_ops {
namespace {

// A fresh large output costs a page fault per 4 KiB at its first touch; huge pages make it one per 2 MiB.
Tensor fresh(Tensor t) {
#ifdef __linux__
  constexpr uintptr_t kPage = 4096;
  constexpr size_t kLarge = 4u << 20;
  const size_t bytes = static_cast<size_t>(t.numel()) * t.element_size();
  if (bytes >= kLarge) {
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(t.mutable_data_ptr()) + kPage - 1) / kPage * kPage;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(t.mutable_data_ptr()) + bytes) / kPage * kPage;
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  }
#endif
  return t;
}

struct Cpu : CpuCall {
  static constexpr auto kForward = &fl_cpu::Kernels::forward, kBackward = &fl_cpu::Kernels::backward,
                        kElementwise = &fl_cpu::Kernels::elementwise;
  using CpuCall::CpuCall;

  Tensor large(Tensor t) const { return fresh(t); }

  void run(void (*fl_cpu::Kernels::*entry)(fl_cpu::CpuProblem&)) {
    p.parallel = parallel;
    if (p.grad_output.data) p.grad_output_value = value_of(p.grad_output);
    (fl_cpu::kernels().*entry)(p);
    if (entry != kBackward) check_targets();
  }

  fl::CallPath path(bool) {
    p.parallel = parallel;
    return fl_cpu::kernels().path(p);
  }

  void forward(void* value, double* counts, double* scale, double grad_output, const MaybeTensor&) {
    double effective[fl::kMaxTerms], total = 0.0;
    for (int i = 0; i < spec.n_terms; ++i)
      effective[i] = spec.terms[i].weight * (p.weights[i].data ? value_of(p.weights[i]) : 1.0);
    std::vector<double> sums(layout.sums(), 0.0);
    std::vector<int64_t> whole(counts ? p.samples * p.channels * 4 : 0, 0);
    p.effective = effective, p.grad_output_value = *scale = grad_output;
    p.loss = &total, p.sums = sums.data(), p.counts = counts ? whole.data() : nullptr;
    run(kForward);
    for (size_t i = 0; i < whole.size(); ++i) counts[i] = static_cast<double>(whole[i]);
    if (wide())
      *static_cast<double*>(value) = total;
    else
      *static_cast<float*>(value) = static_cast<float>(total);
  }

  static double value_of(const fl::Scalar& s) {
    return s.wide ? *static_cast<const double*>(s.data) : static_cast<double>(*static_cast<const float*>(s.data));
  }
};

}  // namespace
}  // namespace fl_ops

STABLE_TORCH_LIBRARY_IMPL(fastloss_cpu, CPU, m) { fl_ops::implement<fl_ops::Cpu>(m); }

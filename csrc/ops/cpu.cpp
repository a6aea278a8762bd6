// The ops of the `cpu` backend. Schemas: fastloss/_registry.py.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "../cpu/problem.h"
#include "problem.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace fl_ops {
namespace {

void parallel(int64_t begin, int64_t end, void* context, fl_cpu::ParallelBody body) {
  torch::stable::parallel_for(begin, end, 1, [=](int64_t from, int64_t to) { body(context, from, to); });
}

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

// The inputs of every op, as the kernels take them.
struct Call {
  fl::Spec spec;
  Shape shape;
  Layout layout;
  fl_cpu::Problem p;

  Call(const Tensor& x, const Tensor& y, const MaybeTensor& mask, const MaybeTensor& pixel_weight, const Ints& ints,
       const Floats& floats)
      : spec(parse(ints, floats)), shape(x, spec.binary), layout(shape, spec) {
    read_inputs(p, spec, shape, x, y, mask, pixel_weight, ints, floats);
    p.parallel = parallel;
  }

  bool wide() const { return p.x.dtype == fl::kF64; }

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

Tensor doubles(const Tensor& like, std::vector<int64_t> sizes) {
  Tensor t = torch::stable::new_empty(like, sizes, ScalarType::Double);
  std::fill_n(static_cast<double*>(t.mutable_data_ptr()), t.numel(), 0.0);  // memset must not see an empty one's null
  return t;
}

double scalar(const Tensor& t) {
  require(t.numel() == 1, "a weight or an upstream gradient must be a 0-d tensor");
  const void* data = t.const_data_ptr();
  switch (dtype_of(t)) {
    case fl::kF32:
      return *static_cast<const float*>(data);
    case fl::kF64:
      return *static_cast<const double*>(data);
    default:
      throw std::invalid_argument("fastloss: a 0-d weight must be float32 or float64");
  }
}

// Gradient memory is laid out as the logits are.
enum Want { kWantGrad = 1, kWantCounts = 2 };

std::tuple<Tensor, Tensor, Tensor> loss(Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight,
                                        std::vector<Tensor> weights, Ints ints, Floats floats, int64_t want,
                                        double threshold, double upstream, MaybeTensor) {
  Call call(x, y, mask, pixel_weight, ints, floats);
  fl_cpu::Problem& p = call.p;
  const Layout& at = call.layout;
  double effective[fl::kMaxTerms];
  for (int i = 0; i < call.spec.n_terms; ++i) {
    const fl::Term& t = call.spec.terms[i];
    require(t.weight_index < static_cast<int>(weights.size()), "a term names a weight that is not there");
    effective[i] = t.weight_index < 0 ? t.weight : t.weight * scalar(weights[t.weight_index]);
  }
  const int64_t n_counts = want & kWantCounts ? p.samples * p.channels * 4 : 0;
  Tensor state = doubles(x, {at.counts_at() + n_counts + 1});
  Tensor value = torch::stable::new_empty(x, {}, call.wide() ? ScalarType::Double : ScalarType::Float);
  Tensor grad = want & kWantGrad ? fresh(torch::stable::empty_like(x)) : torch::stable::new_empty(x, {0});
  if (want & kWantGrad) p.out = call.shape.array(grad, true);

  double* memory = static_cast<double*>(state.mutable_data_ptr());
  std::vector<double> sums(at.sums(), 0.0);
  std::vector<int64_t> counts(n_counts, 0);
  double total = 0.0;
  p.weights = effective, p.upstream = upstream, p.threshold = threshold;
  p.loss = &total, p.values = memory, p.aux = memory + at.aux_at(), p.dsums = memory + at.dsums_at();
  p.sums = sums.data(), p.counts = n_counts ? counts.data() : nullptr;
  fl_cpu::kernels().forward(p);
  call.check_targets();

  for (int64_t i = 0; i < n_counts; ++i) memory[at.counts_at() + i] = static_cast<double>(counts[i]);
  memory[at.counts_at() + n_counts] = upstream;
  if (call.wide())
    *static_cast<double*>(value.mutable_data_ptr()) = total;
  else
    *static_cast<float*>(value.mutable_data_ptr()) = static_cast<float>(total);
  return {value, state, grad};
}

Tensor backward(Tensor upstream, Tensor state, Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight,
                Ints ints, Floats floats) {
  Call call(x, y, mask, pixel_weight, ints, floats);
  fl_cpu::Problem& p = call.p;
  const Layout& at = call.layout;
  require(dtype_of(state) == fl::kF64 && state.is_contiguous() && state.numel() >= at.counts_at(),
          "backward got a state that is not of this loss");
  Tensor grad = fresh(torch::stable::empty_like(x));
  p.out = call.shape.array(grad, true);
  p.upstream = scalar(upstream);
  double* memory = const_cast<double*>(static_cast<const double*>(state.const_data_ptr()));
  p.aux = memory + at.aux_at(), p.dsums = memory + at.dsums_at();
  fl_cpu::kernels().backward(p);
  return grad;
}

std::tuple<Tensor, Tensor> sums(Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight, Ints ints,
                                Floats floats) {
  Call call(x, y, mask, pixel_weight, ints, floats);
  fl_cpu::Problem& p = call.p;
  Tensor out = doubles(x, {call.layout.groups, call.layout.channels, call.layout.columns});
  Tensor aux = doubles(x, {call.layout.terms, fl::kAuxColumns});
  p.sums = static_cast<double*>(out.mutable_data_ptr());
  p.aux = static_cast<double*>(aux.mutable_data_ptr());
  fl_cpu::kernels().forward(p);
  call.check_targets();
  return {out, aux};
}

Tensor elementwise(Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight, Ints ints, Floats floats) {
  Call call(x, y, mask, pixel_weight, ints, floats);
  fl_cpu::Problem& p = call.p;
  const bool softmax = call.spec.activation == fl::kSoftmax;
  require(call.spec.n_terms == 1 && call.spec.terms[0].kind != fl::kTversky && call.spec.terms[0].kind != fl::kTopk,
          "elementwise takes a single pointwise term");
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  if (softmax) sizes.erase(sizes.begin() + 1);
  Tensor out = fresh(torch::stable::new_empty(x, sizes, call.wide() ? ScalarType::Double : ScalarType::Float));
  p.out = call.shape.array(out, !softmax);
  fl_cpu::kernels().elementwise(p);
  call.check_targets();
  return out;
}

}  // namespace
}  // namespace fl_ops

STABLE_TORCH_LIBRARY_IMPL(fastloss_cpu, CPU, m) {
  m.impl("loss", TORCH_BOX(&fl_ops::loss));
  m.impl("backward", TORCH_BOX(&fl_ops::backward));
  m.impl("sums", TORCH_BOX(&fl_ops::sums));
  m.impl("elementwise", TORCH_BOX(&fl_ops::elementwise));
}

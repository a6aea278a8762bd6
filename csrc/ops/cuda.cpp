// The ops of the `cuda` backend; nothing here waits for the device. Schemas: fastloss/_registry.py. Under
// FASTLOSS_EMULATED the same ops, on CPU tensors, for the emulator of csrc/emulator.
#include "../cuda/problem.h"

#include <torch/csrc/stable/accelerator.h>

#include "problem.h"

// Null in a torch without CUDA; the header declares it only for builds that have the toolkit.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace fl_ops {
namespace {

// Makes the tensors' device the current one, for the life of this object, and knows its current stream.
#ifdef FASTLOSS_EMULATED
struct OnDevice {
  explicit OnDevice(const Tensor&) {}
  void* stream() const { return nullptr; }
};
#else
struct OnDevice {
  int32_t index;
  torch::stable::accelerator::DeviceGuard guard;
  explicit OnDevice(const Tensor& x) : index(cuda_index(x)), guard(index) {}
  static int32_t cuda_index(const Tensor& x) {
    require(x.is_cuda(), "the logits are not on a CUDA device");  // another tensor's device chose this op
    return x.get_device_index();
  }
  void* stream() const {
    void* found = nullptr;
    if (!aoti_torch_get_current_cuda_stream || aoti_torch_get_current_cuda_stream(index, &found))
      throw std::runtime_error("fastloss: this torch tells no current CUDA stream");
    return found;
  }
};
#endif

struct Call {
  OnDevice on;
  fl::Spec spec;
  Shape shape;
  Layout layout;
  int32_t device;
  fl_cuda::Problem p;
  std::optional<Tensor> workspace;

  Call(const Tensor& x, const Tensor& y, const MaybeTensor& mask, const MaybeTensor& pixel_weight, const Ints& ints,
       const Floats& floats)
      : on(x), spec(parse(ints, floats)), shape(x, spec.binary), layout(shape, spec) {
    read_inputs(p, spec, shape, x, y, mask, pixel_weight, ints, floats);
    device = x.get_device_index();
    require(here(y) && (!mask || here(*mask)) && (!pixel_weight || here(*pixel_weight)),
            "the inputs are on different devices");
    p.stream = on.stream();
  }

  bool wide() const { return p.x.dtype == fl::kF64; }
  bool here(const Tensor& t) const { return t.get_device_index() == device; }  // -1 on the CPU

  void run(const Tensor& like, const char* (*entry)(const fl_cuda::Problem&)) {
    workspace = torch::stable::new_empty(like, {fl_cuda::workspace_bytes(p)}, ScalarType::Byte);
    p.workspace = workspace->mutable_data_ptr();
    if (const char* fault = entry(p)) throw std::runtime_error(std::string("fastloss: CUDA kernel: ") + fault + ".");
  }
};

fl_cuda::Scalar scalar(const Tensor& t, const Tensor& x) {
  require(t.numel() == 1, "a weight or an upstream gradient must be a 0-d tensor");
  require(t.get_device_index() == x.get_device_index(), "a weight or an upstream gradient is on another device");
  const int dtype = dtype_of(t);
  require(dtype == fl::kF32 || dtype == fl::kF64, "a 0-d weight must be float32 or float64");
  return {t.const_data_ptr(), dtype == fl::kF64};
}

Tensor doubles(const Tensor& like, std::vector<int64_t> sizes) {
  return torch::stable::new_empty(like, sizes, ScalarType::Double);
}

enum Want { kWantGrad = 1, kWantCounts = 2 };

std::tuple<Tensor, Tensor, Tensor> loss(Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight,
                                        std::vector<Tensor> weights, Ints ints, Floats floats, int64_t want,
                                        double threshold, double upstream, MaybeTensor predicted) {
  Call call(x, y, mask, pixel_weight, ints, floats);
  fl_cuda::Problem& p = call.p;
  const Layout& at = call.layout;
  for (int i = 0; i < call.spec.n_terms; ++i) {
    const int index = call.spec.terms[i].weight_index;
    require(index < static_cast<int>(weights.size()), "a term names a weight that is not there");
    if (index >= 0) p.weights[i] = scalar(weights[index], x);
  }
  const int64_t n_counts = want & kWantCounts ? p.samples * p.channels * 4 : 0;
  Tensor state = doubles(x, {at.counts_at() + n_counts + 1});
  Tensor value = torch::stable::new_empty(x, {}, call.wide() ? ScalarType::Double : ScalarType::Float);
  Tensor grad = want & kWantGrad ? torch::stable::empty_like(x) : torch::stable::new_empty(x, {0});
  if (want & kWantGrad) p.out = call.shape.array(grad, true);

  double* memory = static_cast<double*>(state.mutable_data_ptr());
  p.loss = value.mutable_data_ptr(), p.values = memory, p.aux = memory + at.aux_at(), p.dsums = memory + at.dsums_at();
  if (n_counts) p.counts = memory + at.counts_at();
  p.scale = memory + at.counts_at() + n_counts;
  p.threshold = threshold, p.upstream_value = upstream;
  if (predicted) p.upstream = scalar(*predicted, x);
  call.run(x, fl_cuda::forward);
  return {value, state, grad};
}

void take_state(Call& call, const Tensor& state) {
  const Layout& at = call.layout;
  require(dtype_of(state) == fl::kF64 && state.is_contiguous() && state.numel() >= at.counts_at() && call.here(state),
          "backward got a state that is not of this loss");
  double* memory = const_cast<double*>(static_cast<const double*>(state.const_data_ptr()));
  call.p.aux = memory + at.aux_at(), call.p.dsums = memory + at.dsums_at();
  call.p.scale = memory + state.numel() - 1;
}

Tensor backward(Tensor upstream, Tensor state, Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight,
                Ints ints, Floats floats) {
  Call call(x, y, mask, pixel_weight, ints, floats);
  take_state(call, state);
  Tensor grad = torch::stable::empty_like(x);
  call.p.out = call.shape.array(grad, true);
  call.p.upstream = scalar(upstream, x);
  call.run(x, fl_cuda::backward);
  return grad;
}

void settle(Tensor upstream, Tensor grad, MaybeTensor predicted, Tensor state, Tensor x, Tensor y, MaybeTensor mask,
            MaybeTensor pixel_weight, Ints ints, Floats floats) {
  Call call(x, y, mask, pixel_weight, ints, floats);
  take_state(call, state);
  require(state.numel() > call.layout.counts_at(), "settle got a state that forward did not make");
  require(dtype_of(grad) == call.p.x.dtype && call.here(grad), "settle got a gradient that is not of these logits");
  if (predicted)
    require(predicted->numel() == 1 && dtype_of(*predicted) == fl::kF64 && call.here(*predicted),
            "predicted must be a 0-d float64 tensor beside the logits");
  call.p.out = call.shape.array(grad, true);
  call.p.upstream = scalar(upstream, x);
  if (predicted) call.p.predicted = static_cast<double*>(predicted->mutable_data_ptr());
  call.run(x, fl_cuda::settle);
}

std::tuple<Tensor, Tensor> sums(Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight, Ints ints,
                                Floats floats) {
  Call call(x, y, mask, pixel_weight, ints, floats);
  Tensor out = doubles(x, {call.layout.groups, call.layout.channels, call.layout.columns});
  Tensor aux = doubles(x, {call.layout.terms, fl::kAuxColumns});
  call.p.sums = static_cast<double*>(out.mutable_data_ptr());
  call.p.aux = static_cast<double*>(aux.mutable_data_ptr());
  call.run(x, fl_cuda::forward);
  return {out, aux};
}

Tensor elementwise(Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight, Ints ints, Floats floats) {
  Call call(x, y, mask, pixel_weight, ints, floats);
  const bool softmax = call.spec.activation == fl::kSoftmax;
  require(call.spec.n_terms == 1 && call.spec.terms[0].kind != fl::kTversky && call.spec.terms[0].kind != fl::kTopk,
          "elementwise takes a single pointwise term");
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  if (softmax) sizes.erase(sizes.begin() + 1);
  Tensor out = torch::stable::new_empty(x, sizes, call.wide() ? ScalarType::Double : ScalarType::Float);
  call.p.out = call.shape.array(out, !softmax);
  call.run(x, fl_cuda::elementwise);
  return out;
}

}  // namespace
}  // namespace fl_ops

#ifdef FASTLOSS_EMULATED
#define FL_KEY CPU
#else
#define FL_KEY CUDA
#endif
STABLE_TORCH_LIBRARY_IMPL(fastloss_cuda, FL_KEY, m) {
  m.impl("loss", TORCH_BOX(&fl_ops::loss));
  m.impl("backward", TORCH_BOX(&fl_ops::backward));
  m.impl("settle", TORCH_BOX(&fl_ops::settle));
  m.impl("sums", TORCH_BOX(&fl_ops::sums));
  m.impl("elementwise", TORCH_BOX(&fl_ops::elementwise));
}

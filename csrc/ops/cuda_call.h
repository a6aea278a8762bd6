// A call of the `cuda` backend's kernels: the device, its stream, the workspace. Under FASTLOSS_EMULATED on CPU
// tensors, for the emulator of csrc/emulator.
#pragma once
#include "../cuda/problem.h"

#include <torch/csrc/stable/accelerator.h>

#include "ops.h"

// Null in a torch without CUDA; the header declares it only for builds that have the toolkit.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

#ifdef FASTLOSS_EMULATED
#define FL_KEY CPU
#else
#define FL_KEY CUDA
#endif

namespace fl_ops {

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

using Entry = const char* (*)(const fl_cuda::CudaProblem&);

struct Cuda : OpCall<fl_cuda::CudaProblem> {
  static constexpr Entry kForward = fl_cuda::forward, kBackward = fl_cuda::backward,
                         kElementwise = fl_cuda::elementwise;
  OnDevice on;
  std::optional<Tensor> workspace;

  template <class... Inputs>
  explicit Cuda(const Tensor& logits, const Inputs&... inputs) : OpCall(logits, inputs...), on(logits) {
    p.stream = on.stream();
  }

  Tensor doubles(std::vector<int64_t> sizes) const { return torch::stable::new_empty(x, sizes, ScalarType::Double); }
  Tensor large(Tensor t) const { return t; }

  template <class F>
  void run(const F& entry) {
    workspace = torch::stable::new_empty(x, {fl_cuda::workspace_bytes(p)}, ScalarType::Byte);
    p.workspace = workspace->mutable_data_ptr();
    if (const char* fault = entry(p)) throw std::runtime_error(std::string("fastloss: CUDA kernel: ") + fault + ".");
  }

  fl::CallPath path(bool counts) {
    double place = 0.0;
    if (counts) p.counts = &place;  // asked for, not written
    return fl_cuda::path(p);
  }

  void forward(void* value, double* counts, double* scale, double grad_output, const MaybeTensor& predicted) {
    p.loss = value, p.counts = counts, p.scale = scale, p.grad_output_value = grad_output;
    if (predicted) p.grad_output = scalar(*predicted);
    run(kForward);
  }
};

}  // namespace fl_ops

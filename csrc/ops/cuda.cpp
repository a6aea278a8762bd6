// The ops of the `cuda` backend; nothing here waits for the device. Schemas: fastloss/_registry.py. Under
// FASTLOSS_EMULATED the same ops, on CPU tensors, for the emulator of csrc/emulator.
#include "cuda_call.h"

namespace fl_ops {
namespace {

// Makes `grad`, which forward wrote for the scale in `state`, the gradient for `grad_output`, and remembers that.
void rescale_grad(Tensor grad_output, Tensor grad, MaybeTensor predicted, Tensor state, Tensor x, Tensor y,
                  MaybeTensor mask, MaybeTensor pixel_weight, Ints ints, Floats floats) {
  Cuda call(x, y, mask, pixel_weight, ints, floats);
  call.p.scale = call.take_state(state) + state.numel() - 1;
  require(state.numel() > call.layout.counts_at(), "rescale_grad got a state that forward did not make");
  require(dtype_of(grad) == call.p.x.dtype && call.here(grad),
          "rescale_grad got a gradient that is not of these logits");
  call.p.out = call.shape.array(grad, true);
  call.p.grad_output = call.scalar(grad_output);
  if (predicted) {
    require(predicted->numel() == 1 && dtype_of(*predicted) == fl::kF64 && call.here(*predicted),
            "predicted must be a 0-d float64 tensor beside the logits");
    call.p.predicted = static_cast<double*>(predicted->mutable_data_ptr());
  }
  call.run(fl_cuda::rescale_grad);
}

}  // namespace
}  // namespace fl_ops

STABLE_TORCH_LIBRARY_IMPL(fastloss_cuda, FL_KEY, m) {
  fl_ops::implement<fl_ops::Cuda>(m);
  m.impl("rescale_grad", TORCH_BOX(&fl_ops::rescale_grad));
}

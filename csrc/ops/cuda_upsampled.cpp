// The ops of the `cuda` backend for losses of interpolated logits, which only fastloss/_upsampled_cuda.py calls. `like`
// has the shape of the interpolated logits and is not read.
#include "cuda_call.h"
#include "upsampled.h"

namespace fl_ops {
namespace {

struct UpsampledCudaCall : Cuda {
  fl_cuda::Upsampled u;
  const Shape inputs;

  UpsampledCudaCall(const Tensor& like, const Tensor& low, const Tensor& y, const MaybeTensor& mask,
                    const MaybeTensor& pixel_weight, const Ints& ints, const Floats& floats, int64_t mode,
                    bool align_corners)
      : Cuda(like, y, mask, pixel_weight, ints, floats), u{p, {}, {}, {}, 0, false}, inputs(low, false) {
    require(here(low), "the inputs are on different devices");
    take_inputs(*this, inputs, mode, align_corners, u);
    require(p.samples > 0 && p.x.dtype == fl::kF32 && fl::is_float(dtype_of(low)) && dtype_of(low) != fl::kF64,
            "tiles are of float32 or half logits");
    require(spec.activation == fl::kSigmoid || p.channels <= fl_cuda::kTileClasses,
            "the logits have more classes than a tile takes");
    for (int i = 0; i < 3; ++i)
      require(shape.space[i] <= fl_cuda::kTileRatio * inputs.space[i], "an axis grows more than tiles can");
    u.low = inputs.array(low, true);
  }
};

std::tuple<Tensor, Tensor> upsampled_sums(Tensor like, Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight,
                                          Ints ints, Floats floats, int64_t mode, bool align_corners) {
  UpsampledCudaCall call(like, x, y, mask, pixel_weight, ints, floats, mode, align_corners);
  Tensor found = call.doubles({call.layout.groups, call.layout.channels, call.layout.columns});
  Tensor aux = call.doubles({call.layout.terms, fl::kAuxColumns});
  call.p.sums = static_cast<double*>(found.mutable_data_ptr());
  call.p.aux = static_cast<double*>(aux.mutable_data_ptr());
  call.run([&](auto&) { return fl_cuda::upsampled_sums(call.u); });
  return {found, aux};
}

Tensor upsampled_backward(Tensor state, Tensor like, Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight,
                          Ints ints, Floats floats, int64_t mode, bool align_corners) {
  UpsampledCudaCall call(like, x, y, mask, pixel_weight, ints, floats, mode, align_corners);
  call.take_state(state);
  Tensor grad = torch::stable::empty_like(x);
  call.u.grad = call.inputs.array(grad, true);
  call.run([&](auto&) { return fl_cuda::upsampled_backward(call.u); });
  return grad;
}

}  // namespace
}  // namespace fl_ops

STABLE_TORCH_LIBRARY_IMPL(fastloss_cuda, FL_KEY, m) {
  m.impl("upsampled_sums", TORCH_BOX(&fl_ops::upsampled_sums));
  m.impl("upsampled_backward", TORCH_BOX(&fl_ops::upsampled_backward));
}

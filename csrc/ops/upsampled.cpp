// The ops of the `cpu` backend for losses of interpolated logits, which only fastloss/_sources.py calls. `like` has the
// shape and the dtype of the interpolated logits and is not read.
#include <cstring>

#include "../cpu/upsampled_problem.h"
#include "cpu_call.h"
#include "upsampled.h"

namespace fl_ops {
namespace {

struct UpsampledCall : CpuCall {
  fl_cpu::Upsampled u;

  UpsampledCall(const Tensor& like, const Tensor& low, const Tensor& y, const MaybeTensor& mask,
                const MaybeTensor& pixel_weight, const Ints& ints, const Floats& floats, int64_t mode,
                bool align_corners, int64_t band_pixels)
      : CpuCall(like, y, mask, pixel_weight, ints, floats), u{p, {}, {}, 0, false, 0} {
    const Shape inputs(low, false);
    take_inputs(*this, inputs, mode, align_corners, u);
    require(wide() == (dtype_of(low) == fl::kF64) && fl::is_float(dtype_of(low)), "the logits have another dtype");
    require(band_pixels > 0, "the size of a band is negative");
    u.x = inputs.array(low, true);
    u.band_pixels = band_pixels;
    p.parallel = parallel;
  }
};

std::tuple<Tensor, Tensor, Tensor> upsampled_sums(Tensor like, Tensor x, Tensor y, MaybeTensor mask,
                                                  MaybeTensor pixel_weight, Ints ints, Floats floats, int64_t mode,
                                                  bool align_corners, int64_t band_pixels, bool want_counts,
                                                  double threshold) {
  UpsampledCall call(like, x, y, mask, pixel_weight, ints, floats, mode, align_corners, band_pixels);
  Tensor found = call.doubles({call.layout.groups, call.layout.channels, call.layout.columns});
  Tensor aux = call.doubles({call.layout.terms, fl::kAuxColumns});
  Tensor counts = torch::stable::new_empty(x, {want_counts ? call.p.samples : 0, call.p.channels, 4}, ScalarType::Long);
  if (want_counts) {
    call.p.counts = static_cast<int64_t*>(counts.mutable_data_ptr());
    std::fill_n(call.p.counts, counts.numel(), 0);
  }
  call.p.threshold = threshold;
  call.p.sums = static_cast<double*>(found.mutable_data_ptr());
  call.p.aux = static_cast<double*>(aux.mutable_data_ptr());
  fl_cpu::upsampled_kernels().sums(call.u);
  call.check_targets();
  return {found, aux, counts};
}

Tensor upsampled_backward(Tensor state, Tensor like, Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight,
                          Ints ints, Floats floats, int64_t mode, bool align_corners, int64_t band_pixels) {
  UpsampledCall call(like, x, y, mask, pixel_weight, ints, floats, mode, align_corners, band_pixels);
  call.take_state(state);
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  Tensor grad = torch::stable::new_empty(x, sizes, call.value_type());
  call.u.grad = grad.mutable_data_ptr();
  if (grad.numel()) std::memset(call.u.grad, 0, grad.numel() * grad.element_size());
  fl_cpu::upsampled_kernels().backward(call.u);
  return grad;
}

}  // namespace
}  // namespace fl_ops

STABLE_TORCH_LIBRARY_FRAGMENT(fastloss_cpu, m) {
  m.def(
      "upsampled_sums(Tensor like, Tensor x, Tensor y, Tensor? mask, Tensor? pixel_weight, int[] ints, float[] floats, "
      "int mode, bool align_corners, int band_pixels, bool want_counts, float threshold) -> (Tensor, Tensor, Tensor)");
  m.def(
      "upsampled_backward(Tensor state, Tensor like, Tensor x, Tensor y, Tensor? mask, Tensor? pixel_weight, "
      "int[] ints, float[] floats, int mode, bool align_corners, int band_pixels) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fastloss_cpu, CPU, m) {
  m.impl("upsampled_sums", TORCH_BOX(&fl_ops::upsampled_sums));
  m.impl("upsampled_backward", TORCH_BOX(&fl_ops::upsampled_backward));
}

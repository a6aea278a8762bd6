// From stable-ABI tensors to the raw problem of the kernels. Python has validated shapes and types; what is checked
// here keeps a direct call of the op from reading out of bounds.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../math/spec.h"
#include "../math/sums.h"
#include "../problem.h"

namespace fl_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;
using Floats = std::vector<double>;
using MaybeTensor = std::optional<Tensor>;

inline void require(bool good, const char* message) {
  if (!good) throw std::invalid_argument(std::string("fastloss: ") + message);
}

inline int dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return fl::kF32;
    case ScalarType::Double:
      return fl::kF64;
    case ScalarType::Half:
      return fl::kF16;
    case ScalarType::BFloat16:
      return fl::kBF16;
    case ScalarType::Bool:
      return fl::kBool;
    case ScalarType::Byte:
      return fl::kU8;
    case ScalarType::Char:
      return fl::kI8;
    case ScalarType::Short:
      return fl::kI16;
    case ScalarType::Int:
      return fl::kI32;
    case ScalarType::Long:
      return fl::kI64;
    case ScalarType::UInt16:
      return fl::kU16;
    case ScalarType::UInt32:
      return fl::kU32;
    case ScalarType::UInt64:
      return fl::kU64;
    default:
      throw std::invalid_argument("fastloss: a tensor has a dtype that the kernels do not read");
  }
}

// Logits [N, C, *S], or [N, H, W] in binary mode.
struct Shape {
  int64_t samples = 0, channels = 1, space[3] = {1, 1, 1};
  int axes = 0;  // of space
  bool channel_axis;

  Shape(const Tensor& x, bool binary) {
    const auto sizes = x.sizes();
    channel_axis = !(binary && sizes.size() == 3 && sizes[1] != 1);
    axes = static_cast<int>(sizes.size()) - (channel_axis ? 2 : 1);
    require(axes >= 1 && axes <= 3, "logits need one to three spatial axes");
    samples = sizes[0];
    if (channel_axis) channels = sizes[1];
    for (int i = 0; i < axes; ++i) space[3 - axes + i] = sizes[sizes.size() - axes + i];
  }
  int64_t pixels() const { return space[0] * space[1] * space[2]; }

  // Any tensor of the same samples and space, with as many channels as the logits, one, or no channel axis.
  fl::Array array(const Tensor& t, bool needs_channels) const {
    const auto sizes = t.sizes(), strides = t.strides();
    const int rank = static_cast<int>(sizes.size());
    require(rank == axes + 1 || rank == axes + 2, "an input has the wrong number of axes");
    require(sizes[0] == samples, "an input has another batch size than the logits");
    const bool own_channels = rank == axes + 2;
    const int64_t planes = own_channels ? sizes[1] : 1;
    require(planes == channels || (planes == 1 && !needs_channels), "an input has another number of channels");
    fl::Array a;
    a.data = const_cast<void*>(t.const_data_ptr());
    a.dtype = dtype_of(t);
    a.sample = strides[0];
    a.channel = own_channels && planes > 1 ? strides[1] : 0;
    for (int i = 0; i < axes; ++i) {
      require(sizes[rank - axes + i] == space[3 - axes + i], "an input has another spatial size than the logits");
      a.space[3 - axes + i] = strides[rank - axes + i];
    }
    return a;
  }
};

inline fl::Spec parse(const std::vector<int64_t>& ints, const std::vector<double>& floats) {
  fl::Spec spec;
  const char* fault = fl::parse_spec(ints.data(), ints.size(), floats.data(), floats.size(), &spec);
  require(!fault, fault ? fault : "");
  return spec;
}

// Sizes of the small float64 tensors: math/sums.h.
struct Layout {
  int64_t groups, channels, terms, columns;
  Layout(const Shape& shape, const fl::Spec& spec)
      : groups(spec.per_sample() ? shape.samples : 1),
        channels(shape.channels),
        terms(spec.n_terms),
        columns(fl::kFixedSums + spec.n_terms) {}
  int64_t sums() const { return groups * channels * columns; }
  int64_t aux() const { return terms * fl::kAuxColumns; }
  // state = [values | aux | grad_sums | counts | scale of the gradient]
  int64_t aux_at() const { return terms; }
  int64_t grad_sums_at() const { return terms + aux(); }
  int64_t counts_at() const { return grad_sums_at() + sums(); }
};

// A call of any op, for the problem of either backend, which points into `ints` and `floats`.
template <class Problem>
struct OpCall {
  fl::Spec spec;
  Shape shape;
  Layout layout;
  const Tensor& x;
  Problem p;

  OpCall(const Tensor& logits, const Tensor& y, const MaybeTensor& mask, const MaybeTensor& pixel_weight,
         const Ints& ints, const Floats& floats)
      : spec(parse(ints, floats)), shape(logits, spec.binary), layout(shape, spec), x(logits) {
    p.samples = shape.samples, p.channels = shape.channels;
    require(p.channels >= 1, "logits need a channel");
    for (int i = 0; i < spec.n_terms; ++i) {
      const int64_t length = spec.terms[i].vector_length;
      if (spec.terms[i].kind == fl::kWasserstein)
        require(length == p.channels * p.channels && spec.activation == fl::kSoftmax && !fl::is_float(dtype_of(y)),
                "a matrix of class distances needs class indices and a number for each pair of channels");
      else
        require(length <= 1 || length == p.channels,
                "a term has another number of class weights than there are channels");
    }
    for (int i = 0; i < 3; ++i) p.space[i] = shape.space[i];
    p.x = shape.array(x, true);
    require(fl::is_float(p.x.dtype), "logits must be floating point");
    p.ids = spec.activation == fl::kSoftmax && !fl::is_float(dtype_of(y));
    p.y = shape.array(y, !p.ids);
    if (mask) {
      p.mask = shape.array(*mask, false);
      require(p.mask.dtype == fl::kBool, "mask must be bool");
    }
    if (pixel_weight) {
      p.pixel_weight = shape.array(*pixel_weight, false);
      require(fl::is_float(p.pixel_weight.dtype), "pixel_weight must be floating point");
    }
    require(here(y) && (!mask || here(*mask)) && (!pixel_weight || here(*pixel_weight)),
            "the inputs are on different devices");
    p.ints = ints.data(), p.n_ints = ints.size(), p.floats = floats.data(), p.n_floats = floats.size();
    p.groups = layout.groups;
  }

  bool wide() const { return p.x.dtype == fl::kF64; }
  bool here(const Tensor& t) const { return t.get_device_index() == x.get_device_index(); }  // -1 on the CPU
  ScalarType value_type() const { return wide() ? ScalarType::Double : ScalarType::Float; }

  // A weight of a term or the gradient of the loss.
  fl::Scalar scalar(const Tensor& t) const {
    require(t.numel() == 1, "a weight or a gradient of the loss must be a 0-d tensor");
    require(here(t), "a weight or a gradient of the loss is on another device");
    const int dtype = dtype_of(t);
    require(dtype == fl::kF32 || dtype == fl::kF64, "a 0-d weight must be float32 or float64");
    return {t.const_data_ptr(), dtype == fl::kF64};
  }
  void take_weights(const std::vector<Tensor>& weights) {
    for (int i = 0; i < spec.n_terms; ++i) {
      const int index = spec.terms[i].weight_index;
      require(index < static_cast<int>(weights.size()), "a term names a weight that is not there");
      if (index >= 0) p.weights[i] = scalar(weights[index]);
    }
  }
  // The pieces of a state that every backward reads.
  double* take_state(const Tensor& state) {
    require(dtype_of(state) == fl::kF64 && state.is_contiguous() && state.numel() >= layout.counts_at() && here(state),
            "backward got a state that is not of this loss");
    double* memory = const_cast<double*>(static_cast<const double*>(state.const_data_ptr()));
    p.aux = memory + layout.aux_at(), p.grad_sums = memory + layout.grad_sums_at();
    return memory;
  }
};

}  // namespace fl_ops

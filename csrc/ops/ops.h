// The ops that every compiled backend has: tensors are allocated and checked here, once. Schemas:
// fastloss/_registry.py.
//
// `Backend` is a OpCall of its kernels' problem that also allocates (`doubles`, `large`) and runs (`forward`, `run`).
#pragma once
#include "problem.h"

namespace fl_ops {

enum Want { kWantGrad = 1, kWantCounts = 2 };

// (loss, state, gradient): the gradient is laid out as the logits are.
template <class Backend>
std::tuple<Tensor, Tensor, Tensor> loss(Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight,
                                        std::vector<Tensor> weights, Ints ints, Floats floats, int64_t want,
                                        double threshold, double grad_output, MaybeTensor predicted) {
  Backend call(x, y, mask, pixel_weight, ints, floats);
  const Layout& at = call.layout;
  call.take_weights(weights);
  const int64_t n_counts = want & kWantCounts ? call.p.samples * call.p.channels * 4 : 0;
  Tensor state = call.doubles({at.counts_at() + n_counts + 1});
  Tensor value = torch::stable::new_empty(x, {}, call.value_type());
  Tensor grad = want & kWantGrad ? call.large(torch::stable::empty_like(x)) : torch::stable::new_empty(x, {0});
  if (want & kWantGrad) call.p.out = call.shape.array(grad, true);
  double* memory = call.take_state(state);
  call.p.values = memory, call.p.threshold = threshold;
  double* counts = n_counts ? memory + at.counts_at() : nullptr;
  call.forward(value.mutable_data_ptr(), counts, memory + at.counts_at() + n_counts, grad_output, predicted);
  return {value, state, grad};
}

template <class Backend>
Tensor backward(Tensor grad_output, Tensor state, Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight,
                Ints ints, Floats floats) {
  Backend call(x, y, mask, pixel_weight, ints, floats);
  call.take_state(state);
  Tensor grad = call.large(torch::stable::empty_like(x));
  call.p.out = call.shape.array(grad, true);
  call.p.grad_output = call.scalar(grad_output);
  call.run(Backend::kBackward);
  return grad;
}

template <class Backend>
std::tuple<Tensor, Tensor> sums(Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight, Ints ints,
                                Floats floats) {
  Backend call(x, y, mask, pixel_weight, ints, floats);
  Tensor out = call.doubles({call.layout.groups, call.layout.channels, call.layout.columns});
  Tensor aux = call.doubles({call.layout.terms, fl::kAuxColumns});
  call.p.sums = static_cast<double*>(out.mutable_data_ptr());
  call.p.aux = static_cast<double*>(aux.mutable_data_ptr());
  call.run(Backend::kForward);
  return {out, aux};
}

template <class Backend>
Tensor elementwise(Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight, Ints ints, Floats floats) {
  Backend call(x, y, mask, pixel_weight, ints, floats);
  const bool softmax = call.spec.activation == fl::kSoftmax;
  require(call.spec.n_terms == 1 && !call.spec.terms[0].region() && call.spec.terms[0].kind != fl::kTopk,
          "elementwise takes a single pointwise term");
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  if (softmax) sizes.erase(sizes.begin() + 1);
  Tensor out = call.large(torch::stable::new_empty(x, sizes, call.value_type()));
  call.p.out = call.shape.array(out, !softmax);
  call.run(Backend::kElementwise);
  return out;
}

// Which kernels `loss` would take, with its gradient (grad) and statistics (counts): a CallPath.
template <class Backend>
int64_t path(Tensor x, Tensor y, MaybeTensor mask, MaybeTensor pixel_weight, Ints ints, Floats floats, bool grad,
             bool counts) {
  Backend call(x, y, mask, pixel_weight, ints, floats);
  Tensor out = grad ? torch::stable::empty_like(x) : torch::stable::new_empty(x, {0});
  if (grad) call.p.out = call.shape.array(out, true);
  return call.path(counts);
}

template <class Backend, class Library>
void implement(Library& m) {
  m.impl("loss", TORCH_BOX(&loss<Backend>));
  m.impl("backward", TORCH_BOX(&backward<Backend>));
  m.impl("sums", TORCH_BOX(&sums<Backend>));
  m.impl("elementwise", TORCH_BOX(&elementwise<Backend>));
  m.impl("path", TORCH_BOX(&path<Backend>));
}

}  // namespace fl_ops

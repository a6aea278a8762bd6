// Multiclass: the kernels for few classes where they apply, the general ones elsewhere.
#include "softmax_kinds.h"

namespace fl_old {
namespace {

// Terms that need all labels of a pixel, or more sums than p, p y and y.
bool is_general(const Params& p, bool counting) {
  bool general = !p.ids || counting || p.spec.any_squared() || p.spec.any_l1();
  for (int i = 0; i < p.spec.n_terms; ++i)
    general |= p.spec.terms[i].kind == fl::kCe && p.spec.terms[i].label_smoothing != 0.0;
  return general;
}

// Class ids of few classes, in contiguous planes.
bool is_small(const Params& p) {
  constexpr int kMost = 16;
  if (p.wide || p.pixel_weight.data || p.channels > kMost || is_general(p, p.counting)) return false;
  for (const Array* a : {&p.x, &p.y, &p.mask, &p.out})
    if (a->data && !packed(p, *a, p.samples, fl::bytes_of(a->dtype))) return false;
  return true;
}

// The gradient needs no sum: it can leave with the sums.
bool is_at_once(const Params& p) {
  if (p.spec.any_region() || p.known_valid < 0.0) return false;
  for (int i = 0; i < p.spec.n_terms; ++i) {
    const fl::Term& t = p.spec.terms[i];
    if (t.kind == fl::kCe && t.vector_length && t.reduction == fl::kMean) return false;
  }
  return true;
}

}  // namespace

const char* softmax_forward(Call& c) {
  Params& p = c.p;
  const bool at_once = is_at_once(p), general = is_general(p, p.counting), small = p.parts > 0 && is_small(p);
  const bool single = p.x.dtype == fl::kF32;
  if (small)
    return fault(single ? softmax_small_forward<float>(c, at_once) : softmax_small_forward<Half16>(c, at_once));
  if (p.spec.any(fl::kTopk) && p.parts > 0) {
    cudaError_t error = p.wide ? softmax_any_keys<double>(c, general) : softmax_any_keys<float>(c, general);
    if (error == cudaSuccess) error = p.wide ? softmax_select<double>(c) : softmax_select<float>(c);
    if (error != cudaSuccess) return fault(error);
  }
  return fault(p.wide ? softmax_any_forward<double>(c, general, at_once)
                      : softmax_any_forward<float>(c, general, at_once));
}

const char* softmax_backward(Call& c) {
  Params& p = c.p;
  const bool counting = p.counting;
  p.counting = false;
  const bool general = is_general(p, false);
  if (p.parts > 0 && is_small(p))
    return fault(p.x.dtype == fl::kF32 ? softmax_small_backward<float>(c) : softmax_small_backward<Half16>(c));
  p.counting = counting;
  return fault(p.wide ? softmax_any_backward<double>(c, general) : softmax_any_backward<float>(c, general));
}

const char* softmax_elementwise(Call& c) {
  return fault(c.p.wide ? softmax_any_values<double>(c) : softmax_any_values<float>(c));
}

}  // namespace fl_old

// The fast instances of one type of logits.
#pragma once
#include "kernel.h"
#include "launch.h"

namespace fl_cuda {

template <class X, class Terms, class Inputs>
Instance fast_instance() {
  using S = Shape<Terms, Inputs>;
  return {sigmoid_fast<X, Terms, Inputs>,
          S::kThreads,
          S::kBlocks,
          Inputs::kPacks,
          Rows<X, typename Inputs::Labels, S::kThreads>::kBytes,
          Terms::kShared};
}
template <class X, class Terms>
Instance fast_instance(FastInput input) {
  if (input == kHardInput) return fast_instance<X, Terms, HardLabels<false>>();
  if (input == kMaskedInput) return fast_instance<X, Terms, HardLabels<true>>();
  return fast_instance<X, Terms, SoftLabels>();
}
template <class X>
Instance fast_instance(FastTerm term, FastInput input) {
  if (term == kTopkTerm)
    return input == kHardInput ? fast_instance<X, Topk, HardLabels<false>>()
                               : fast_instance<X, Topk, HardLabels<true>>();
  if (term == kNoTerm) return fast_instance<X, NoTerm>(input);
  if (term == kBceTerm) return fast_instance<X, WithRegion<Bce>>(input);
  return fast_instance<X, WithRegion<Focal>>(input);
}

}  // namespace fl_cuda

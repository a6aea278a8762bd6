#include "general.h"
#include "launch.h"

namespace fl_cuda {

template <class X>
Instance general_instance(int slots, int terms, bool selecting) {
  using T = typename Real<X>::Type;
  constexpr int kThreads = kGeneralThreads;
  const int columns = slots * Columns<T>::kBytesASlot + terms * Columns<T>::kBytesATerm;
  const int shared = kThreads * columns + (selecting ? static_cast<int>(sizeof(Selection<T>)) : 0);
  return {sigmoid_general<X>, kThreads, kGeneralBlocks<T>, 1, 0, shared};
}
template Instance general_instance<float>(int, int, bool);
template Instance general_instance<double>(int, int, bool);
template Instance general_instance<__half>(int, int, bool);
template Instance general_instance<__nv_bfloat16>(int, int, bool);

}  // namespace fl_cuda

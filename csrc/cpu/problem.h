// One call as the CPU kernels see it: raw pointers, sizes, strides. No torch, and nothing that depends on an ISA.
#pragma once
#include <atomic>
#include <cstdint>

namespace fl_cpu {

enum Dtype { kF32, kF64, kF16, kBF16, kBool, kU8, kI8, kI16, kI32, kI64, kU16, kU32, kU64, kNoDtype };

// Strides in elements. `space` always has three axes; missing ones have size 1.
struct Array {
  void* data = nullptr;
  int dtype = kNoDtype;
  int64_t sample = 0, channel = 0, space[3] = {0, 0, 0};
};

using ParallelBody = void (*)(void* context, int64_t begin, int64_t end);
using ParallelFor = void (*)(int64_t begin, int64_t end, void* context, ParallelBody body);

struct Problem {
  Array x, y, mask, pixel_weight;
  Array out;  // the gradient, or the values of `elementwise`; null if not wanted
  int64_t samples = 0, channels = 0, space[3] = {1, 1, 1};
  bool ids = false;  // y holds class ids, not one value per channel
  const int64_t* ints = nullptr;
  const double* floats = nullptr;
  int64_t n_ints = 0, n_floats = 0;
  const double* weights = nullptr;  // effective weight of each term
  int64_t groups = 1;               // rows of sums: 1, or one per sample
  double upstream = 1.0;            // multiplies the gradient
  double threshold = 0.5;           // of the counts
  ParallelFor parallel = nullptr;

  // Results; null where not wanted. Layouts: math/sums.h.
  double* loss = nullptr;
  double* values = nullptr;
  double* sums = nullptr;
  double* dsums = nullptr;  // an input of backward
  double* aux = nullptr;    // likewise
  int64_t* counts = nullptr;

  std::atomic<bool> bad_target{false};  // some valid target is out of range; an example of it beside
  double bad_value = 0.0;
};

struct Kernels {
  void (*forward)(Problem&);      // sums, aux; then loss, values, dsums, out and counts if wanted
  void (*backward)(Problem&);     // out from dsums and aux
  void (*elementwise)(Problem&);  // out: the values of a single pointwise term
};

// The best build of the kernels that this processor runs, or the one that FASTLOSS_CPU=baseline|avx2|avx512 names; and
// its name, null if the one named does not exist or run here (the module then does not load).
const Kernels& kernels();
const char* capability();

}  // namespace fl_cpu

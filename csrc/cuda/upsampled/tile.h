// A tile: the low-resolution logits that a block owns, what else their outputs read, and those outputs.
//
// Along each axis a cell lies between an input and the next one; its outputs mix these two. Outputs are grouped along
// the rows, up to kV of a cell, so that a thread mixes the cell's corners once for all of them. For the sums a block
// takes the outputs of the cells that begin at its inputs; for the gradient also those of the cells before, whose
// outputs reach its inputs: it computes them anew and shares no number with another block.
#pragma once
#include "../../math/interpolate.h"
#include "../dispatch.h"
#include "../reduce.h"

namespace fl_cuda {

constexpr int kTileThreads = 256, kTogether = 8;  // classes that a block takes between two barriers
constexpr int kMaxCells = 32;                     // of a tile along an axis

// What the host adds to Work and Launch.
struct Tiling {
  Array low, out;             // the logits as they are given, and their gradient
  int inputs[3], outputs[3];  // of each axis
  int mode;                   // math/interpolate.h
  bool align_corners;
  bool mixes[3];               // outputs mix two inputs along this axis
  int size[3], count[3];       // inputs that a tile owns; tiles
  int most[3], groups, reads;  // outputs along each axis, groups of a row, inputs of a class: at most
  int terms;                   // pointwise ones
};

// The tile of a block, in shared memory.
struct Tile {
  int low[3], cells[3], reads[3];  // first cell; cells, inputs that they read
  int own[3], owned[3];            // the inputs that the block owns, among those
  int first[3], outputs[3];        // of the cells
  int begin[3][kMaxCells + 1];     // outputs of each cell, from `first` on
  int group_begin[kMaxCells + 1];
  int64_t sample;
};

// Dynamic shared memory; made on the host, from null, it gives the size.
struct TileMemory {
  unsigned char* at;
  double *sums, *columns;                       // of the block, [per class and class]; of each thread, [column][thread]
  float *logits, *grads, *values;               // [class][input]; of the inputs owned; what threads hand over
  float *pred, *inter, *square, *cross, *diff;  // slopes by the sums, of each class
  float* weight[3];                             // of each output of an axis: of the second input
  int *cell[3], *group_cell, *group_start;

  template <class T>
  __host__ __device__ __forceinline__ T* take(int64_t n) {
    T* found = reinterpret_cast<T*>(at);
    at += (n * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
    return found;
  }
  __host__ __device__ __forceinline__ TileMemory(const Work& w, const Tiling& t, bool gradient, unsigned char* memory)
      : at(memory) {
    const bool softmax = is_softmax(w);
    const int64_t channels = softmax ? w.channels : 1, owned = int64_t(t.size[0]) * t.size[1] * t.size[2];
    const int rows = gradient ? 2 : (softmax ? w.slots.per_class : 0);
    const int columns = softmax ? w.slots.scalars : w.slots.count(1);
    sums = take<double>(!gradient && softmax ? w.slots.per_class * channels : 0);
    this->columns = take<double>(gradient ? 0 : columns * kTileThreads);
    logits = take<float>(channels * t.reads);
    grads = take<float>(gradient ? channels * owned : 0);
    values = take<float>((softmax ? kTogether : 1) * rows * kTileThreads);
    pred = take<float>(gradient ? channels : 0), inter = take<float>(gradient ? channels : 0);
    cross = take<float>(gradient ? channels : 0);
    square = take<float>(gradient ? channels : 0), diff = take<float>(gradient ? channels : 0);
    for (int a = 0; a < 3; ++a) weight[a] = take<float>(t.most[a]), cell[a] = take<int>(t.most[a]);
    group_cell = take<int>(t.groups), group_start = take<int>(t.groups);
  }
};

__device__ __forceinline__ float float_at(const Array& a, int64_t at) {
  switch (a.dtype) {
    case fl::kF32:
      return static_cast<const float*>(a.data)[at];
    case fl::kF64:
      return static_cast<float>(static_cast<const double*>(a.data)[at]);
    case fl::kF16:
      return __half2float(static_cast<const __half*>(a.data)[at]);
    default:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(a.data)[at]);
  }
}
// As signed: a class beyond 2^63 is out of range either way.
__device__ __forceinline__ int64_t integer_at(const Array& a, int64_t at) {
  switch (a.dtype) {
    case fl::kBool:
    case fl::kU8:
      return static_cast<const uint8_t*>(a.data)[at];
    case fl::kI8:
      return static_cast<const int8_t*>(a.data)[at];
    case fl::kI16:
      return static_cast<const int16_t*>(a.data)[at];
    case fl::kU16:
      return static_cast<const uint16_t*>(a.data)[at];
    case fl::kI32:
      return static_cast<const int32_t*>(a.data)[at];
    case fl::kU32:
      return static_cast<const uint32_t*>(a.data)[at];
    default:
      return static_cast<const int64_t*>(a.data)[at];
  }
}

__device__ __forceinline__ fl::Interpolated input_of(const Tiling& t, int axis, int output) {
  return fl::interpolated(output, t.inputs[axis], t.outputs[axis], t.mode, t.align_corners);
}
// The first output whose first input is at least j: a guess, then the steps that rounding makes of it.
__device__ __noinline__ inline int first_output(const Tiling& t, int a, int j) {
  const int in = t.inputs[a], out = t.outputs[a];
  if (j <= 0) return 0;
  if (j >= in) return out;
  const bool linear = t.mode >= fl::kInterpolateLinear;
  const double ratio = static_cast<double>(out) / in;
  double at = linear ? (j + 0.5) * ratio - 0.5 : j * ratio - (t.mode == fl::kInterpolateNearest ? 0.0 : 0.5);
  if (linear && t.align_corners) at = in > 1 ? j * (static_cast<double>(out - 1) / (in - 1)) : 0.0;
  int o = static_cast<int>(at < 0.0 ? 0.0 : (at > out ? out : at));
  while (o < out && input_of(t, a, o).first < j) ++o;
  while (o > 0 && input_of(t, a, o - 1).first >= j) --o;
  return o;
}

// By the block: tile `number` of the planes of its part, up to its tables.
template <int kV>
__device__ __forceinline__ void place(const Tiling& t, bool gradient, int64_t sample, uint32_t number, Tile& b,
                                      const TileMemory& m) {
  const int me = threadIdx.x, all = blockDim.x;
  if (me < 3) {
    const int plane = t.count[0] * t.count[1] * t.count[2], rest = number % plane;
    const int at =
        me == 2 ? rest % t.count[2] : (me == 1 ? rest / t.count[2] % t.count[1] : rest / t.count[2] / t.count[1]);
    const int from = at * t.size[me], to = min(from + t.size[me], t.inputs[me]);
    const int low = gradient && t.mixes[me] ? max(from - 1, 0) : from;
    b.low[me] = low, b.cells[me] = to - low, b.reads[me] = min(to + (t.mixes[me] ? 1 : 0), t.inputs[me]) - low;
    b.own[me] = from - low, b.owned[me] = to - from;
    if (me == 0) b.sample = sample + number / plane;
  }
  __syncthreads();
  if (me / 64 < 3 && me % 64 <= b.cells[me / 64])
    b.begin[me / 64][me % 64] = first_output(t, me / 64, b.low[me / 64] + me % 64);
  __syncthreads();
  if (me < 3) {
    b.first[me] = b.begin[me][0], b.outputs[me] = b.begin[me][b.cells[me]] - b.first[me];
    for (int j = 0; j <= b.cells[me]; ++j) b.begin[me][j] -= b.first[me];
    int groups = 0;
    for (int j = 0; me == 2 && j <= b.cells[2]; ++j) {
      b.group_begin[j] = groups;
      if (j < b.cells[2]) groups += (b.begin[2][j + 1] - b.begin[2][j] + kV - 1) / kV;
    }
  }
  __syncthreads();
  for (int a = 0; a < 3; ++a)
    for (int o = me; o < b.outputs[a]; o += all) {
      const fl::Interpolated at = input_of(t, a, b.first[a] + o);
      m.cell[a][o] = static_cast<int>(at.first) - b.low[a];
      m.weight[a][o] = t.mixes[a] ? static_cast<float>(at.weight) : 0.0f;
    }
  for (int j = me; j < b.cells[2]; j += all)
    for (int g = b.group_begin[j]; g < b.group_begin[j + 1]; ++g)
      m.group_cell[g] = j, m.group_start[g] = b.begin[2][j] + (g - b.group_begin[j]) * kV;
  __syncthreads();
}

// The inputs of the tile, of `channels` classes from `channel` on.
__device__ __forceinline__ void load_inputs(const Tiling& t, const Tile& b, const TileMemory& m, int64_t channel,
                                            int channels) {
  const Array& x = t.low;
  const int plane = b.reads[1] * b.reads[2], all = b.reads[0] * plane;
  for (int i = threadIdx.x; i < all * channels; i += blockDim.x) {
    const int c = i / all, rest = i - c * all, z = rest / plane, y = rest % plane / b.reads[2], w = rest % b.reads[2];
    m.logits[c * t.reads + rest] =
        float_at(x, b.sample * x.sample + (channel + c) * x.channel + (b.low[0] + z) * x.space[0] +
                        (b.low[1] + y) * x.space[1] + (b.low[2] + w) * x.space[2]);
  }
}

// A thread's outputs: a group of a row.
template <int kV>
struct Group {
  int count = 0;  // outputs; 0: none is there
  int corner[4];  // where each row of inputs begins
  float share[4];
  int rows, step;  // step: to the second input of a row
  float on[kV], next[kV];
  int64_t at[3];  // the first output

  __device__ __forceinline__ Group(const Tiling& t, const Tile& b, const TileMemory& m, int item, int items) {
    rows = (t.mixes[0] ? 2 : 1) * (t.mixes[1] ? 2 : 1);
    const int groups = b.group_begin[b.cells[2]], row = item < items ? item / groups : 0;
    const int g = item < items ? item - row * groups : 0, z = row / b.outputs[1], y = row - z * b.outputs[1];
    const int start = m.group_start[g], cell = m.group_cell[g];
    if (item < items) count = min(kV, b.begin[2][cell + 1] - start);
    at[0] = b.first[0] + z, at[1] = b.first[1] + y, at[2] = b.first[2] + start;
    const int cz = m.cell[0][z], cy = m.cell[1][y], plane = b.reads[1] * b.reads[2];
    const float wz = m.weight[0][z], wy = m.weight[1][y];
    step = t.mixes[2] && cell + 1 < b.reads[2] ? 1 : 0;
    const int up = cy + 1 < b.reads[1] ? b.reads[2] : 0, back = cz + 1 < b.reads[0] ? plane : 0;
    const int from = cz * plane + cy * b.reads[2] + cell;
    if (t.mixes[1]) {
      corner[0] = from, corner[1] = from + up, corner[2] = from + back, corner[3] = from + back + up;
      share[0] = (1.0f - wz) * (1.0f - wy), share[1] = (1.0f - wz) * wy, share[2] = wz * (1.0f - wy),
      share[3] = wz * wy;
    } else {
      corner[0] = from, corner[1] = from + back, corner[2] = corner[3] = from;
      share[0] = 1.0f - wz, share[1] = wz, share[2] = share[3] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kV; ++i) next[i] = i < count ? m.weight[2][start + i] : 0.0f, on[i] = 1.0f - next[i];
  }

  // The outputs' logits, from a class's inputs.
  __device__ __forceinline__ void mix(const Tiling& t, const float* inputs, float (&x)[kV]) const {
    float left = share[0] * inputs[corner[0]], right = share[0] * inputs[corner[0] + step];
#pragma unroll
    for (int r = 1; r < 4; ++r) {
      if (r >= rows) break;
      left = fl::fma_(share[r], inputs[corner[r]], left), right = fl::fma_(share[r], inputs[corner[r] + step], right);
    }
#pragma unroll
    for (int i = 0; i < kV; ++i) x[i] = t.mixes[2] ? fl::fma_(right, next[i], left * on[i]) : left;
  }
  // What the gradient of the outputs gives the two inputs of a row, before the rows' shares.
  __device__ __forceinline__ void unmix(const float (&g)[kV], float& left, float& right) const {
    left = right = 0.0f;
#pragma unroll
    for (int i = 0; i < kV; ++i) left = fl::fma_(g[i], on[i], left), right = fl::fma_(g[i], next[i], right);
    if (step == 0) left += right, right = 0.0f;
  }
  __device__ __forceinline__ int64_t offset(const Array& a, int64_t sample, int64_t channel, int i) const {
    return sample * a.sample + channel * a.channel + at[0] * a.space[0] + at[1] * a.space[1] + (at[2] + i) * a.space[2];
  }
};

}  // namespace fl_cuda

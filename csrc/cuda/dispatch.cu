// From a problem to the kernels' arguments, and the pieces that all launches share.
#include "dispatch.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

#include "../math/elements.h"
#include "topk.h"

namespace fl_cuda {
namespace {

constexpr int64_t kPartialBytes = 1 << 19;  // that blocks may leave, beyond one block a multiprocessor

struct PoolPart {
  double numbers[kPool];
};
__global__ void store_pool(const FL_GRID_CONSTANT PoolPart part, double* to, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) to[i] = part.numbers[i];
}

int64_t histogram_bytes(const Work& w, int terms) {
  return (w.wide ? histograms_of<double>(terms) : histograms_of<float>(terms)) * fl::kRadixBins * sizeof(*w.histogram);
}

int64_t most_blocks(const Work& w) {
  const int64_t few = device().processors, many = 4 * few;
  const int64_t fit = kPartialBytes / (8 * partials_of(w) + 1);
  return w.parts + (fit < few ? few : (fit > many ? many : fit));
}

// The workspace, in this order, each piece 256-byte aligned.
struct Layout {
  int64_t partials, totals, sums, grad_sums, aux, histogram, pool, keys, end;
};
Layout layout_of(const Work& w, int64_t pool) {
  Layout at{};
  int64_t next = 0;
  const auto take = [&](int64_t bytes) {
    const int64_t here = next;
    next += (bytes + 255) / 256 * 256;
    return here;
  };
  int topk = 0;
  for (int i = 0; i < w.spec.n_terms; ++i) topk += w.spec.terms[i].kind == fl::kTopk;
  at.partials = take(most_blocks(w) * partials_of(w) * 8);
  at.totals = take(kTotals * 8);
  at.sums = take(sums_size(w) * 8);
  at.grad_sums = take(sums_size(w) * 8);
  at.aux = take(fl::kMaxTerms * fl::kAuxColumns * 8);
  at.histogram = take(topk ? histogram_bytes(w, topk) : 0);
  at.pool = take(pool > kPool ? pool * 8 : 0);
  at.keys = take(topk && is_softmax(w) && !keys_in_gradient(w) ? w.samples * w.pixels * (w.wide ? 8 : 4) : 0);
  at.end = next;
  return at;
}

// Which sums the terms use.
void set_slots(Work& w) {
  Slots& s = w.slots;
  bool per_class[fl::kFixedSums] = {}, wanted[fl::kFixedSums] = {};
  for (int c = fl::kInter; c < fl::kFixedSums; ++c) per_class[c] = true;
  per_class[fl::kValid] = !is_softmax(w);
  wanted[fl::kValid] = true;
  for (int i = 0; i < w.spec.n_terms; ++i) {
    const fl::Term& t = w.spec.terms[i];
    if (t.region()) {
      wanted[fl::kInter] = wanted[fl::kPred] = wanted[fl::kTarget] = true;
      wanted[fl::kPredSq] |= t.squared, wanted[fl::kTargetSq] |= t.squared, wanted[fl::kAbsDiff] |= t.l1;
      wanted[fl::kPredSqTarget] |= t.crossed;
    }
    wanted[fl::kTarget] |= t.weighted_mean() && w.class_indices;
  }
  for (int8_t& at : s.column) at = -1;
  int next = 0;
  for (int pass = 0; pass < 2; ++pass) {
    for (int c = 0; c < fl::kFixedSums; ++c)
      if (wanted[c] && per_class[c] == (pass == 0)) s.column[c] = static_cast<int8_t>(next++);
    if (pass == 0) {
      if (w.counting) s.counts = static_cast<int8_t>(next), next += 4;
      s.per_class = next;
    }
  }
  for (int i = 0; i < w.spec.n_terms; ++i)
    if (!w.spec.terms[i].region()) s.column[fl::kFixedSums + i] = static_cast<int8_t>(next++);
  s.bad = static_cast<int8_t>(next++);
  s.scalars = next - s.per_class;
}

// The gradient needs no sum: only pointwise terms, whose denominators are known.
bool is_at_once(const Work& w) {
  if (w.spec.any_region() || w.spec.any(fl::kTopk) || w.known_valid < 0.0) return false;
  for (int i = 0; i < w.spec.n_terms; ++i) {
    const fl::Term& t = w.spec.terms[i];
    if (t.weighted_mean() && t.reduction == fl::kMean && w.class_indices) return false;
  }
  return true;
}

int64_t pool_size(const CudaProblem& q, const Work& w) { return q.n_floats - w.spec.n_terms * fl::kTermFloats; }

// All but what lies in the workspace.
const char* prepare(const CudaProblem& q, Work& w) {
  if (const char* bad = fl::parse_spec(q.ints, q.n_ints, q.floats, q.n_floats, &w.spec)) return bad;
  for (int i = 0; i < w.spec.n_terms; ++i) {
    fl::Term& t = w.spec.terms[i];
    w.pool_at[i] = t.vector ? static_cast<int>(t.vector - (q.floats + w.spec.n_terms * fl::kTermFloats)) : 0;
    t.vector = nullptr;
  }
  w.x = q.x, w.y = q.y, w.mask = q.mask, w.pixel_weight = q.pixel_weight, w.out = q.out;
  w.samples = q.samples, w.channels = q.channels;
  w.pixels = 1;
  for (int i = 0; i < 3; ++i) w.space[i] = q.space[i], w.pixels *= q.space[i];
  w.class_indices = q.ids, w.masked = q.mask.data || w.spec.has_ignore, w.wide = q.x.dtype == fl::kF64;
  w.groups = q.groups;
  for (int i = 0; i < w.spec.n_terms; ++i) w.weights[i] = q.weights[i];
  w.grad_output = q.grad_output, w.grad_output_value = q.grad_output_value;
  w.logit_threshold = w.wide ? fl::logit_threshold<double>(q.threshold) : fl::logit_threshold<float>(q.threshold);
  const bool softmax = is_softmax(w);
  w.known_valid = w.masked ? -1.0 : static_cast<double>(w.samples) * (softmax ? 1 : w.channels) * w.pixels;
  w.counting = q.counts != nullptr;
  w.by_sample = w.groups != 1 || w.counting;
  w.parts = (w.by_sample ? w.samples : 1) * (softmax ? 1 : w.channels);
  w.planes = w.by_sample ? 1 : w.samples;
  w.at_once = is_at_once(w);
  w.by_columns = FastDivisor(static_cast<uint32_t>(columns_of(w)));
  w.by_channels = FastDivisor(static_cast<uint32_t>(w.channels > 0 ? w.channels : 1));
  set_slots(w);
  w.loss = q.loss, w.values = q.values, w.sums = q.sums, w.grad_sums = q.grad_sums, w.aux = q.aux, w.counts = q.counts;
  w.scale = q.scale, w.predicted = q.predicted;
  return nullptr;
}

// The vectors of the terms, if they fit the kernels' arguments.
bool copy_pool(const CudaProblem& q, Work& w) {
  const int64_t pool = pool_size(q, w);
  if (pool > 0 && pool <= kPool)
    std::memcpy(w.pool, q.floats + w.spec.n_terms * fl::kTermFloats, pool * sizeof(double));
  return pool <= kPool;
}

}  // namespace

const char* begin(const CudaProblem& q, CudaCall& c) {
  Work& w = c.w;
  if (const char* bad = prepare(q, w)) return bad;
  c.stream = static_cast<cudaStream_t>(q.stream);
  const int64_t pool = pool_size(q, w);
  const Layout at = layout_of(w, pool);
  unsigned char* memory = static_cast<unsigned char*>(q.workspace);
  const auto doubles = [&](int64_t offset) { return reinterpret_cast<double*>(memory + offset); };
  w.partials = doubles(at.partials), w.totals = doubles(at.totals);
  if (!w.sums) w.sums = doubles(at.sums);
  if (!w.grad_sums) w.grad_sums = doubles(at.grad_sums);
  if (!w.aux) w.aux = doubles(at.aux);
  w.histogram = reinterpret_cast<unsigned long long*>(memory + at.histogram);
  w.keys = memory + at.keys;
  if (copy_pool(q, w)) return nullptr;
  const double* numbers = q.floats + w.spec.n_terms * fl::kTermFloats;
  w.far_pool = doubles(at.pool);
  for (int64_t i = 0; i < pool; i += kPool) {
    PoolPart part;
    const int n = static_cast<int>(pool - i < kPool ? pool - i : kPool);
    std::memcpy(part.numbers, numbers + i, n * sizeof(double));
    const cudaError_t error = FL_LAUNCH(store_pool, 1, 256, 0, c.stream, part, doubles(at.pool) + i, n);
    if (error != cudaSuccess) return fault(error);
  }
  return nullptr;
}

namespace {

Device ask() {
  Device d;
  int id = 0, cooperative = 0;
  if (cudaGetDevice(&id) != cudaSuccess) return d;
  cudaDeviceGetAttribute(&d.processors, cudaDevAttrMultiProcessorCount, id);
  cudaDeviceGetAttribute(&d.block_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, id);
  cudaDeviceGetAttribute(&d.shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, id);
  cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, id);
  d.cooperative = cooperative != 0;
  return d;
}

}  // namespace

const Device& device() {
  static Device known[64];
  static std::once_flag asked[64];
  int id = 0;
  cudaGetDevice(&id);
  id %= 64;
  std::call_once(asked[id], [&] { known[id] = ask(); });
  return known[id];
}

Path forced_path() {
  static const Path path = [] {
    const char* name = std::getenv("FASTLOSS_CUDA_PATH");
    const std::string wish = name ? name : "";
    return wish == "resident" ? kResident : (wish == "split" ? kSplit : kAuto);
  }();
  return path;
}

const char* fault(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // it is reported here, and must not show up in someone else's check
  return cudaGetErrorString(error);
}

bool packed(const Work& w, const Array& a, int64_t samples, int64_t bytes) {
  const int64_t size = fl::bytes_of(a.dtype);
  const auto axis = [&](int i, int64_t stride) { return w.space[i] == 1 || a.space[i] == stride; };
  if (!axis(2, 1) || !axis(1, w.space[2]) || !axis(0, w.space[1] * w.space[2])) return false;
  const bool sample = samples <= 1 || a.sample * size % bytes == 0;
  const bool channel = w.channels <= 1 || a.channel * size % bytes == 0;
  return reinterpret_cast<uintptr_t>(a.data) % bytes == 0 && sample && channel;
}

int64_t blocks_for_sums(const Work& w) { return most_blocks(w); }

Launch divide(const Work& w, Phase phase, int64_t tile, int64_t limit) {
  Launch l{};
  const int64_t each = (w.pixels + tile - 1) / tile;
  l.phase = phase;
  l.tiles_per_plane = FastDivisor(static_cast<uint32_t>(each > 0 ? each : 1));
  l.tiles = static_cast<uint32_t>(each * w.planes);
  const int64_t whole = limit < most_blocks(w) ? limit : most_blocks(w);
  const int64_t fair = w.parts > 0 ? whole / w.parts : 1, most = l.tiles > 0 ? l.tiles : 1;
  l.blocks = static_cast<uint32_t>(fair < 1 ? 1 : (fair > most ? most : fair));
  return l;
}

cudaError_t empty_histograms(const Work& w, int terms, cudaStream_t stream) {
  return cudaMemsetAsync(w.histogram, 0, histogram_bytes(w, terms), stream);
}

namespace {

const char* run(const CudaProblem& q, const char* (*sigmoid)(CudaCall&), const char* (*softmax)(CudaCall&),
                bool forward = false, bool rescaling = false) {
  CudaCall c{};
  c.forward = forward, c.rescaling = rescaling;
  if (const char* bad = begin(q, c)) return bad;
  return is_softmax(c.w) ? softmax(c) : sigmoid(c);
}

}  // namespace

const char* forward(const CudaProblem& q) { return run(q, sigmoid_forward, softmax_forward, true); }
const char* backward(const CudaProblem& q) { return run(q, sigmoid_backward, softmax_backward); }
const char* rescale_grad(const CudaProblem& q) { return run(q, sigmoid_backward, softmax_backward, false, true); }
const char* elementwise(const CudaProblem& q) { return run(q, sigmoid_elementwise, softmax_elementwise); }

fl::CallPath path(const CudaProblem& q) {
  Work w{};
  if (prepare(q, w)) return fl::kOtherTerm;
  static double far;
  if (!copy_pool(q, w)) w.far_pool = &far;
  return is_softmax(w) ? softmax_path(w) : sigmoid_path(w);
}

int64_t workspace_bytes(const CudaProblem& q) {
  Work w{};
  if (prepare(q, w)) return 0;
  return layout_of(w, pool_size(q, w)).end;
}

const char* reason() {
  cudaFuncAttributes own;
  return fault(cudaFuncGetAttributes(&own, store_pool));
}

}  // namespace fl_cuda

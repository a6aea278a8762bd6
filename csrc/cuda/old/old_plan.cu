// From a problem to the kernels' argument, and the pieces that all launches share.
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

#include "../../math/elements.h"
#include "finish.h"
#include "launch.h"
#include "topk.h"

namespace fl_old {
namespace {

constexpr int kFinishThreads = 512, kReduceThreads = 256;
constexpr int64_t kFewRecords = 1 << 14;  // numbers in records that one block reduces as fast as many would

__global__ void __launch_bounds__(kReduceThreads) reduce(const FL_GRID_CONSTANT Params p) {
  reduce_records(p, p.reduced, blockIdx.x, gridDim.x);
}
__global__ void __launch_bounds__(kFinishThreads) finish_sums(const FL_GRID_CONSTANT Params p) {
  __shared__ FinishScratch s;
  finish(p, s);
}

struct PoolPart {
  double numbers[kPool];
};
__global__ void store_pool(const FL_GRID_CONSTANT PoolPart part, double* to, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) to[i] = part.numbers[i];
}

// The workspace, in this order, each piece 256-byte aligned.
struct Layout {
  int64_t records, reduced, sums, dsums, aux, histogram, selection, pool, keys, end;
};
Layout layout_of(const Params& p, int64_t pool) {
  Layout at{};
  int64_t next = 0;
  const auto take = [&](int64_t bytes) {
    const int64_t here = next;
    next += (bytes + 255) / 256 * 256;
    return here;
  };
  const int64_t blocks = p.parts + 1 + 8 * static_cast<int64_t>(device().processors);
  const bool topk = p.spec.any(fl::kTopk), softmax = p.spec.activation == fl::kSoftmax;
  at.records = take(blocks * record_size(p) * 8);
  at.reduced = take(p.parts * record_size(p) * 8);
  at.sums = take(sums_size(p) * 8);
  at.dsums = take(sums_size(p) * 8);
  at.aux = take(fl::kMaxTerms * fl::kAuxColumns * 8);
  at.histogram = take(topk ? histograms_of(p.spec, p.wide) * fl::kRadixBins * 8 : 0);
  at.selection = take(sizeof(Selection));
  at.pool = take(pool > kPool ? pool * 8 : 0);
  at.keys = take(topk && softmax ? p.samples * p.pixels * (p.wide ? 8 : 4) : 0);
  at.end = next;
  return at;
}

const char* parse(const Problem& q, Params& p) {
  const char* bad = fl::parse_spec(q.ints, q.n_ints, q.floats, q.n_floats, &p.spec);
  if (bad) return bad;
  for (int i = 0; i < p.spec.n_terms; ++i) {
    fl::Term& t = p.spec.terms[i];
    p.pool_at[i] = t.vector ? static_cast<int>(t.vector - (q.floats + p.spec.n_terms * fl::kTermFloats)) : 0;
    t.vector = nullptr;
  }
  return nullptr;
}
int64_t pool_size(const Problem& q, const Params& p) { return q.n_floats - p.spec.n_terms * fl::kTermFloats; }

// All but what lies in the workspace.
const char* prepare(const Problem& q, Params& p) {
  if (const char* bad = parse(q, p)) return bad;
  p.x = q.x, p.y = q.y, p.mask = q.mask, p.pixel_weight = q.pixel_weight, p.out = q.out;
  p.samples = q.samples, p.channels = q.channels;
  p.pixels = 1;
  for (int i = 0; i < 3; ++i) p.space[i] = q.space[i], p.pixels *= q.space[i];
  p.ids = q.ids, p.masked = q.mask.data || p.spec.has_ignore, p.wide = q.x.dtype == fl::kF64;
  p.groups = q.groups;
  for (int i = 0; i < p.spec.n_terms; ++i) p.weights[i] = q.weights[i];
  p.upstream = q.grad_output, p.upstream_value = q.grad_output_value;
  p.cut = p.wide ? fl::probability_cut<double>(q.threshold) : fl::probability_cut<float>(q.threshold);
  const bool softmax = p.spec.activation == fl::kSoftmax;
  p.known_valid = p.masked ? -1.0 : static_cast<double>(p.samples) * (softmax ? 1 : p.channels) * p.pixels;
  p.counting = q.counts != nullptr;
  p.by_sample = p.groups != 1 || p.counting;
  p.parts = (p.by_sample ? p.samples : 1) * (softmax ? 1 : p.channels);
  p.planes = p.by_sample ? 1 : p.samples;
  p.pointwise = -1;
  p.loss = q.loss, p.values = q.values, p.sums = q.sums, p.dsums = q.dsums, p.aux = q.aux, p.counts = q.counts;
  p.scale = q.scale, p.predicted = q.predicted;
  return nullptr;
}

const char* begin(const Problem& q, Call& c) {
  Params& p = c.p;
  if (const char* bad = prepare(q, p)) return bad;
  c.stream = static_cast<cudaStream_t>(q.stream);
  const int64_t pool = pool_size(q, p);
  const Layout at = layout_of(p, pool);
  unsigned char* memory = static_cast<unsigned char*>(q.workspace);
  const auto doubles = [&](int64_t offset) { return reinterpret_cast<double*>(memory + offset); };
  p.records = doubles(at.records), p.reduced = doubles(at.reduced);
  if (!p.sums) p.sums = doubles(at.sums);
  if (!p.dsums && q.loss) p.dsums = doubles(at.dsums);
  if (!p.aux) p.aux = doubles(at.aux);
  p.histogram = reinterpret_cast<unsigned long long*>(memory + at.histogram);
  p.selection = reinterpret_cast<Selection*>(memory + at.selection);
  p.keys = memory + at.keys;
  const double* numbers = q.floats + p.spec.n_terms * fl::kTermFloats;
  if (pool <= kPool) {
    if (pool) std::memcpy(p.pool, numbers, pool * sizeof(double));
    return nullptr;
  }
  p.far_pool = doubles(at.pool);
  for (int64_t i = 0; i < pool; i += kPool) {
    PoolPart part;
    const int n = static_cast<int>(pool - i < kPool ? pool - i : kPool);
    std::memcpy(part.numbers, numbers + i, n * sizeof(double));
    const cudaError_t error = FL_LAUNCH(store_pool, 1, 256, 0, c.stream, part, doubles(at.pool) + i, n);
    if (error != cudaSuccess) return fault(error);
  }
  return nullptr;
}

Device ask() {
  Device d;
  int id = 0, cooperative = 0;
  if (cudaGetDevice(&id) != cudaSuccess) return d;
  cudaDeviceGetAttribute(&d.processors, cudaDevAttrMultiProcessorCount, id);
  cudaDeviceGetAttribute(&d.block_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, id);
  cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, id);
  d.block_shared -= 1024, d.shared = d.block_shared;
  cudaFuncAttributes own;
  if (cudaFuncGetAttributes(&own, finish_sums) == cudaSuccess) d.shared -= static_cast<int>(own.sharedSizeBytes);
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
    const std::pair<const char*, Path> names[] = {
        {"resident", kResident}, {"shared", kShared}, {"split", kSplit}, {"small", kSmall}};
    for (const auto& known : names)
      if (wish == known.first) return known.second;
    return kAuto;
  }();
  return path;
}

const char* fault(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // it is reported here, and must not show up in someone else's check
  return cudaGetErrorString(error);
}

bool packed(const Params& p, const Array& a, int64_t samples, int64_t bytes) {
  const int64_t size = fl::bytes_of(a.dtype);
  const auto axis = [&](int i, int64_t stride) { return p.space[i] == 1 || a.space[i] == stride; };
  if (!axis(2, 1) || !axis(1, p.space[2]) || !axis(0, p.space[1] * p.space[2])) return false;
  const bool sample = samples <= 1 || a.sample * size % bytes == 0;
  const bool channel = p.channels <= 1 || a.channel * size % bytes == 0;
  return reinterpret_cast<uintptr_t>(a.data) % bytes == 0 && sample && channel;
}

void divide(Params& p, int64_t parts, int64_t planes, int64_t tile, int64_t limit) {
  const int64_t each = (p.pixels + tile - 1) / tile;
  p.tiles_per_plane = FastDivisor(static_cast<uint32_t>(each > 0 ? each : 1));
  p.tiles = static_cast<uint32_t>(each * planes);
  const int64_t fair = parts > 0 ? limit / parts : 1;
  const int64_t most = p.tiles > 0 ? p.tiles : 1;
  p.blocks = static_cast<uint32_t>(fair < 1 ? 1 : (fair > most ? most : fair));
}

cudaError_t launch_finish(const Params& given, cudaStream_t stream) {
  Params p = given;
  const int64_t numbers = p.parts * record_size(p);
  if (numbers * p.blocks > kFewRecords) {
    const int64_t warps = (numbers + kReduceThreads / kWarp - 1) / (kReduceThreads / kWarp);
    const int64_t limit = 8 * device().processors;
    const cudaError_t error = FL_LAUNCH(reduce, warps < limit ? warps : limit, kReduceThreads, 0, stream, p);
    if (error != cudaSuccess) return error;
    p.is_reduced = true;
  }
  return FL_LAUNCH(finish_sums, 1, kFinishThreads, 0, stream, p);
}

const char* forward(const Problem& q) {
  Call c{};
  c.forward = true;
  if (const char* bad = begin(q, c)) return bad;
  return softmax_forward(c);
}

const char* backward(const Problem& q) {
  Call c{};
  if (const char* bad = begin(q, c)) return bad;
  return softmax_backward(c);
}

const char* settle(const Problem& q) {
  Call c{};
  if (const char* bad = begin(q, c)) return bad;
  c.p.settling = true;
  return softmax_backward(c);
}

const char* elementwise(const Problem& q) {
  Call c{};
  if (const char* bad = begin(q, c)) return bad;
  return softmax_elementwise(c);
}

int64_t workspace_bytes(const Problem& q) {
  Params p{};
  if (prepare(q, p)) return 0;
  return layout_of(p, pool_size(q, p)).end;
}

const char* reason() {
  cudaFuncAttributes own;
  return fault(cudaFuncGetAttributes(&own, finish_sums));
}

}  // namespace fl_old

// Multiclass: the fast kernels where they apply, the general ones elsewhere.
#include "launch.h"

namespace fl_cuda {
namespace {

// An ignored label that the labels' type cannot hold ignores nothing.
bool fits(int64_t v, int dtype) {
  if (dtype == fl::kI64) return true;
  const bool is_signed = dtype == fl::kI8 || dtype == fl::kI16 || dtype == fl::kI32;
  if (v < 0) return is_signed && v >= -(int64_t(1) << (8 * fl::bytes_of(dtype) - 1));
  const int bits = dtype == fl::kBool ? 1 : 8 * fl::bytes_of(dtype) - is_signed;
  return bits >= 63 || v < int64_t(1) << bits;
}

Steps steps_of(const Work& w, const Array& a, int width, int vector) {
  Steps s;
  int64_t expected = -1;
  for (int i = 2; i >= 0; --i) {
    if (w.space[i] == 1) continue;
    if (expected < 0) s.pixel = a.space[i], expected = s.pixel;
    if (a.space[i] != expected) s.pixel = -1;
    expected *= w.space[i];
  }
  const int64_t bytes = static_cast<int64_t>(width) * vector;
  s.vectors = a.data && packed(w, a, w.samples, bytes < 16 ? bytes : 16) &&
              a.channel * fl::bytes_of(a.dtype) <= static_cast<int64_t>(UINT32_MAX);
  const int64_t size = fl::bytes_of(a.dtype);
  s.interleaved = a.data && !s.vectors && w.channels > 1 && a.channel == 1 && s.pixel == w.channels &&
                  reinterpret_cast<uintptr_t>(a.data) % 16 == 0 && (w.samples == 1 || a.sample * size % 16 == 0);
  return s;
}

fl::CallPath path_of(const Work& w) {
  int smoothed = 0;
  for (int i = 0; i < w.spec.n_terms; ++i)
    smoothed += !w.spec.terms[i].region() && w.spec.terms[i].label_smoothing != 0.0;
  if (w.wide) return fl::kWideLogits;
  if (!w.class_indices) return fl::kDenseTarget;
  if (w.spec.any_squared()) return fl::kSquaredSums;
  if (w.spec.any(fl::kPoly) || w.spec.any(fl::kLogPower) || w.spec.any(fl::kWasserstein)) return fl::kOtherTerm;
  if (smoothed > 1) return fl::kSeveralTerms;
  Launch l;
  Plan p = plan_of(w);
  int64_t shared = 0;
  return lay_fast(w, kSumPhase, l, p, shared) ? fl::kFastCall : fl::kManyClasses;
}

const char* run(CudaCall& c, Errand errand) {
  const Work& w = c.w;
  if (w.parts == 0) {
    if (errand != kForward) return nullptr;
    const cudaError_t error = cudaMemsetAsync(c.w.aux, 0, w.spec.n_terms * fl::kAuxColumns * 8, c.stream);
    return fault(error == cudaSuccess ? launch_epilogue(w, divide(w, kSumPhase, 1, 1), c.stream) : error);
  }
  if (path_of(w) != fl::kFastCall)
    return fault(w.wide ? softmax_general_errand<double>(c, errand) : softmax_general_errand<float>(c, errand));
  return fault(w.x.dtype == fl::kF32 ? softmax_fast_errand<float>(c, errand) : softmax_fast_errand<Half16>(c, errand));
}

}  // namespace

Plan plan_of(const Work& w) {
  Plan p;
  for (int i = 0; i < w.spec.n_terms; ++i) {
    const fl::Term& t = w.spec.terms[i];
    if (t.region()) continue;
    if (t.label_smoothing != 0.0) p.smooth = p.terms;
    p.picks += t.kind == fl::kTopk, ++p.terms;
  }
  p.flats = p.smooth >= 0, p.counting = w.counting;
  p.region = w.slots.column[fl::kPred] >= 0;
  p.slots = p.region || w.slots.column[fl::kTarget] >= 0;
  p.brain = w.x.dtype == fl::kBF16, p.dense = !w.class_indices;
  p.ignoring = w.spec.has_ignore && w.class_indices && fits(w.spec.ignore_index, w.y.dtype);
  p.label_bytes = fl::bytes_of(w.y.dtype);
  p.ignored = static_cast<uint64_t>(w.spec.ignore_index) & (~uint64_t(0) >> (64 - 8 * p.label_bytes));
  p.width = FastDivisor(static_cast<uint32_t>(w.space[2] > 0 ? w.space[2] : 1));
  p.height = FastDivisor(static_cast<uint32_t>(w.space[1] > 0 ? w.space[1] : 1));
  p.classes = FastDivisor(static_cast<uint32_t>(w.channels > 0 ? w.channels : 1));
  return p;
}

void set_steps(const Work& w, int width, Plan& p) {
  for (const auto& [steps, array] : {std::pair<Steps*, const Array*>{&p.x, &w.x},
                                     {&p.y, &w.y},
                                     {&p.mask, &w.mask},
                                     {&p.weight, &w.pixel_weight},
                                     {&p.out, &w.out}})
    *steps = steps_of(w, *array, width, fl::bytes_of(array->dtype));
  const bool mask = !w.mask.data || (p.mask.vectors && w.class_indices);
  p.vectors = (p.dense || p.y.vectors) && mask &&
              (!w.pixel_weight.data || (p.weight.vectors && w.pixel_weight.dtype == fl::kF32));
}

bool lay_fast(const Work& w, Phase phase, Launch& l, Plan& p, int64_t& shared) {
  constexpr int kV = 4;
  const int64_t rows = w.channels;
  bool found = false;
  const auto lay = [&](int slices, int threads, int blocks) {
    if (threads / kWarp % slices != 0) return false;
    Plan q = p;
    q.slices = slices, q.threads = threads, q.blocks = blocks;
    q.share = static_cast<int>((rows + slices - 1) / slices);
    if (slices > 1) q.share = (q.share + 3) / 4 * 4;
    Memory m{lay_out<float>(w, threads, kV, kLevels<float>, q)};
    q.rows = m.take(q.region ? 2 * q.share * threads * 4 : 0);
    q.pixels = m.take(q.slots ? rows * 4 : 0);
    q.seen = m.take(w.counting ? 3 * q.share * threads * 4 : 0);
    q.stage = m.take(0);
    const int64_t share = device().shared / blocks - 1024, most = device().block_shared;
    const int64_t room = (share < most ? share : most) - kOwnShared - m.next;
    int64_t stage = threads / kWarp / slices * rows * kRowBytes;
    Launch own = divide(w, phase, kWarp * kV, blocks * device().processors);
    const int64_t units = (own.tiles + own.blocks - 1) / own.blocks, unit = (rows + kPixelRows) * kRowBytes;
    const bool all = phase == kAllPhases && units * unit <= room;
    if (!all && (found || stage > room)) return false;
    if (all) stage = 0;
    own.kept = static_cast<int>(all ? units : (phase == kAllPhases ? (room - stage) / unit : 0));
    q.kept = q.stage + static_cast<uint32_t>(stage);
    l = own, p = q, shared = q.kept + own.kept * unit, found = true;
    return all || phase != kAllPhases;
  };
  // Sixteen warps of a multiprocessor if there is room for as many, the fewest that share pixels.
  for (int slices = 1; slices <= 8 && !found; slices *= 2)
    for (const auto& [threads, blocks] : {std::pair<int, int>{256, 2}, {512, 1}, {384, 1}})
      if (lay(slices, threads, blocks)) return true;
  return found || lay(8, 256, 1) || lay(16, 512, 1) || found;
}

void set_keys(const Work& w, Plan& p) {
  const bool own = keys_in_gradient(w);
  p.keys = own ? w.out.data : w.keys, p.key_sample = own ? w.out.sample : w.pixels;
}

fl::CallPath softmax_path(const Work& w) { return path_of(w); }
const char* softmax_forward(CudaCall& c) { return run(c, kForward); }
const char* softmax_backward(CudaCall& c) { return run(c, kBackward); }
const char* softmax_elementwise(CudaCall& c) { return run(c, kValues); }

}  // namespace fl_cuda

// Binary and multilabel calls: which instance does one, and its launches.
#include "../../math/label.h"
#include "../dispatch.h"
#include "../epilogue.h"
#include "launch.h"

namespace fl_cuda {
namespace {

template <class F>
Instance with_logits(int dtype, const F& f) {
  switch (dtype) {
    case fl::kF16:
      return f(__half());
    case fl::kBF16:
      return f(__nv_bfloat16());
    default:
      return f(float());
  }
}

// A call, and how its pixels are walked over.
struct Plan {
  Instance instance;
  Walk k;
  int64_t packs;  // of a plane, at most
};

bool is_contiguous(const Work& w, const Array& a) {
  const auto axis = [&](int i, int64_t stride) { return w.space[i] == 1 || a.space[i] == stride; };
  return axis(2, 1) && axis(1, w.space[2]) && axis(0, w.space[1] * w.space[2]);
}

// How many elements the first plane of an array begins after a whole pack.
int64_t phase_of(const Array& a) {
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(a.data) / fl::bytes_of(a.dtype) % kPack);
}

// Whether the planes of all arrays are contiguous, and begin at the same distance from a whole pack.
bool has_packs(const Work& w) {
  for (const Array* a : {&w.x, &w.y, &w.mask, &w.out}) {
    if (!a->data) continue;
    if (!is_contiguous(w, *a) || phase_of(*a) != phase_of(w.x)) return false;
    if (w.samples > 1 && (a->sample - w.x.sample) % kPack) return false;
    if (w.channels > 1 && (a->channel - w.x.channel) % kPack) return false;
  }
  return true;
}

// The batch as one long plane, if that is what it is.
bool joins(const Work& w) {
  if (w.by_sample || w.channels > 1) return false;
  for (const Array* a : {&w.x, &w.y, &w.mask, &w.out})
    if (a->data && a->sample != w.pixels) return false;
  return true;
}

// Whether the labels' type has the ignored value, whose bits it gets.
bool can_ignore(const Work& w, uint64_t& bits) {
  const int bytes = fl::bytes_of(w.y.dtype), size = 8 * bytes;
  const bool is_signed = w.y.dtype >= fl::kI8 && w.y.dtype <= fl::kI64;
  const int64_t v = w.spec.ignore_index;
  bits = static_cast<uint64_t>(v) & (bytes == 8 ? ~uint64_t(0) : (uint64_t(1) << size) - 1);
  if (!w.spec.has_ignore || (!is_signed && v < 0)) return false;
  return bytes == 8 || (is_signed ? v >= -(int64_t(1) << (size - 1)) && v < int64_t(1) << (size - 1)
                                  : v < int64_t(1) << size);
}

bool is_fast(const Work& w, FastTerm& term, FastInput& input, int& point) {
  const bool soft = fl::is_float(w.y.dtype);
  if (w.wide || w.counting || w.pixel_weight.data || (soft && w.masked) || !has_packs(w)) return false;
  input = soft ? kSoftInput : (w.masked ? kMaskedInput : kHardInput), term = kNoTerm, point = -1;
  for (int i = 0; i < w.spec.n_terms; ++i) {
    const fl::Term& t = w.spec.terms[i];
    if (t.squared || t.l1) return false;
    if (t.kind == fl::kTversky) continue;
    const bool bce = t.kind == fl::kBce && t.label_smoothing == 0.0;
    const bool focal = t.kind == fl::kFocal && t.gamma == 2.0 && !(t.margin && soft);
    if (point >= 0 || (!bce && !focal)) return false;
    term = bce ? kBceTerm : kFocalTerm, point = i;
  }
  return true;
}

Plan plan_of(const Work& w) {
  Plan p{};
  FastTerm term;
  FastInput input;
  const bool fast = is_fast(w, term, input, p.k.point);
  const bool joined = fast && joins(w);
  p.k.pixels = joined ? w.pixels * w.samples : w.pixels;
  p.k.planes = static_cast<uint32_t>(joined ? 1 : w.planes);
  p.packs = p.k.pixels / kPack;
  p.k.rows = FastDivisor(static_cast<uint32_t>(w.channels > 0 ? w.channels : 1));
  p.k.columns = columns_of(w), p.k.partials = partials_of(w);
  p.k.label_dtype = w.y.dtype, p.k.label_bytes = fl::bytes_of(w.y.dtype);
  p.k.ignores = can_ignore(w, p.k.ignore_index);
  p.k.tolerance = static_cast<float>(fl::label_tolerance(
      w.y.dtype == fl::kF16 ? 0x1p-10 : (w.y.dtype == fl::kBF16 ? 0x1p-7 : 0.0)));
  p.instance = with_logits(w.x.dtype, [&](auto x) { return fast_instance<decltype(x)>(term, input); });
  return p;
}

constexpr int kAlone = 8192;  // so many pixels one block does sooner than blocks that must meet

Launch share_out(const Work& w, Plan& p, Phase phase, int64_t limit) {
  const Instance& i = p.instance;
  Walk& k = p.k;
  Launch l{};
  l.phase = phase;
  const int64_t most = blocks_for_sums(w), whole = phase == kGradPhase || limit < most ? limit : most;
  int64_t fair = w.parts > 0 ? whole / w.parts : 1;
  if (fair < 1 || k.pixels * k.planes <= kAlone) fair = 1;
  const int64_t each = k.planes * p.packs / (fair * i.threads) + 1;
  k.packs = static_cast<int>(each < i.packs ? each : i.packs);
  const int64_t tiles = (p.packs + kWarp * k.packs - 1) / (kWarp * k.packs), warps = i.threads / kWarp;
  l.tiles_per_plane = FastDivisor(static_cast<uint32_t>(tiles > 0 ? tiles : 1));
  l.tiles = static_cast<uint32_t>(tiles * k.planes);
  const int64_t wanted = (l.tiles + warps - 1) / warps;
  l.blocks = static_cast<uint32_t>(wanted < 1 ? 1 : (wanted < fair ? wanted : fair));
  k.blocks = FastDivisor(l.blocks);
  k.turns = static_cast<int>((wanted + l.blocks - 1) / l.blocks);
  const int64_t at_ends = 2 * kPack * k.planes, threads = static_cast<int64_t>(l.blocks) * i.threads;
  const bool ends = k.pixels % kPack || phase_of(w.x) || (k.planes > 1 && w.x.sample % kPack) ||
                    (w.parts > 1 && (w.x.channel % kPack || w.x.sample % kPack));
  k.edge_turns = ends ? static_cast<int>((at_ends + threads - 1) / threads) : 0;
  return l;
}

// Turns that a block keeps in shared memory, as far as it reaches.
size_t keep(const Plan& p, const Work& w, Launch& l) {
  const Instance& i = p.instance;
  if (!i.row) return i.shared;
  const int64_t grid = w.parts * l.blocks, here = (grid + device().processors - 1) / device().processors;
  int64_t room = device().shared / (here < 1 ? 1 : (here > i.blocks ? i.blocks : here)) - 1024;
  if (room > device().block_shared) room = device().block_shared;
  const int64_t turn = static_cast<int64_t>(i.packs) * i.row, most = (room - i.shared - kOwnShared) / turn;
  l.kept = static_cast<int>(most < p.k.turns ? most : p.k.turns);
  return i.shared + l.kept * turn;
}

cudaError_t start(const Plan& p, const Work& w, const Launch& l, size_t shared, bool cooperative, cudaStream_t stream) {
  const int64_t grid = w.parts * l.blocks;
  if (grid == 0) return cudaSuccess;
  if (shared + kOwnShared > 48 << 10) {
    const cudaError_t error =
        cudaFuncSetAttribute(p.instance.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  if (cooperative) return FL_LAUNCH_COOPERATIVE(p.instance.kernel, grid, p.instance.threads, shared, stream, w, l, p.k);
  return FL_LAUNCH(p.instance.kernel, grid, p.instance.threads, shared, stream, w, l, p.k);
}

int64_t blocks_at_once(const Plan& p) { return static_cast<int64_t>(p.instance.blocks) * device().processors; }

}  // namespace

const char* sigmoid_forward(Call& c) {
  const Work& w = c.w;
  Plan p = plan_of(w);
  const int64_t limit = blocks_at_once(p);
  const bool grad = w.out.data, once = grad && w.at_once;
  Launch l = share_out(w, p, once ? kBothPhases : (grad ? kAllPhases : kSumPhase), limit);
  l.finishes = can_meet(w, l, limit) && w.parts > 0 && (forced_path() != kSplit || w.parts * l.blocks == 1);
  cudaError_t error;
  if (l.finishes) {
    const size_t shared = l.phase == kAllPhases ? keep(p, w, l) : p.instance.shared;
    error = start(p, w, l, shared, true, c.stream);
    if (!refused(error)) return fault(error);
  }
  l.finishes = false, l.kept = 0;
  if (!once) l.phase = kSumPhase;
  error = start(p, w, l, p.instance.shared, false, c.stream);
  if (error == cudaSuccess) error = launch_epilogue(w, l, c.stream);
  if (error != cudaSuccess || !grad || once) return fault(error);
  l = share_out(w, p, kGradPhase, limit);
  return fault(start(p, w, l, p.instance.shared, false, c.stream));
}

const char* sigmoid_backward(Call& c) {
  Plan p = plan_of(c.w);
  // One that is likely to find nothing to do has fewer blocks to start.
  Launch l = share_out(c.w, p, kGradPhase, c.rescaling ? device().processors : blocks_at_once(p));
  l.rescaling = c.rescaling;
  return fault(start(p, c.w, l, p.instance.shared, false, c.stream));
}

const char* sigmoid_elementwise(Call& c) {
  Plan p = plan_of(c.w);
  return "not yet";
}

}  // namespace fl_cuda

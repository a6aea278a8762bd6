// Binary and multilabel calls: which instance does one, and its launches.
#include "../dispatch.h"
#include "../topk.h"
#include "choose.h"
#include "elements.h"

namespace fl_cuda {
namespace {

template <class F>
Instance with_logits(int dtype, const F& f) {
  switch (dtype) {
    case fl::kF16:
      return f(__half());
    case fl::kBF16:
      return f(__nv_bfloat16());
    case fl::kF64:
      return f(double());
    default:
      return f(float());
  }
}

// A call, and how its pixels are walked over.
constexpr int64_t kMostInner = 128;  // channels that lanes take

struct Plan {
  Instance instance;
  Walk k;
  int64_t packs;  // of a plane, at most
  bool general;
  int64_t grid;
};

// The strides of an array that count: of axes longer than 1.
bool is_run(const Work& w, const Array& a, int axis) {  // the axes from `axis` on lie at one distance
  int64_t next = 0;
  for (int i = 2; i >= axis; --i) {
    if (w.space[i] == 1) continue;
    if (next && a.space[i] != next) return false;
    next = a.space[i] * w.space[i];
  }
  return true;
}

void plan_general(const Work& w, Plan& p) {
  Walk& k = p.k;
  const Array* arrays[5] = {&w.x, &w.y, &w.mask, &w.pixel_weight, &w.out};
  int first = 0;  // axis of a run; the axes before it are rows
  for (const Array* a : arrays)
    while (a->data && !is_run(w, *a, first)) ++first;
  int axis = 2;  // whose stride is the distance of a run's pixels
  while (axis > first && w.space[axis] == 1) --axis;
  k.pixels = 1;
  for (int i = first; i < 3; ++i) k.pixels *= w.space[i];
  const int64_t runs = k.pixels > 0 ? w.pixels / k.pixels : 0;
  k.runs = FastDivisor(static_cast<uint32_t>(runs > 0 ? runs : 1));
  k.height = FastDivisor(static_cast<uint32_t>(first == 2 && w.space[1] > 0 ? w.space[1] : 1));
  k.planes = static_cast<uint32_t>(w.planes * runs);

  // channels_last: lanes are channels where those lie side by side, and pixels do not.
  const bool side_by_side = w.channels > 1 && w.x.channel == 1 && w.x.space[axis] != 1 && w.channels <= kMostInner;
  k.inner = side_by_side ? static_cast<uint32_t>(w.channels) : 0;
  for (int i = 0; i < 5; ++i) {  // the logits first: the others must agree with them
    const Array& a = *arrays[i];
    const auto agrees = [&](int64_t stride, int64_t other, int64_t size) {
      return size == 1 || (stride - other) % kPack == 0;
    };
    if (!a.data || k.inner || (i > 0 && !(k.whole & 1)) || a.space[axis] != 1 || phase_of(a) != phase_of(w.x)) continue;
    if (agrees(a.sample, w.x.sample, w.samples) && agrees(a.channel, w.x.channel, w.channels) &&
        agrees(a.space[0], w.x.space[0], first > 0 ? w.space[0] : 1) &&
        agrees(a.space[1], w.x.space[1], first > 1 ? w.space[1] : 1))
      k.whole |= 1 << i;
  }
  for (int i = 0; i < kArrays; ++i) {
    k.element_bytes[i] = arrays[i]->data ? fl::bytes_of(arrays[i]->dtype) : 0;
    k.step_bytes[i] = static_cast<int>(arrays[i]->space[axis] * k.element_bytes[i]);
  }
  k.lead = static_cast<int>(phase_of(w.x));
  k.region = w.spec.any_region(), k.logs = w.spec.any_pointwise();
  for (int i = 0; i < w.spec.n_terms; ++i) k.selecting += w.spec.terms[i].kind == fl::kTopk;
  p.general = true;
}

Plan plan_of(const Work& w, bool values = false) {
  Plan p{};
  Walk& k = p.k;
  k.run = FastDivisor(static_cast<uint32_t>(part_run(w) > 0 ? part_run(w) : 1));
  k.columns = columns_of(w), k.partials = partials_of(w);
  k.label_dtype = w.y.dtype, k.label_bytes = fl::bytes_of(w.y.dtype);
  k.ignores = can_ignore(w, k.ignore_index);
  k.tolerance = w.spec.unbounded() ? -1.0f : static_cast<float>(tolerance_of(w.y.dtype));
  FastTerm term;
  FastInput input;
  if (!values && path_of(w, term, input, k.point) == fl::kFastCall) {
    const bool joined = joins(w);
    k.selecting = term == kTopkTerm;
    k.pixels = joined ? w.pixels * w.samples : w.pixels, k.planes = static_cast<uint32_t>(joined ? 1 : w.planes);
    p.packs = k.pixels / kPack;
    p.instance = with_logits(w.x.dtype, [&](auto x) {
      using X = decltype(x);
      if constexpr (sizeof(X) == 8)
        return Instance{};
      else
        return fast_instance<X>(term, input);
    });
  } else {
    plan_general(w, p);
  }
  return p;
}

constexpr int kAlone = 8192;  // so many pixels one block does sooner than blocks that must meet

Launch share_out_general(const Work& w, Plan& p, Phase phase, int64_t limit) {
  Walk& k = p.k;
  const bool sums = phase != kGradPhase && phase != kValuePhase;
  k.selecting = sums ? k.selecting : 0;
  p.instance = with_logits(w.x.dtype, [&](auto x) {
    return general_instance<decltype(x)>(sums ? k.partials : 0, w.spec.n_terms, k.selecting > 0);
  });
  const int64_t threads = p.instance.threads, processors = device().processors;
  k.threads = static_cast<uint32_t>(k.inner ? threads / k.inner * k.inner : threads);
  k.distance = static_cast<int>(k.inner ? k.threads / k.inner : 1);
  const int64_t a_turn = kPack * k.distance;
  k.full_turns = static_cast<uint32_t>(k.pixels / a_turn);
  const int64_t tiles = (k.pixels + (k.whole & 1 ? kPack - 1 : 0) + a_turn - 1) / a_turn;
  Launch l{};
  l.phase = phase;
  l.tiles_per_plane = FastDivisor(static_cast<uint32_t>(tiles > 0 ? tiles : 1));
  l.tiles = static_cast<uint32_t>(tiles * k.planes);
  int64_t most = limit;
  if (sums && p.instance.shared > 0) {
    const int64_t fit = device().shared / (p.instance.shared + kOwnShared + 1024) * processors;
    most = fit < most ? fit : most;
    if (blocks_for_sums(w) < most) most = blocks_for_sums(w);
  }
  const int64_t shares = k.inner ? (w.by_sample ? w.samples : 1) : w.parts;
  const int64_t fair = shares > 0 && most > shares ? most / shares : 1;
  const int64_t turns = k.inner ? l.tiles : (l.tiles + threads - 1) / threads;
  l.blocks = static_cast<uint32_t>(turns < 1 ? 1 : (turns < fair ? turns : fair));
  k.blocks = FastDivisor(l.blocks);
  k.turns = static_cast<int>((turns + l.blocks - 1) / l.blocks);
  p.grid = shares * l.blocks;
  return l;
}

Launch share_out(const Work& w, Plan& p, Phase phase, int64_t limit) {
  if (p.general) return share_out_general(w, p, phase, limit);
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
  p.grid = w.parts * l.blocks;
  return l;
}

// Turns that a block keeps in shared memory, as far as it reaches.
size_t keep(const Plan& p, const Work& w, Launch& l) {
  const Instance& i = p.instance;
  if (!i.row) return i.shared;
  const int64_t grid = p.grid, here = (grid + device().processors - 1) / device().processors;
  int64_t room = device().shared / (here < 1 ? 1 : (here > i.blocks ? i.blocks : here)) - 1024;
  if (room > device().block_shared) room = device().block_shared;
  const int64_t turn = static_cast<int64_t>(i.packs) * i.row, most = (room - i.shared - kOwnShared) / turn;
  l.kept = static_cast<int>(most < p.k.turns ? most : p.k.turns);
  return i.shared + l.kept * turn;
}

cudaError_t start(const Plan& p, const Work& w, const Launch& l, size_t shared, bool cooperative, cudaStream_t stream) {
  const int64_t grid = p.grid;
  if (grid == 0) return cudaSuccess;
  if (shared + kOwnShared > 48 << 10) {
    const cudaError_t error =
        cudaFuncSetAttribute(p.instance.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  if (cooperative) return FL_LAUNCH_COOPERATIVE(p.instance.kernel, grid, p.instance.threads, shared, stream, w, l, p.k);
  return FL_LAUNCH(p.instance.kernel, grid, p.instance.threads, shared, stream, w, l, p.k);
}

int64_t blocks_at_once(const Plan& p, const Work& w) {
  const int64_t blocks = p.general ? (w.wide ? 1 : 2) : p.instance.blocks;
  return blocks * device().processors;
}

// A launch that sums, and what must come before it where blocks do not meet: top-k's digits.
cudaError_t sum_apart(Plan& p, const Work& w, Launch l, cudaStream_t stream) {
  l.finishes = false, l.kept = 0;
  cudaError_t error = cudaSuccess;
  if (p.k.selecting && p.grid > 0) {
    const int levels = w.wide ? kLevels<double> : kLevels<float>;
    error = empty_histograms(w, p.k.selecting, stream);
    bool begun = false;
    for (p.k.term = 0; p.k.term < w.spec.n_terms; ++p.k.term) {
      if (w.spec.terms[p.k.term].kind != fl::kTopk) continue;
      for (p.k.level = begun; p.k.level < levels && error == cudaSuccess; ++p.k.level)
        error = start(p, w, l, p.instance.shared, false, stream);
      begun = true;
    }
    p.k.term = -1, p.k.level = levels;
  }
  return error == cudaSuccess ? start(p, w, l, p.instance.shared, false, stream) : error;
}

}  // namespace

namespace {

const char* forward_of(const Work& w, cudaStream_t stream) {
  Plan p = plan_of(w);
  const int64_t limit = blocks_at_once(p, w);
  const bool grad = w.out.data, once = grad && w.at_once;
  Launch l = share_out(w, p, once ? kBothPhases : (grad ? kAllPhases : kSumPhase), limit);
  l.finishes = finishes_in_block(w) && p.grid > 0 &&
               (p.grid == 1 || (device().cooperative && p.grid <= limit && forced_path() != kSplit));
  cudaError_t error;
  if (l.finishes) {
    const size_t shared = l.phase == kAllPhases ? keep(p, w, l) : p.instance.shared;
    error = start(p, w, l, shared, true, stream);
    if (!refused(error)) return fault(error);
  }
  if (!once) l.phase = kSumPhase;
  error = sum_apart(p, w, l, stream);
  if (error == cudaSuccess) error = launch_epilogue(w, l, stream);
  if (error != cudaSuccess || !grad || once) return fault(error);
  l = share_out(w, p, kGradPhase, limit);
  return fault(start(p, w, l, p.instance.shared, false, stream));
}

Work without_counts(Work w) {
  w.counting = false, w.counts = nullptr, w.by_sample = w.groups != 1;
  w.parts = (w.by_sample ? w.samples : 1) * w.channels, w.planes = w.by_sample ? 1 : w.samples;
  return w;
}

}  // namespace

fl::CallPath sigmoid_path(const Work& w) {
  FastTerm term;
  FastInput input;
  int point;
  return path_of(without_counts(w), term, input, point);
}

// Statistics change no bit of the rest: what is fast without them is done so, and they in a launch of their own.
const char* sigmoid_forward(CudaCall& c) {
  if (!c.w.counting || sigmoid_path(c.w) != fl::kFastCall) return forward_of(c.w, c.stream);
  const Work rest = without_counts(c.w);
  Work counts = c.w;
  counts.spec.n_terms = 0, counts.at_once = false;
  counts.out = {}, counts.loss = nullptr, counts.values = counts.scale = nullptr;
  const char* error = forward_of(counts, c.stream);
  return error ? error : forward_of(rest, c.stream);
}

const char* sigmoid_backward(CudaCall& c) {
  Plan p = plan_of(c.w);
  // One that is likely to find nothing to do has fewer blocks to start.
  Launch l = share_out(c.w, p, kGradPhase, c.rescaling ? device().processors : blocks_at_once(p, c.w));
  l.rescaling = c.rescaling;
  return fault(start(p, c.w, l, p.instance.shared, false, c.stream));
}

const char* sigmoid_elementwise(CudaCall& c) {
  Plan p = plan_of(c.w, true);
  const Launch l = share_out(c.w, p, kValuePhase, blocks_at_once(p, c.w));
  return fault(start(p, c.w, l, p.instance.shared, false, c.stream));
}

}  // namespace fl_cuda

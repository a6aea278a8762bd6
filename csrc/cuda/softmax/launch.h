// The launches of a multiclass call for one type of logits.
#pragma once
#include "kernel.h"

namespace fl_cuda {

constexpr int64_t kOwnShared = 14 << 10;  // of each block: the end of the sums, the terms, the runtime's
constexpr double kOverflow = 1.25;        // tiles against those that stay on the chip, up to which one launch does all

// Lays out shared memory.
struct Memory {
  int64_t next = 0;
  uint32_t take(int64_t bytes) {
    const int64_t here = next;
    next += (bytes + 15) / 16 * 16;
    return static_cast<uint32_t>(here);
  }
};
Plan plan_of(const Work& w);
void set_steps(const Work& w, int width, Plan& p);  // width: V
void set_keys(const Work& w, Plan& p);

template <class T>
int64_t lay_out(const Work& w, int threads, int width, int levels, Plan& p) {
  Memory m;
  p.in_shared = partials_of(w) * 8 <= 48 << 10;
  p.sums = m.take(p.in_shared ? partials_of(w) * 8 : 0);
  p.points = m.take((p.terms + 1) * threads * sizeof(T));
  p.tables = m.take((Tables<T>::kColumns + p.terms) * Tables<T>::padded_of(w.channels) * sizeof(T));
  p.meeting = m.take(p.slices > 1 ? 4 * width * threads * sizeof(T) : 0);
  p.digits = m.take(p.picks ? sizeof(Selection<T>) : 0);
  const bool odd = !p.vectors || w.pixels % (kWarp * width) != 0 || p.slices < threads / kWarp;
  p.gathered = m.take(odd ? threads * sizeof(Gathered<T>) : 0);
  return m.next;
}

// The fast kernels' shared memory, warps that share a pixel's classes, threads, and units that stay on the chip
// (Launch::kept); whether they fit at all.
bool lay_fast(const Work& w, Phase phase, Launch& l, Plan& p, int64_t& shared);

// What differs between the kernels: how a launch of them is prepared, with as many blocks as it may have. Returns
// whether its units stay on the chip, as far as they have to.
template <class X>
struct FastLaunch {
  static constexpr auto kernel = softmax_fast<X>;
  static constexpr int kLast = kLevels<float>;
  static bool both(const Plan& p) { return p.smooth < 0; }

  static bool prepare(const Work& w, Phase phase, Launch& l, Plan& p, int64_t& shared) {
    set_steps(w, Fast<X>::kV, p);
    lay_fast(w, phase, l, p, shared);
    return l.tiles <= kOverflow * static_cast<double>(l.kept) * l.blocks;
  }
};

template <class T>
struct GeneralLaunch {
  static constexpr auto kernel = softmax_general<T>;
  static constexpr int kLast = kLevels<T>;
  static bool both(const Plan&) { return false; }

  static bool prepare(const Work& w, Phase phase, Launch& l, Plan& p, int64_t& shared) {
    constexpr int kV = General<T>::kV, kThreads = kGeneralThreads, kWarps = kThreads / kWarp;
    set_steps(w, kV, p);
    const auto lay = [&](int slices, bool staged) {
      p.slices = slices, p.staged = staged;
      p.share = static_cast<int>((w.channels + slices - 1) / slices);
      Memory m{lay_out<T>(w, kThreads, kV, kLast, p)};
      p.kept = m.take(p.terms * kV * kThreads * sizeof(T));
      if (!staged) return m.next;
      p.rows = m.take(static_cast<int64_t>(w.slots.per_class) * p.share * kThreads * sizeof(T));
      p.seen = m.take(w.counting ? 3 * p.share * kThreads * 4 : 0);
      p.stage = m.take(static_cast<int64_t>(p.dense ? 2 : 1) * p.share * kThreads * kV * sizeof(T));
      return m.next;
    };
    const int64_t most = device().block_shared - kOwnShared;
    shared = -1;
    for (const int64_t room : {most / 2, most})
      for (int slices = 1; slices <= kWarps && shared < 0; slices *= 2)
        if (lay(slices, true) <= room) shared = lay(slices, true);
    if (shared < 0) shared = lay(kWarps, false);
    p.threads = kThreads, p.blocks = shared <= most / 2 ? 2 : 1;
    l = divide(w, phase, kWarp * kV, p.blocks * device().processors);
    return false;
  }
};

template <class L>
struct Launches {
  CudaCall& c;
  Work& w;
  Plan p;
  Launch l{};
  int64_t shared = 0;

  explicit Launches(CudaCall& call) : c(call), w(call.w), p(plan_of(call.w)) {}

  cudaError_t launch(Phase phase, bool meets, int first, int last) {
    const int64_t grid = w.parts * l.blocks;
    p.first = first, p.last = last, l.finishes = meets, l.phase = phase, l.rescaling = c.rescaling;
    if (shared > 32768) {
      const auto most = cudaFuncAttributeMaxDynamicSharedMemorySize;
      const cudaError_t error = cudaFuncSetAttribute(L::kernel, most, static_cast<int>(shared));
      if (error != cudaSuccess) return error;
    }
    if (meets && grid > 1) return FL_LAUNCH_COOPERATIVE(L::kernel, grid, p.threads, shared, c.stream, w, l, p);
    return FL_LAUNCH(L::kernel, grid, p.threads, shared, c.stream, w, l, p);
  }
  cudaError_t gradient() {
    L::prepare(w, kGradPhase, l, p, shared);
    return launch(kGradPhase, false, 0, 0);
  }

  cudaError_t forward() {
    const Path path = forced_path();
    const bool grads = w.out.data, once = grads && w.at_once && !w.counting && L::both(p);
    const int last = p.picks ? L::kLast : 0;
    set_keys(w, p);
    if (path != kSplit) {
      Phase phase = once ? kBothPhases : kSumPhase;
      if (grads && !once && (L::prepare(w, kAllPhases, l, p, shared) || path == kResident)) phase = kAllPhases;
      if (phase != kAllPhases) L::prepare(w, phase, l, p, shared);
      if (can_meet(w, l, p.blocks * device().processors)) {
        cudaError_t error = launch(phase, true, 0, last);
        if (error == cudaSuccess && grads && phase == kSumPhase) error = gradient();
        if (!refused(error)) return error;
      }
    }
    const Phase phase = once ? kBothPhases : kSumPhase;
    L::prepare(w, phase, l, p, shared);
    cudaError_t error = cudaSuccess;
    if (p.picks) error = empty_histograms(w, p.picks, c.stream);
    for (int step = 0; step <= last && error == cudaSuccess; ++step) error = launch(phase, false, step, step);
    if (error == cudaSuccess) error = launch_epilogue(w, l, c.stream);
    return error == cudaSuccess && grads && !once ? gradient() : error;
  }
  cudaError_t values() {
    L::prepare(w, kValuePhase, l, p, shared);
    return launch(kValuePhase, false, 0, 0);
  }
};

enum Errand { kForward, kBackward, kValues };
template <class L>
cudaError_t run_errand(CudaCall& c, Errand errand) {
  Launches<L> launches(c);
  return errand == kForward ? launches.forward() : (errand == kBackward ? launches.gradient() : launches.values());
}

// By the type of logits; defined in a file each.
template <class X>
cudaError_t softmax_fast_errand(CudaCall& c, Errand errand);
template <class T>
cudaError_t softmax_general_errand(CudaCall& c, Errand errand);

}  // namespace fl_cuda

// The fixed partition of a problem into tasks, the sums that each task leaves behind, and their combination in order.
#pragma once
#include <vector>

#include "../math/finalize.h"
#include "target.h"

FL_NAMESPACE_BEGIN

template <class F>
inline void parallel_tasks(const CpuProblem& p, int64_t tasks, const F& f) {
  if (tasks <= 1) {
    if (tasks == 1) f(int64_t(0), int64_t(1));
    return;
  }
  p.parallel(0, tasks, const_cast<void*>(static_cast<const void*>(&f)),
             [](void* context, int64_t begin, int64_t end) { (*static_cast<const F*>(context))(begin, end); });
}

// Tasks over (sample, plane, block of pixels). For softmax a plane holds all channels.
struct Blocks {
  int64_t planes, pixels, per_plane, tasks;
  Blocks(const CpuProblem& p, int64_t planes_per_sample)
      : planes(planes_per_sample),
        pixels(p.space[0] * p.space[1] * p.space[2]),
        per_plane((pixels + kBlock - 1) / kBlock),
        tasks(p.samples * planes * per_plane) {}

  struct Task {
    int64_t sample, plane, begin, end;
  };
  Task operator[](int64_t t) const {
    const int64_t block = t % per_plane, rest = t / per_plane;
    const int64_t begin = block * kBlock, end = begin + kBlock < pixels ? begin + kBlock : pixels;
    return {rest / planes, rest % planes, begin, end};
  }
};

// One batch group and one channel: when every array runs on from sample to sample, the batch is a single plane.
inline void merge_samples(CpuProblem& p) {
  if (p.groups != 1 || p.channels != 1 || p.counts || p.samples == 1) return;
  const int64_t pixels = p.space[0] * p.space[1] * p.space[2];
  Array* arrays[] = {&p.x, &p.y, &p.mask, &p.pixel_weight, &p.out};
  for (Array* a : arrays) {
    if (!a->data) continue;
    const Runs runs(*a, p.space);
    if (!runs.one() || a->sample != runs.length * runs.step) return;
  }
  for (Array* a : arrays) {
    if (!a->data) continue;
    const int64_t step = Runs(*a, p.space).step;
    a->space[0] = a->space[1] = 0, a->space[2] = step, a->sample = 0;
  }
  p.space[0] = p.space[1] = 1, p.space[2] = pixels * p.samples, p.samples = 1;
}

// What every pass needs to know of a problem.
template <class T>
struct Setup {
  CpuProblem& p;
  Spec spec;
  SumsView view;
  TargetPlanes<T> target;
  FloatPlanes<T> x, out, pixel_weight;
  bool weighted;

  explicit Setup(CpuProblem& problem)
      : p(problem),
        spec(parsed(problem)),
        view{p.groups, p.channels, kFixedSums + spec.n_terms},
        target(p, {spec.has_ignore, spec.ignore_index}, spec.unbounded()),
        x(p.x, p.space),
        out(p.out, p.space),
        pixel_weight(p.pixel_weight, p.space),
        weighted(p.pixel_weight.data != nullptr) {}

  static Spec parsed(const CpuProblem& p) {
    Spec s{};
    parse_spec(p.ints, p.n_ints, p.floats, p.n_floats, &s);  // checked by the op before
    return s;
  }
  int64_t row(const Blocks::Task& t) const { return p.groups == 1 ? 0 : t.sample; }
};

enum Mode { kValues = 1, kGrads = 2, kStore = 4 };  // accumulate the terms, write the gradient, write the values

FL_NAMESPACE_END

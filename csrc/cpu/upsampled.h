// Losses of interpolated logits, band by band: the logits of a band are made in a thread's own memory, the kernels read
// them there, and what they write of the gradient goes back to the inputs at once.
#pragma once
#include <memory>

#include "blocks.h"
#include "interpolate.h"
#include "upsampled_problem.h"

FL_NAMESPACE_BEGIN

using fl_cpu::Upsampled;

struct Band {
  int64_t sample;
  Box box;
};

// Boxes of at most `pixels` (one at least), in the order of memory: as `cut` of fastloss/_sources.py.
inline std::vector<Box> cut(const int64_t* space, int64_t pixels) {
  int64_t step[3], inner = space[0] * space[1] * space[2];
  for (int a = 0; a < 3; ++a) {
    inner /= space[a];
    step[a] = std::min(std::max<int64_t>(pixels / std::max<int64_t>(inner, 1), 1), space[a]);
  }
  std::vector<Box> boxes;
  for (int64_t z = 0; z < space[0]; z += step[0])
    for (int64_t y = 0; y < space[1]; y += step[1])
      for (int64_t w = 0; w < space[2]; w += step[2])
        boxes.push_back(
            {{z, y, w},
             {std::min(z + step[0], space[0]), std::min(y + step[1], space[1]), std::min(w + step[2], space[2])}});
  return boxes;
}

template <class T>
class UpsampledPass {
  static constexpr int64_t kTogether = 64;  // bands whose sums wait for their turn to be added

  Upsampled& u_;
  CpuProblem& p_;
  const Interpolation3<T> interpolation_;
  const std::vector<Box> boxes_;
  int64_t largest_ = 0;  // pixels of a box

  // A thread's memory: logits and gradient of a band, and the band as a problem.
  struct Workplace {
    typename Interpolation3<T>::Scratch scratch;
    std::unique_ptr<T[]> x, grad;
    Workplace(int64_t size, bool gradient) : x(new T[size]), grad(gradient ? new T[size] : nullptr) {}
  };

 public:
  explicit UpsampledPass(Upsampled& u)
      : u_(u),
        p_(u.p),
        interpolation_(u.x, u.inputs, u.p.space, u.mode, u.align_corners),
        boxes_(cut(u.p.space, u.band_pixels)) {
    for (const Box& box : boxes_) largest_ = std::max(largest_, box.pixels());
  }

  void sums() {
    const auto forward = fl_cpu::kernels().forward;
    const int64_t bands = p_.samples * boxes_.size(), columns = kFixedSums + p_.ints[5], size = p_.channels * columns;
    const int64_t aux = p_.ints[5] * kAuxColumns, n_counts = p_.counts ? 4 * p_.channels : 0;
    for (int64_t from = 0; from < bands; from += kTogether) {
      const int64_t n = std::min(kTogether, bands - from);
      std::vector<double> partial(n * (size + aux), 0.0);
      std::vector<int64_t> counts(n * n_counts, 0);
      parallel_tasks(p_, n, [&](int64_t begin, int64_t end) {
        Workplace w(largest_ * p_.channels, false);
        for (int64_t t = begin; t < end; ++t) {
          CpuProblem q;
          place(q, band(from + t), w);
          q.sums = partial.data() + t * (size + aux), q.aux = q.sums + size;
          q.counts = n_counts ? counts.data() + t * n_counts : nullptr;
          forward(q);
          if (q.bad_target) p_.bad_value = q.bad_value, p_.bad_target = true;
        }
      });
      for (int64_t t = 0; t < n; ++t) {
        const int64_t sample = band(from + t).sample;
        const double* found = partial.data() + t * (size + aux);
        double* to = p_.sums + (p_.groups == 1 ? 0 : sample * size);
        for (int64_t i = 0; i < size; ++i) to[i] += found[i];
        for (int64_t i = 0; i < aux; ++i) p_.aux[i] += found[size + i];
        for (int64_t i = 0; i < n_counts; ++i) p_.counts[sample * n_counts + i] += counts[t * n_counts + i];
      }
    }
  }

  void backward() {
    const auto run = fl_cpu::kernels().backward;
    const auto tasks = turns();
    const int64_t columns = kFixedSums + p_.ints[5], low = u_.inputs[0] * u_.inputs[1] * u_.inputs[2];
    for (int turn = 0; turn < 2; ++turn) {
      const int64_t each = (tasks.size() + 1 - turn) / 2;
      parallel_tasks(p_, each * p_.samples, [&](int64_t begin, int64_t end) {
        Workplace w(largest_ * p_.channels, true);
        for (int64_t t = begin; t < end; ++t) {
          const auto [from, to] = tasks[2 * (t % each) + turn];
          const int64_t sample = t / each;
          for (int64_t b = from; b < to; ++b) {
            const Box& box = boxes_[b];
            CpuProblem q;
            place(q, {sample, box}, w);
            q.out = plain(w.grad.get(), box);
            q.aux = p_.aux, q.grad_sums = p_.grad_sums + (p_.groups == 1 ? 0 : sample * p_.channels * columns);
            run(q);
            for (int64_t c = 0; c < p_.channels; ++c)
              interpolation_.add_gradient(w.grad.get() + c * box.pixels(), box,
                                          static_cast<T*>(u_.grad) + (sample * p_.channels + c) * low, w.scratch);
          }
        }
      });
    }
  }

 private:
  Band band(int64_t b) const {
    return {b / static_cast<int64_t>(boxes_.size()), boxes_[b % static_cast<int64_t>(boxes_.size())]};
  }

  static Array plain(T* data, const Box& box) {
    Array a;
    a.data = data, a.dtype = FloatPlanes<T>::dtype_of();
    a.sample = 0, a.channel = box.pixels();
    a.space[0] = box.size(1) * box.size(2), a.space[1] = box.size(2), a.space[2] = 1;
    return a;
  }

  static void move(Array& a, const Band& b) {
    if (!a.data) return;
    int64_t offset = b.sample * a.sample;
    for (int i = 0; i < 3; ++i) offset += b.box.begin[i] * a.space[i];
    a.data = static_cast<char*>(a.data) + offset * bytes_of(a.dtype);
  }

  // The band as a problem of its own, its logits made.
  void place(CpuProblem& q, const Band& b, Workplace& w) const {
    static_cast<fl::Arguments&>(q) = p_;
    q.parallel = [](int64_t begin, int64_t end, void* context, fl_cpu::ParallelBody body) {
      body(context, begin, end);
    };
    q.samples = q.groups = 1;
    q.grad_output_value = p_.grad_output_value;
    for (int i = 0; i < 3; ++i) q.space[i] = b.box.size(i);
    for (Array* a : {&q.y, &q.mask, &q.pixel_weight}) move(*a, b);
    q.x = plain(w.x.get(), b.box);
    for (int64_t c = 0; c < p_.channels; ++c)
      interpolation_.logits(b.sample, c, b.box, w.x.get() + c * b.box.pixels(), w.scratch);
  }

  // The boxes of a sample as runs that take turns: runs of one turn share no input, so that the order in which an input
  // is added to does not depend on the threads.
  std::vector<std::pair<int64_t, int64_t>> turns() const {
    int axis = 0;
    while (axis < 2 && p_.space[axis] == 1) ++axis;
    std::vector<std::pair<int64_t, int64_t>> runs;
    int64_t begin = 0, taken = 0, before = 0;  // where the inputs end that this run, and the one before it, have read
    const int64_t n = boxes_.size();
    for (int64_t b = 0; b < n; ++b) {
      taken = std::max(taken, interpolation_.reads(boxes_[b]).end[axis]);
      if (b + 1 < n && interpolation_.reads(boxes_[b + 1]).begin[axis] < before) continue;
      runs.push_back({begin, b + 1});
      before = taken, begin = b + 1;
    }
    return runs;
  }
};

FL_NAMESPACE_END

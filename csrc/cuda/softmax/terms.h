// The pointwise terms of multiclass losses, as many as there are: a table in shared memory. On class indices they are
// one number a pixel, next to which a loop over the terms costs nothing.
#pragma once
#include "../../math/elements.h"
#include "plan.h"

namespace fl_cuda {

// Terms that only the general kernels know.
enum RareForm { kPolyForm = 8, kLogPowerForm, kLinearForm, kMatrixForm };

template <class T>
struct PointTerm {
  using Key = typename fl::KeyOf<T>::type;
  int index, form;      // form: 0 for cross-entropy, 1 + FocalPower, or one of RareForm
  bool picks;           // top-k
  T gamma, scale, tie;  // gamma: eps of kPolyForm; scale: of the gradient
  T keep, spread;       // label smoothing
  T all;                // sum of the classes' weights, where labels are smoothed
  Key threshold;

  // Calls f with the element's functions.
  template <class F>
  __device__ __forceinline__ void visit(const F& f) const {
    switch (form) {
      case 0:
        return f(fl::CeElement());
      case 1 + fl::kPower1:
        return f(fl::FocalTargetElement<fl::kPower1, T>{gamma});
      case 1 + fl::kPower2:
        return f(fl::FocalTargetElement<fl::kPower2, T>{gamma});
      default:
        return f(fl::FocalTargetElement<fl::kPowerAny, T>{gamma});
    }
  }
  template <class F>
  __device__ __forceinline__ void visit_any(const F& f) const {
    if (form == kPolyForm) return f(fl::PolyTargetElement<T>{gamma});
    if (form == kLinearForm || form == kMatrixForm) return f(fl::LinearTargetElement());
    if (form == kLogPowerForm) return f(fl::LogPowerTargetElement<T>{gamma});
    visit(f);
  }
  // What an element of this value counts in the term.
  __device__ __forceinline__ T share(T value) const {
    if (!picks) return T(1);
    const Key key = fl::topk_key(value);
    return key > threshold ? T(1) : (key == threshold ? tie : T(0));
  }
};

template <class T>
struct PointTerms {
  PointTerm<T> term[fl::kMaxTerms];
};

__device__ __forceinline__ int form_of(const fl::Term& t) {
  if (t.kind == fl::kPoly) return kPolyForm;
  if (t.kind == fl::kLogPower) return kLogPowerForm;
  if (t.kind == fl::kBoundary || t.kind == fl::kWasserstein) return t.kind == fl::kBoundary ? kLinearForm : kMatrixForm;
  if (t.kind != fl::kFocal || t.gamma == 0.0) return 0;  // with gamma 0 it is weighted cross-entropy
  return 1 + (t.gamma == 2.0 ? fl::kPower2 : (t.gamma == 1.0 ? fl::kPower1 : fl::kPowerAny));
}

// The table without the slopes, by one thread.
template <class T>
__device__ inline void fill_terms(const Work& w, PointTerm<T>* out) {
#pragma unroll 1
  for (int i = 0; i < w.spec.n_terms; ++i) {
    const fl::Term& t = w.spec.terms[i];
    if (t.region()) continue;
    out->index = i, out->form = form_of(t), out->picks = t.kind == fl::kTopk;
    out->gamma = static_cast<T>(t.kind == fl::kPoly ? t.eps : t.gamma), out->scale = T(0);
    out->keep = static_cast<T>(1.0 - t.label_smoothing);
    out->spread = static_cast<T>(t.label_smoothing / static_cast<double>(w.channels));
    out->threshold = 0, out->tie = T(1), out->all = T(0);
#pragma unroll 1
    for (int64_t c = 0; t.label_smoothing != 0.0 && c < w.channels; ++c)
      out->all += static_cast<T>(vector_at(w, i, c, 1.0));
    ++out;
  }
}

// What of the table the gradient needs, by one thread. grads: the derivatives by the sums of the part's first class, or
// null where the denominators are known (Work::at_once).
template <class T>
__device__ inline void set_scales(const Work& w, const double* grads, int count, PointTerm<T>* terms) {
  const double up = grad_output_of(w);
#pragma unroll 1
  for (int j = 0; j < count; ++j) {
    PointTerm<T>& t = terms[j];
    const fl::Term& own = w.spec.terms[t.index];
    const double scale =
        grads ? grads[fl::kFixedSums + t.index] : weight_of(w, t.index) * fl::pointwise_scale(own, w.known_valid);
    t.scale = static_cast<T>(up * scale);
    if (!t.picks) continue;
    const double* aux = w.aux + t.index * fl::kAuxColumns;
    t.threshold = fl::topk_key(static_cast<T>(aux[fl::kThreshold]));
    t.tie = static_cast<T>(aux[fl::kTieWeight]);
  }
}

// Numbers of the classes, in shared memory, behind each other: the slopes of the sums, the part of the gradient that
// does not depend on the pixel (label smoothing), the weights of each term.
template <class T>
struct Tables {
  T* base;
  int64_t channels;
  int padded;  // entries of a column: a multiple of 4, with room for an unrolled loop's last turn

  __device__ __forceinline__ Tables(const Work& w, const Plan& p, unsigned char* memory)
      : base(shared_at<T>(memory, p.tables)), channels(w.channels), padded(padded_of(w.channels)) {}
  static __host__ __device__ __forceinline__ int padded_of(int64_t channels) {
    return static_cast<int>((channels + 3) / 4 * 4 + 20);
  }
  static constexpr int kColumns = 6;
  __device__ __forceinline__ T* pred() const { return base; }
  __device__ __forceinline__ T* inter() const { return base + padded; }
  __device__ __forceinline__ T* flat() const { return base + 2 * padded; }
  __device__ __forceinline__ T* square() const { return base + 3 * padded; }
  __device__ __forceinline__ T* diff() const { return base + 4 * padded; }
  __device__ __forceinline__ T* cross() const { return base + 5 * padded; }
  __device__ __forceinline__ T* weights(int term) const { return base + (kColumns + term) * padded; }

  // By the block.
  __device__ inline void fill_weights(const Work& w, const PointTerm<T>* terms, int count) const {
#pragma unroll 1
    for (int j = 0; j < count; ++j)
#pragma unroll 1
      for (int c = threadIdx.x; c < channels; c += blockDim.x)
        weights(j)[c] = static_cast<T>(vector_at(w, terms[j].index, c, 1.0));
  }
  // kHard: a label is 0 or 1, so that |p - y| is p or 1 - p, and its slope a part of the others.
  template <bool kHard>
  __device__ inline void fill_slopes(const Work& w, const double* grads, const PointTerm<T>* terms, int smooth) const {
    const double up = grad_output_of(w);
#pragma unroll 1
    for (int c = threadIdx.x; c < padded; c += blockDim.x) {
      const double* d = grads && c < channels ? grads + static_cast<int64_t>(c) * columns_of(w) : nullptr;
      const double away = d ? up * d[fl::kAbsDiff] : 0.0;
      pred()[c] = d ? static_cast<T>(up * d[fl::kPred] + (kHard ? away : 0.0)) : T(0);
      inter()[c] = d ? static_cast<T>(up * d[fl::kInter] - (kHard ? 2.0 * away : 0.0)) : T(0);
      square()[c] = d ? static_cast<T>(2.0 * up * d[fl::kPredSq]) : T(0);
      cross()[c] = d ? static_cast<T>(2.0 * up * d[fl::kPredSqTarget]) : T(0);
      diff()[c] = static_cast<T>(away);
      flat()[c] = smooth >= 0 && c < channels ? -terms[smooth].scale * terms[smooth].spread * weights(smooth)[c] : T(0);
    }
  }
};

}  // namespace fl_cuda

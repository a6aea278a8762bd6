// Whether a fast kernel takes a binary or multilabel call, and which.
#pragma once
#include "../dispatch.h"
#include "launch.h"

namespace fl_cuda {

inline bool is_contiguous(const Work& w, const Array& a) {
  const auto axis = [&](int i, int64_t stride) { return w.space[i] == 1 || a.space[i] == stride; };
  return axis(2, 1) && axis(1, w.space[2]) && axis(0, w.space[1] * w.space[2]);
}

// How many elements the first plane of an array begins after a whole pack.
inline int64_t phase_of(const Array& a) {
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(a.data) / fl::bytes_of(a.dtype) % kPack);
}

// Whether the planes of all arrays are contiguous, and begin at the same distance from a whole pack.
inline bool has_packs(const Work& w) {
  for (const Array* a : {&w.x, &w.y, &w.mask, &w.out}) {
    if (!a->data) continue;
    if (!is_contiguous(w, *a) || phase_of(*a) != phase_of(w.x)) return false;
    if (w.samples > 1 && (a->sample - w.x.sample) % kPack) return false;
    if (w.channels > 1 && (a->channel - w.x.channel) % kPack) return false;
  }
  return true;
}

// The batch as one long plane, if that is what it is.
inline bool joins(const Work& w) {
  if (w.by_sample || w.channels > 1) return false;
  for (const Array* a : {&w.x, &w.y, &w.mask, &w.out})
    if (a->data && a->sample != w.pixels) return false;
  return true;
}

// Whether the labels' type has the ignored value, whose bits it gets.
inline bool can_ignore(const Work& w, uint64_t& bits) {
  const int bytes = fl::bytes_of(w.y.dtype), size = 8 * bytes;
  const bool is_signed = w.y.dtype >= fl::kI8 && w.y.dtype <= fl::kI64;
  const int64_t v = w.spec.ignore_index;
  bits = static_cast<uint64_t>(v) & (bytes == 8 ? ~uint64_t(0) : (uint64_t(1) << size) - 1);
  if (!w.spec.has_ignore || (!is_signed && v < 0)) return false;
  return bytes == 8 ||
         (is_signed ? v >= -(int64_t(1) << (size - 1)) && v < int64_t(1) << (size - 1) : v < int64_t(1) << size);
}

inline fl::CallPath path_of(const Work& w, FastTerm& term, FastInput& input, int& point) {
  const bool soft = fl::is_float(w.y.dtype);
  if (w.wide) return fl::kWideLogits;
  if (w.counting) return fl::kStatistics;
  if (w.pixel_weight.data) return fl::kPixelWeights;
  if (soft && w.masked) return fl::kMaskedElements;
  if (!has_packs(w)) return fl::kScatteredPlanes;
  input = soft ? kSoftInput : (w.masked ? kMaskedInput : kHardInput), term = kNoTerm, point = -1;
  for (int i = 0; i < w.spec.n_terms; ++i) {
    const fl::Term& t = w.spec.terms[i];
    if (t.squared || t.l1) return fl::kSquaredSums;
    if (t.region()) continue;
    const bool bce = t.kind == fl::kBce && t.label_smoothing == 0.0;
    const bool focal = t.kind == fl::kFocal && t.gamma == 2.0 && !(t.margin && soft);
    const bool topk = t.kind == fl::kTopk && !soft;
    if (point >= 0) return fl::kSeveralTerms;
    if (!bce && !focal && !topk) return fl::kOtherTerm;
    term = bce ? kBceTerm : (focal ? kFocalTerm : kTopkTerm), point = i;
    if (w.far_pool) return fl::kManyClasses;
    for (int64_t v = 0; v < t.vector_length; ++v) {  // no weight may be 0
      const double weight = w.pool[w.pool_at[i] + v];
      if (weight == 0.0 || (focal && weight == 1.0)) return fl::kSpecialWeight;
    }
  }
  return fl::kFastCall;
}

}  // namespace fl_cuda

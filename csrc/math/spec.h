// What crosses every boundary: which terms, with which weights and settings. Mirrors fastloss/spec.py (Spec.encode).
#pragma once
#include "hd.h"

FL_NAMESPACE_BEGIN

constexpr int kEncodingVersion = 3;
constexpr int kMaxTerms = 16;
constexpr int kHeaderInts = 6, kTermInts = 13, kTermFloats = 8;

enum TermKind { kBce, kCe, kFocal, kTopk, kTversky, kPoly, kLogPower, kBoundary, kWasserstein, kTermKinds };
enum Activation { kSigmoid, kSoftmax };
enum Reduction { kMean, kSum, kNone };
enum EmptyRule { kEmptyZero, kEmptySkip, kEmptyScore };
enum Curve { kCurvePower, kCurveLogCosh, kCurveRoot, kCurveLog, kCurves };

struct Term {
  int kind, weight_index, reduction, curve, empty;
  bool squared, l1, crossed, batch, margin;  // crossed: needs the sum of p^2 y too; with squared only
  double weight, gamma, alpha, beta, smooth, eps, label_smoothing;
  int64_t k_num, k_den;
  const double* vector;  // class weights, positive weights or alpha; null if none
  int64_t vector_length;

  FL_HD bool region() const { return kind == kTversky; }  // a function of the sums of a class, not pointwise
  // Of class indices the mean divides by the sum of the pixels' class weights.
  FL_HD bool weighted_mean() const { return (kind == kCe || kind == kPoly) && vector_length > 0; }
  FL_HD double vector_at(int64_t c, double otherwise) const {
    return vector_length == 0 ? otherwise : vector[vector_length == 1 ? 0 : c];
  }
};

struct Spec {
  int activation, n_terms;
  bool has_ignore, binary;
  int64_t ignore_index;
  Term terms[kMaxTerms];

  FL_HD bool any(int kind) const {
    for (int i = 0; i < n_terms; ++i)
      if (terms[i].kind == kind) return true;
    return false;
  }
  FL_HD bool unbounded() const { return any(kBoundary); }  // whether a target is a distance, not a label
  FL_HD bool any_region() const {
    for (int i = 0; i < n_terms; ++i)
      if (terms[i].region()) return true;
    return false;
  }
  FL_HD bool any_pointwise() const {
    for (int i = 0; i < n_terms; ++i)
      if (!terms[i].region()) return true;
    return false;
  }
  FL_HD bool per_sample() const {
    for (int i = 0; i < n_terms; ++i)
      if (terms[i].region() && !terms[i].batch) return true;
    return false;
  }
  FL_HD bool any_squared() const {
    for (int i = 0; i < n_terms; ++i)
      if (terms[i].region() && terms[i].squared) return true;
    return false;
  }
  FL_HD bool any_l1() const {
    for (int i = 0; i < n_terms; ++i)
      if (terms[i].region() && terms[i].l1) return true;
    return false;
  }
};

// Returns null, or why the encoding cannot be read. `floats` must outlive the spec (it points into it).
inline const char* parse_spec(const int64_t* ints, int64_t n_ints, const double* floats, int64_t n_floats, Spec* spec) {
  if (n_ints < kHeaderInts || ints[0] != kEncodingVersion) return "unknown spec encoding";
  spec->activation = static_cast<int>(ints[1]);
  spec->has_ignore = ints[2] != 0;
  spec->ignore_index = ints[3];
  spec->binary = ints[4] != 0;
  const int64_t n = ints[5];
  if (spec->activation != kSigmoid && spec->activation != kSoftmax) return "unknown activation";
  if (n < 1 || n > kMaxTerms) return "a compound holds 1 to 16 terms";
  if (n_ints != kHeaderInts + n * kTermInts || n_floats < n * kTermFloats) return "spec encoding of the wrong length";
  spec->n_terms = static_cast<int>(n);
  const int64_t pool = n_floats - n * kTermFloats;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t* a = ints + kHeaderInts + i * kTermInts;
    const double* f = floats + i * kTermFloats;
    Term& t = spec->terms[i];
    t.kind = static_cast<int>(a[0]);
    t.weight_index = static_cast<int>(a[1]);
    t.reduction = static_cast<int>(a[2]);
    t.curve = static_cast<int>(a[3]), t.squared = a[4] != 0, t.l1 = a[5] != 0;
    t.empty = static_cast<int>(a[6]);
    t.batch = a[7] != 0;
    t.k_num = a[8], t.k_den = a[9];
    t.weight = f[0], t.gamma = f[1], t.alpha = f[2], t.beta = f[3], t.smooth = f[4], t.eps = f[5];
    t.label_smoothing = f[6];
    t.margin = f[7] != 0.0;
    if (t.kind < 0 || t.kind >= kTermKinds) return "unknown term kind";
    if (t.curve < 0 || t.curve >= kCurves) return "unknown curve of a term";
    if (a[10] < 0 || a[11] < 0 || a[10] > pool || a[11] > pool - a[10]) return "term vector outside the pool";
    if (t.kind == kTopk && t.k_den < 1) return "top-k fraction with a denominator below 1";
    t.vector = a[11] ? floats + n * kTermFloats + a[10] : nullptr;
    t.vector_length = a[11];
    t.crossed = a[12] != 0;
  }
  return nullptr;
}

FL_NAMESPACE_END

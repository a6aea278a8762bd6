// sums -> loss, the value of each term, and the cotangents of the sums. The only place where terms are put together.
#pragma once
#include "region.h"

FL_NAMESPACE_BEGIN

struct SumsView {
  int groups, channels, columns;
  FL_HD SumsView(int64_t g, int64_t c, int k)
      : groups(static_cast<int>(g)), channels(static_cast<int>(c)), columns(k) {}
  FL_HD int at(int g, int c) const { return (g * channels + c) * columns; }
  FL_HD int size() const { return groups * channels * columns; }
};

// A class's sums, over one group or (group < 0) over all of them.
FL_HD void gather_sums(const SumsView& v, const double* sums, int group, int c, double* out) {
  for (int k = 0; k < kFixedSums; ++k) out[k] = 0.0;
  const int first = group < 0 ? 0 : group, last = group < 0 ? v.groups : group + 1;
  FL_ROLLED
  for (int g = first; g < last; ++g)
    for (int k = 0; k < kFixedSums; ++k) out[k] += sums[v.at(g, c) + k];
}

// What a class of weight `own` and sums `s` weighs in its group's mean; 0 if it does not count.
FL_HD double class_weight(const Term& t, double own, const double* s) { return class_role(t, s).counted ? own : 0.0; }

FL_HD double counted_weight(const Term& t, const SumsView& v, const double* sums, int group) {
  double total = 0.0, s[kFixedSums];
  for (int c = 0; c < v.channels; ++c) {
    gather_sums(v, sums, group, c, s);
    total += class_weight(t, t.vector_at(c, 1.0), s);
  }
  return total;
}

// The share of a class of sums `s` that weighs `w` of its group's mean; adds scale * d(share)/d(sums) to grad_sums.
FL_HD double region_class(const Term& t, double w, const SumsView& v, const double* s, int group, int c, double scale,
                          double* grad_sums) {
  if (w == 0.0 || !class_role(t, s).counted || !class_role(t, s).scored) return 0.0;
  const RegionValue r = region_loss(t, s);
  const int first = group < 0 ? 0 : group, last = group < 0 ? v.groups : group + 1;
  FL_ROLLED
  for (int g = first; g < last; ++g) {
    double* d = grad_sums + v.at(g, c);
    d[kInter] += scale * w * r.d_inter;
    d[kPred] += scale * w * r.d_pred;
    d[kPredSq] += scale * w * r.d_pred_sq;
    d[kAbsDiff] += scale * w * r.d_abs;
  }
  return w * r.loss;
}

// One group's class-weighted mean; adds scale * d(mean)/d(sums) to grad_sums.
FL_HD double region_group(const Term& t, const SumsView& v, const double* sums, int group, double scale,
                          double* grad_sums) {
  const double total = counted_weight(t, v, sums, group);
  double value = 0.0, s[kFixedSums];
  for (int c = 0; c < v.channels && total > 0.0; ++c) {
    gather_sums(v, sums, group, c, s);
    value += region_class(t, t.vector_at(c, 1.0) / total, v, s, group, c, scale, grad_sums);
  }
  return value;
}

FL_HD double region_term(const Term& t, const SumsView& v, const double* sums, double weight, double* grad_sums) {
  if (t.batch) return region_group(t, v, sums, -1, weight, grad_sums);
  int kept = 0;
  for (int g = 0; g < v.groups; ++g) kept += counted_weight(t, v, sums, g) > 0.0;
  double value = 0.0;
  for (int g = 0; g < v.groups && kept; ++g) value += region_group(t, v, sums, g, weight / kept, grad_sums) / kept;
  return value;
}

FL_HD double pointwise_scale(const Term& t, double denominator) {
  const bool some = denominator > 0.0 || denominator < 0.0;
  return t.reduction == kMean ? (some ? 1.0 / denominator : 0.0) : 1.0;
}

FL_HD double pointwise_term(const Term& t, int i, const SumsView& v, const double* sums, double denominator,
                            double weight, double* grad_sums) {
  const double scale = pointwise_scale(t, denominator);
  double total = 0.0;
  for (int g = 0; g < v.groups; ++g)
    for (int c = 0; c < v.channels; ++c) {
      if (sums) total += sums[v.at(g, c) + kFixedSums + i];
      grad_sums[v.at(g, c) + kFixedSums + i] = weight * scale;
    }
  return total * scale;
}

// weights[i] is the effective weight of term i. A term of weight 0 is left out of the loss: 0 * NaN is not 0.
FL_HD double finalize(const Spec& spec, const SumsView& v, const double* sums, const double* aux, const double* weights,
                      double* values, double* grad_sums) {
  for (int k = 0; k < v.size(); ++k) grad_sums[k] = 0.0;
  double loss = 0.0;
  for (int i = 0; i < spec.n_terms; ++i) {
    const Term& t = spec.terms[i];
    values[i] = t.region() ? region_term(t, v, sums, weights[i], grad_sums)
                           : pointwise_term(t, i, v, sums, aux[i * kAuxColumns + kDenominator], weights[i], grad_sums);
    if (weights[i] != 0.0) loss += weights[i] * values[i];
  }
  return loss;
}

FL_NAMESPACE_END

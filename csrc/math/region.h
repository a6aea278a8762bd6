// Region terms as functions of a class's sums, value and derivative together (double: a handful of them per call).
//   score = (TP + s) / max(TP + alpha FP + beta FN + s, eps)     Salehi et al. 2017, eq. 3; Dice alpha = beta = 1/2,
//                                                                Jaccard alpha = beta = 1
//   loss  = (1 - score)^gamma                                    gamma: Abraham & Khan 2019
//         = log cosh(1 - score)                                  Jadon 2020; Nasalwai et al. 2021
//         = 1 - max(score, eps)^gamma                            Wang & Chung 2018, whose beta is 1 / gamma
//         = (-log max(score, eps))^gamma                         Wong et al. 2018
#pragma once
#include "spec.h"
#include "sums.h"

FL_NAMESPACE_BEGIN

struct RegionValue {
  double loss;
  double d_inter, d_pred, d_pred_sq, d_abs;  // with respect to the sums of the same name
};

FL_HD double tversky_score(const Term& t, const double* sums, RegionValue* d) {
  const double tp = t.l1 ? 0.5 * (sums[kPred] + sums[kTarget] - sums[kAbsDiff]) : sums[kInter];
  const double pred = t.squared ? sums[kPredSq] : sums[kPred];
  const double target = t.squared ? sums[kTargetSq] : sums[kTarget];
  const double own = 1.0 - t.alpha - t.beta;  // TP's share of its own denominator
  const double num = tp + t.smooth;
  const double den = own * tp + t.alpha * pred + t.beta * target + t.smooth;
  const bool clamped = den < t.eps;
  const double inv = 1.0 / (clamped ? t.eps : den);
  const double score = num * inv;
  const double d_den = clamped ? 0.0 : -score * inv;
  const double d_tp = inv + own * d_den;
  d->d_inter = t.l1 ? 0.0 : d_tp;
  d->d_abs = t.l1 ? -0.5 * d_tp : 0.0;
  d->d_pred = (t.l1 ? 0.5 * d_tp : 0.0) + (t.squared ? 0.0 : t.alpha * d_den);
  d->d_pred_sq = t.squared ? t.alpha * d_den : 0.0;
  return score;
}

struct CurveValue {
  double loss, slope;  // d loss / d score
};

// The loss by the score, where it is not 1 - score.
FL_HD CurveValue curve_of(int curve, double gamma, double eps, double score) {
  const bool cosh = curve == kCurveLogCosh, log = curve == kCurveLog, of_score = log || curve == kCurveRoot;
  const double miss = 1.0 - score, kept = at_least(eps, score);
  double base = cosh ? 1.0 : of_score ? kept : at_least(0.0, miss);
  double log_base = 0.0, power = 0.0;  // base^(gamma - 1); of log cosh exp(-2 |miss|)
  // One logarithm and one exponential for all curves, since code in double is long: those that need the one of the
  // other take a second turn.
  const int turns = cosh || (log && gamma != 1.0) ? 2 : 1;
  FL_ROLLED
  for (int turn = 0; turn < turns; ++turn) {
    if (turn > 0) base = cosh ? 0.5 + 0.5 * power : at_least(0.0, -log_base);
    log_base = base > 0.0 ? ::log(base) : 0.0;
    power = base > 0.0 ? ::exp(cosh ? -2.0 * ::fabs(miss) : (gamma - 1.0) * log_base) : 0.0;
  }
  const double inverse = 1.0 / (cosh ? 1.0 + power : kept);  // the only division, which is as long as a logarithm
  CurveValue v;
  if (cosh) {
    v.loss = ::fabs(miss) + log_base;
    v.slope = (miss < 0.0 ? 1.0 : -1.0) * (1.0 - power) * inverse;
    return v;
  }
  v.loss = log && gamma == 1.0 ? -log_base : base * power;
  v.slope = -gamma * power;
  if (curve == kCurveRoot) v.loss = 1.0 - v.loss;
  if (log) v.slope *= inverse;
  if (of_score && !(score > eps)) v.slope = 0.0;
  return v;
}

FL_HD RegionValue region_loss(const Term& t, const double* sums) {
  RegionValue r;
  const double score = tversky_score(t, sums, &r);
  CurveValue v{1.0 - score, -1.0};
  if (t.curve != kCurvePower || t.gamma != 1.0) v = curve_of(t.curve, t.gamma, t.eps, score);
  if (score != score) v.loss = v.slope = score;
  r.loss = v.loss;
  r.d_inter *= v.slope, r.d_pred *= v.slope, r.d_pred_sq *= v.slope, r.d_abs *= v.slope;
  return r;
}

// Whether a class enters the loss of its group, and whether it enters with loss and gradient zero.
struct ClassRole {
  bool counted, scored;
};
FL_HD ClassRole class_role(const Term& t, const double* sums) {
  const bool present = sums[kTarget] > 0.0 || sums[kTarget] != sums[kTarget];
  ClassRole r;
  r.counted = t.empty != kEmptySkip || present;
  r.scored = sums[kValid] > 0.0 && (present || t.empty == kEmptyScore);
  return r;
}

FL_NAMESPACE_END

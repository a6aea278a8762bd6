// Per-pixel terms, each value f next to its derivative with respect to the logit.
//   bce    -[w y log p + (1 - y) log(1 - p)]
//   focal  alpha_t (1 - p_t)^gamma (-log p_t)     Lin et al. 2017, eq. 5; binary: -log p_t = BCE, also for soft labels,
//          where 1 - p_t = 1 - exp(-BCE) (smp), or with focal_margin sigmoid(-x (2y - 1)) (MONAI)
//   ce     -w_y log p_y
//   poly   CE or BCE + eps (1 - p_t)              Leng et al. 2022, Poly-1
//   log_power  w (-log p_t)^gamma                 Wong et al. 2018, eq. 3
//   linear     y p, for a label y of any size: a signed distance (boundary, Kervadec et al. 2019), or what it costs to
//              take a class for another (wasserstein, Fidon et al. 2017)
#pragma once
#include "activation.h"

FL_NAMESPACE_BEGIN

// Scalars by value throughout: a struct that a loop passes by reference stays in memory and undoes its vectorisation.
// p, q = 1 - p, neg_log_p = -log p, neg_log_1mp = -log q are those of activation.h. 0 * inf must not appear: a label of
// 0 or 1, or a weight of 0, removes the infinite half.
template <class T>
FL_HD T bce(T neg_log_p, T neg_log_1mp, T y, T pos_weight) {
  return product(pos_weight * y, neg_log_p) + product(T(1) - y, neg_log_1mp);
}
template <class T>
FL_HD T bce_grad(T p, T q, T y, T pos_weight) {
  return fma_(T(1) - y, p, -(pos_weight * y * q));
}

template <class T>
FL_HD T smooth_label(T y, T smoothing) {
  return fma_(smoothing, T(0.5) - y, y);
}

// How (1 - p_t)^gamma is taken; a template argument so that the common exponents cost no logarithm.
enum FocalPower { kPower0, kPower1, kPower2, kPowerAny };

template <FocalPower kPower, class T>
FL_HD T focal_power(T u, T gamma) {
  if (kPower == kPower0) return T(1);
  if (kPower == kPower1) return u;
  if (kPower == kPower2) return u * u;
  return pow_unit(u, gamma);
}

// 1 - p_t. For a hard label it is the other class's probability, which keeps its relative accuracy.
template <class T>
FL_HD T focal_miss(T p, T q, T y, T b) {
  const T soft = relu(T(1) - exp_minus(abs_(b)));
  return y == T(1) ? q : (y == T(0) ? p : soft);
}

template <FocalPower kPower, class T>
FL_HD T focal_binary(T b, T u, T y, T alpha_on, T alpha_off, T gamma) {
  return product((alpha_on * y + alpha_off * (T(1) - y)) * focal_power<kPower>(u, gamma), b);
}
// 1 + gamma p_t b / u: with b / u -> 1 as u -> 0 no negative power of u is ever taken, so gamma < 1 stays finite; with
// p_t = 0 it is 1 even where b is infinite. gamma = 2 needs no division: u^2 b / u = u b.
template <class T>
FL_HD T focal_growth(T b, T u, T pt, T gamma) {
  const T ratio = select_(u > T(1e-30), quotient(b, u), T(1));
  return T(1) + select_(pt > T(0), gamma * pt * ratio, T(0));
}
template <FocalPower kPower, class T>
FL_HD T focal_slope(T b, T u, T pt, T gamma) {
  if (kPower == kPower0) return T(1);
  if (kPower == kPower1) return u + select_(pt > T(0), pt * b, T(0));
  if (kPower == kPower2) return u * (u + select_(pt > T(0), (pt + pt) * b, T(0)));
  return focal_power<kPower>(u, gamma) * focal_growth(b, u, pt, gamma);
}
// b_grad = dBCE/dx
template <FocalPower kPower, class T>
FL_HD T focal_binary_grad(T b, T u, T y, T alpha_on, T alpha_off, T gamma, T b_grad) {
  return (alpha_on * y + alpha_off * (T(1) - y)) * b_grad * focal_slope<kPower>(b, u, T(1) - u, gamma);
}

// u = 1 - p_t by the margin; x = log p - log(1 - p). Hard labels keep the relative accuracy of p and q, as above.
template <class T>
FL_HD T margin_miss(T p, T q, T neg_log_p, T neg_log_1mp, T y) {
  const T soft = sigmoid<false>((neg_log_1mp - neg_log_p) * (T(1) - (y + y))).p;
  return y == T(1) ? q : (y == T(0) ? p : soft);
}
template <FocalPower kPower, class T>
FL_HD T focal_margin(T b, T u, T y, T alpha_on, T alpha_off, T gamma) {
  return focal_binary<kPower>(b, u, y, alpha_on, alpha_off, gamma);
}
// u^gamma (b' - gamma (2y - 1) p_t b), since du/dx = -(2y - 1) u p_t
template <class T>
FL_HD T margin_slope(T b, T u, T y, T gamma, T b_grad) {
  const T pt = T(1) - u, pull = pt > T(0) ? gamma * (T(1) - (y + y)) * pt * b : T(0);
  return b_grad + pull;
}
template <FocalPower kPower, class T>
FL_HD T focal_margin_grad(T b, T u, T y, T alpha_on, T alpha_off, T gamma, T b_grad) {
  return (alpha_on * y + alpha_off * (T(1) - y)) * focal_power<kPower>(u, gamma) * margin_slope(b, u, y, gamma, b_grad);
}

template <class T>
FL_HD T poly_binary(T p, T q, T neg_log_p, T neg_log_1mp, T y, T pos_weight, T eps) {
  return bce(fma_(eps, q, neg_log_p), fma_(eps, p, neg_log_1mp), y, pos_weight);
}
template <class T>
FL_HD T poly_binary_grad(T p, T q, T y, T pos_weight, T eps) {
  return fma_((T(1) - y) * p, fma_(eps, q, T(1)), -(pos_weight * y * q * fma_(eps, p, T(1))));
}

// gamma n^(gamma - 1), the derivative of n^gamma, with n from 1e-7 to 1e7. Below gamma = 1 it is infinite at n = 0,
// where p_t is 1: there Wong et al.'s code clips p_t to 1 - 1e-7. The upper end keeps 0 * inf away.
template <class T>
FL_HD T log_rate(T n, T gamma) {
  return gamma * pow_positive(at_most(T(1e7), at_least(T(1e-7), n)), gamma - T(1));
}
template <class T>
FL_HD T log_power_binary(T neg_log_p, T neg_log_1mp, T y, T pos_weight, T gamma) {
  return bce(pow_positive(neg_log_p, gamma), pow_positive(neg_log_1mp, gamma), y, pos_weight);
}
template <class T>
FL_HD T log_power_binary_grad(T p, T q, T neg_log_p, T neg_log_1mp, T y, T pos_weight, T gamma) {
  const T off = (T(1) - y) * p * log_rate(neg_log_1mp, gamma);
  return off - pos_weight * y * q * log_rate(neg_log_p, gamma);
}

template <class T>
FL_HD T linear_binary(T p, T y, T weight) {
  return weight * y * p;
}
template <class T>
FL_HD T linear_binary_grad(T p, T q, T y, T weight) {
  return linear_binary(p, y, weight) * q;
}

// Softmax terms of the target class: nll = -log p_t, u = 1 - p_t. The gradient functions give h = p_t dL/dp_t, so that
// dL/dz_c = h (y_c - p_c).
template <class T>
FL_HD T ce(T nll, T weight) {
  return product(weight, nll);
}
template <class T>
FL_HD T ce_grad(T weight) {
  return -weight;
}
template <FocalPower kPower, class T>
FL_HD T focal_multiclass(T nll, T u, T alpha, T gamma) {
  return product(alpha * focal_power<kPower>(u, gamma), nll);
}
template <FocalPower kPower, class T>
FL_HD T focal_multiclass_grad(T nll, T u, T alpha, T gamma) {
  return -alpha * focal_slope<kPower>(nll, u, exp_minus(abs_(nll)), gamma);  // 1 - u would lose a small p_t
}
template <class T>
FL_HD T poly_multiclass(T nll, T u, T weight, T eps) {
  return product(weight, fma_(eps, u, nll));
}
template <class T>
FL_HD T poly_multiclass_grad(T nll, T weight, T eps) {
  return -weight * fma_(eps, exp_minus(abs_(nll)), T(1));
}
template <class T>
FL_HD T linear_multiclass(T nll, T weight) {
  return weight * exp_minus(abs_(nll));
}
template <class T>
FL_HD T linear_multiclass_grad(T nll, T weight) {
  return linear_multiclass(nll, weight);
}
template <class T>
FL_HD T log_power_multiclass(T nll, T weight, T gamma) {
  return product(weight, pow_positive(nll, gamma));
}
template <class T>
FL_HD T log_power_multiclass_grad(T nll, T weight, T gamma) {
  return -weight * log_rate(nll, gamma);
}

FL_NAMESPACE_END

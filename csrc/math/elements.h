// What loops over pixels call: the pointwise terms with their settings bound, and the region terms' slope.
#pragma once
#include "pointwise.h"

FL_NAMESPACE_BEGIN

// Pointwise terms as the loops take them: value and slope (d value / dx) of one element.
template <class T>
struct BceElement {
  T pos_weight, smoothing;
  FL_HD T value(T, T, T neg_log_p, T neg_log_1mp, T y) const {
    return bce(neg_log_p, neg_log_1mp, smooth_label(y, smoothing), pos_weight);
  }
  FL_HD T slope(T p, T q, T, T, T y) const { return bce_grad(p, q, smooth_label(y, smoothing), pos_weight); }
};

template <FocalPower kPower, bool kHard, class T>
struct FocalElement {
  T gamma, on, off;
  FL_HD T cost(T neg_log_p, T neg_log_1mp, T y) const {
    return kHard ? (y > T(0) ? neg_log_p : neg_log_1mp) : bce(neg_log_p, neg_log_1mp, y, T(1));
  }
  FL_HD T miss(T p, T q, T y, T b) const { return kHard ? (y > T(0) ? q : p) : focal_miss(p, q, y, b); }
  FL_HD T value(T p, T q, T neg_log_p, T neg_log_1mp, T y) const {
    const T b = cost(neg_log_p, neg_log_1mp, y);
    return focal_binary<kPower>(b, miss(p, q, y, b), y, on, off, gamma);
  }
  FL_HD T slope(T p, T q, T neg_log_p, T neg_log_1mp, T y) const {
    const T b = cost(neg_log_p, neg_log_1mp, y);
    return focal_binary_grad<kPower>(b, miss(p, q, y, b), y, on, off, gamma, bce_grad(p, q, y, T(1)));
  }
};

// Focal whose soft labels are read by the margin (Term::margin); hard labels need FocalElement only.
template <FocalPower kPower, class T>
struct MarginElement {
  T gamma, on, off;
  FL_HD T value(T p, T q, T neg_log_p, T neg_log_1mp, T y) const {
    return focal_margin<kPower>(bce(neg_log_p, neg_log_1mp, y, T(1)), margin_miss(p, q, neg_log_p, neg_log_1mp, y), y,
                                on, off, gamma);
  }
  FL_HD T slope(T p, T q, T neg_log_p, T neg_log_1mp, T y) const {
    return focal_margin_grad<kPower>(bce(neg_log_p, neg_log_1mp, y, T(1)), margin_miss(p, q, neg_log_p, neg_log_1mp, y),
                                     y, on, off, gamma, bce_grad(p, q, y, T(1)));
  }
};

template <class T>
struct PolyElement {
  T pos_weight, smoothing, eps;
  FL_HD T value(T p, T q, T neg_log_p, T neg_log_1mp, T y) const {
    return poly_binary(p, q, neg_log_p, neg_log_1mp, smooth_label(y, smoothing), pos_weight, eps);
  }
  FL_HD T slope(T p, T q, T, T, T y) const {
    return poly_binary_grad(p, q, smooth_label(y, smoothing), pos_weight, eps);
  }
};
template <class T>
struct LogPowerElement {
  T pos_weight, gamma;
  FL_HD T value(T, T, T neg_log_p, T neg_log_1mp, T y) const {
    return log_power_binary(neg_log_p, neg_log_1mp, y, pos_weight, gamma);
  }
  FL_HD T slope(T p, T q, T neg_log_p, T neg_log_1mp, T y) const {
    return log_power_binary_grad(p, q, neg_log_p, neg_log_1mp, y, pos_weight, gamma);
  }
};
template <class T>
struct LinearElement {
  T weight;
  FL_HD T value(T p, T, T, T, T y) const { return linear_binary(p, y, weight); }
  FL_HD T slope(T p, T q, T, T, T y) const { return linear_binary_grad(p, q, y, weight); }
};

// Pointwise terms on the target class: value, and h = p_t dL/dp_t (dL/dz_c = h (y_c - p_c)); w is its weight or alpha.
struct CeElement {
  template <class T>
  FL_HD T value(T nll, T, T w) const {
    return ce(nll, w);
  }
  template <class T>
  FL_HD T slope(T, T, T w) const {
    return ce_grad(w);
  }
};
template <FocalPower kPower, class T>
struct FocalTargetElement {
  T gamma;
  FL_HD T value(T nll, T u, T w) const { return focal_multiclass<kPower>(nll, u, w, gamma); }
  FL_HD T slope(T nll, T u, T w) const { return focal_multiclass_grad<kPower>(nll, u, w, gamma); }
};
template <class T>
struct PolyTargetElement {
  T eps;
  FL_HD T value(T nll, T u, T w) const { return poly_multiclass(nll, u, w, eps); }
  FL_HD T slope(T nll, T, T w) const { return poly_multiclass_grad(nll, w, eps); }
};
template <class T>
struct LogPowerTargetElement {
  T gamma;
  FL_HD T value(T nll, T, T w) const { return log_power_multiclass(nll, w, gamma); }
  FL_HD T slope(T nll, T, T w) const { return log_power_multiclass_grad(nll, w, gamma); }
};
struct LinearTargetElement {
  template <class T>
  FL_HD T value(T nll, T, T w) const {
    return linear_multiclass(nll, w);
  }
  template <class T>
  FL_HD T slope(T nll, T, T w) const {
    return linear_multiclass_grad(nll, w);
  }
};

// dL/dp_c of the region terms.
template <bool kExtra, class T>
FL_HD T region_grad(T p, T y, T inter, T pred, T square, T cross, T diff) {
  T grad = fma_(inter, y, pred);
  if (kExtra) grad = fma_(fma_(cross, y, square), p, grad) + diff * sign_(p - y);
  return grad;
}

// The smallest logit whose sigmoid reaches the threshold.
template <class T>
inline T logit_threshold(double threshold) {
  const double exact = ::log(threshold / (1.0 - threshold));
  const T rounded = static_cast<T>(exact);
  return static_cast<double>(rounded) < exact ? std::nextafter(rounded, static_cast<T>(INFINITY)) : rounded;
}

FL_NAMESPACE_END

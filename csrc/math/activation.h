// The two activations. Sigmoid keeps p and 1 - p (the one is not the other's complement in floating point) and both
// negative log-probabilities; softmax is the element step of a max-shifted softmax.
#pragma once
#include "elementary.h"

FL_NAMESPACE_BEGIN

template <class T>
struct Sigmoid {
  T p, q;                    // sigmoid(x) and 1 - sigmoid(x), each with full relative accuracy
  T slope;                   // dp/dx = p q
  T neg_log_p, neg_log_1mp;  // -log p = softplus(-x) and -log q = softplus(x); only set by sigmoid<true>
};

template <bool kLogs, class T>
FL_HD Sigmoid<T> sigmoid(T x) {
  const T e = exp_minus(abs_(x));
  const T r = inverse(T(1) + e);
  const T s = e * r;
  const auto positive = x >= T(0);
  Sigmoid<T> a;
  a.p = select_(positive, r, s);
  a.q = select_(positive, s, r);
  a.slope = r * s;
  if (kLogs) {
    const T l = log1p_unit(e);
    a.neg_log_p = l + relu(-x);
    a.neg_log_1mp = l + relu(x);
  }
  return a;
}

// Of a hard label all that counts is the probability of the other class: miss = 1 - p_t, and nll = -log p_t.
template <class T>
struct HardSigmoid {
  T p, slope, miss, nll;
};
template <bool kLogs, class T, class Bool>
FL_HD HardSigmoid<T> hard_sigmoid(T x, Bool on) {
  const T a = abs_(x), e = exp_minus(a);
  const T r = inverse(T(1) + e);
  const T s = e * r;
  const Bool below = negative(x), right = below ^ on;
  HardSigmoid<T> h;
  h.p = select_(below, s, r);
  h.slope = r * s;
  if (kLogs) {
    h.miss = select_(right, s, r);
    h.nll = add_where(!right, log1p_unit(e), a);
  }
  return h;
}

// x - max; with kInfinite the limit for an infinite maximum: the class that holds it gets probability 1, not NaN.
template <bool kInfinite, class T>
FL_HD T softmax_shift(T x, T max) {
  return kInfinite && x == max ? T(0) : x - max;
}

FL_NAMESPACE_END

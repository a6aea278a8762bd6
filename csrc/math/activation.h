// The two activations. Sigmoid keeps p and 1 - p (the one is not the other's complement in floating point) and both
// negative log-probabilities; softmax is the element step of a max-shifted softmax.
#pragma once
#include "elementary.h"

FL_NAMESPACE_BEGIN

template <class T>
struct Sigmoid {
  T p, q;      // sigmoid(x) and 1 - sigmoid(x), each with full relative accuracy
  T slope;     // dp/dx = p q
  T nlp, nlq;  // -log p = softplus(-x) and -log q = softplus(x); only set by sigmoid<true>
};

template <bool kLogs, class T>
FL_HD Sigmoid<T> sigmoid(T x) {
  const T e = exp_minus(abs_(x));
  const T r = inverse(T(1) + e);
  const T s = e * r;
  const bool positive = x >= T(0);
  Sigmoid<T> a;
  a.p = positive ? r : s;
  a.q = positive ? s : r;
  a.slope = r * s;
  if (kLogs) {
    const T l = log1p_unit(e);
    a.nlp = l + relu(-x);
    a.nlq = l + relu(x);
  }
  return a;
}

// x - max; with kInfinite the limit for an infinite maximum: the class that holds it gets probability 1, not NaN.
template <bool kInfinite, class T>
FL_HD T softmax_shift(T x, T max) {
  return kInfinite && x == max ? T(0) : x - max;
}

FL_NAMESPACE_END

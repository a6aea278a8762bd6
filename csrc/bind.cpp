// fastloss._C: importing it registers the ops; beside that it tells about the build and evaluates single terms for
// tests.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/problem.h"
#include "math/pointwise.h"
#include "math/region.h"
#ifdef FASTLOSS_HAS_CUDA
#include "cuda/problem.h"
#endif

namespace py = pybind11;

namespace {

using Pair = std::pair<double, double>;

// Value and derivative with respect to the logit, computed in T (float: as the kernels do).
template <class T>
Pair bce(double x, double y, double pos_weight) {
  const auto a = fl::sigmoid<true>(static_cast<T>(x));
  return {fl::bce(a.neg_log_p, a.neg_log_1mp, T(y), T(pos_weight)), fl::bce_grad(a.p, a.q, T(y), T(pos_weight))};
}

template <class T, bool kMargin>
Pair focal_sigmoid(double x, double y, double gamma, double on, double off) {
  const auto a = fl::sigmoid<true>(static_cast<T>(x));
  const T b = fl::bce(a.neg_log_p, a.neg_log_1mp, T(y), T(1));
  const T u = kMargin ? fl::margin_miss(a.p, a.q, a.neg_log_p, a.neg_log_1mp, T(y)) : fl::focal_miss(a.p, a.q, T(y), b);
  const T db = fl::bce_grad(a.p, a.q, T(y), T(1));
  const auto at = [&](auto power) {
    constexpr fl::FocalPower kPower = decltype(power)::value;
    if (kMargin)
      return Pair{fl::focal_margin<kPower>(b, u, T(y), T(on), T(off), T(gamma)),
                  fl::focal_margin_grad<kPower>(b, u, T(y), T(on), T(off), T(gamma), db)};
    return Pair{fl::focal_binary<kPower>(b, u, T(y), T(on), T(off), T(gamma)),
                fl::focal_binary_grad<kPower>(b, u, T(y), T(on), T(off), T(gamma), db)};
  };
  if (gamma == 0.0) return at(std::integral_constant<fl::FocalPower, fl::kPower0>());
  if (gamma == 1.0) return at(std::integral_constant<fl::FocalPower, fl::kPower1>());
  if (gamma == 2.0) return at(std::integral_constant<fl::FocalPower, fl::kPower2>());
  return at(std::integral_constant<fl::FocalPower, fl::kPowerAny>());
}

template <class T>
Pair poly_binary(double x, double y, double pos_weight, double eps) {
  const auto a = fl::sigmoid<true>(static_cast<T>(x));
  return {fl::poly_binary(a.p, a.q, a.neg_log_p, a.neg_log_1mp, T(y), T(pos_weight), T(eps)),
          fl::poly_binary_grad(a.p, a.q, T(y), T(pos_weight), T(eps))};
}
template <class T>
Pair log_power_binary(double x, double y, double pos_weight, double gamma) {
  const auto a = fl::sigmoid<true>(static_cast<T>(x));
  return {fl::log_power_binary(a.neg_log_p, a.neg_log_1mp, T(y), T(pos_weight), T(gamma)),
          fl::log_power_binary_grad(a.p, a.q, a.neg_log_p, a.neg_log_1mp, T(y), T(pos_weight), T(gamma))};
}
template <class T>
Pair linear_binary(double x, double y, double weight) {
  const auto a = fl::sigmoid<true>(static_cast<T>(x));
  return {fl::linear_binary(a.p, T(y), T(weight)), fl::linear_binary_grad(a.p, a.q, T(y), T(weight))};
}

// Of the target class, as functions of nll = -log p and miss = 1 - p; the second number is h = p dL/dp.
template <class T>
Pair focal_multiclass(double nll, double miss, double gamma, double alpha) {
  return {fl::focal_multiclass<fl::kPowerAny>(T(nll), T(miss), T(alpha), T(gamma)),
          fl::focal_multiclass_grad<fl::kPowerAny>(T(nll), T(miss), T(alpha), T(gamma))};
}
template <class T>
Pair ce(double nll, double weight) {
  return {fl::ce(T(nll), T(weight)), fl::ce_grad(T(weight))};
}
template <class T>
Pair poly_multiclass(double nll, double miss, double weight, double eps) {
  return {fl::poly_multiclass(T(nll), T(miss), T(weight), T(eps)), fl::poly_multiclass_grad(T(nll), T(weight), T(eps))};
}
template <class T>
Pair log_power_multiclass(double nll, double weight, double gamma) {
  return {fl::log_power_multiclass(T(nll), T(weight), T(gamma)),
          fl::log_power_multiclass_grad(T(nll), T(weight), T(gamma))};
}
template <class T>
Pair linear_multiclass(double nll, double weight) {
  return {fl::linear_multiclass(T(nll), T(weight)), fl::linear_multiclass_grad(T(nll), T(weight))};
}

// loss and its derivatives by inter, pred, pred_sq, abs_diff; sums in the order of math/sums.h.
std::vector<double> region_loss(std::vector<double> sums, double alpha, double beta, double gamma, double smooth,
                                double eps, int curve, bool squared, bool l1) {
  if (sums.size() != fl::kFixedSums) throw py::value_error("sums must hold 8 numbers");
  fl::Term t{};
  t.alpha = alpha, t.beta = beta, t.gamma = gamma, t.smooth = smooth, t.eps = eps;
  t.curve = curve, t.squared = squared, t.l1 = l1;
  const fl::RegionValue r = fl::region_loss(t, sums.data());
  return {r.loss, r.d_inter, r.d_pred, r.d_pred_sq, r.d_abs};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  if (!fl_cpu::capability())
    throw py::import_error("FASTLOSS_CPU must be baseline, avx2 or avx512, and one that this processor runs");
  m.doc() = "Compiled core of fastloss: importing it registers the ops of the cpu backend.";
  m.def("cpu_capability", &fl_cpu::capability, "The build of the kernels in use: baseline, avx2 or avx512.");
#ifdef FASTLOSS_HAS_CUDA
  m.def("cuda_reason", &fl_cuda::reason, "None if the kernels can run on the current GPU, else why not.");
#endif
  m.attr("encoding_version") = fl::kEncodingVersion;
  m.attr("max_terms") = fl::kMaxTerms;
  auto terms = m.def_submodule("terms", "f and f' of single terms, for tests; the suffix is the precision.");
  terms.def("bce_f32", &bce<float>), terms.def("bce_f64", &bce<double>);
  terms.def("focal_binary_f32", &focal_sigmoid<float, false>);
  terms.def("focal_binary_f64", &focal_sigmoid<double, false>);
  terms.def("focal_margin_f32", &focal_sigmoid<float, true>);
  terms.def("focal_margin_f64", &focal_sigmoid<double, true>);
  terms.def("focal_multiclass_f32", &focal_multiclass<float>),
      terms.def("focal_multiclass_f64", &focal_multiclass<double>);
  terms.def("poly_binary_f32", &poly_binary<float>), terms.def("poly_binary_f64", &poly_binary<double>);
  terms.def("poly_multiclass_f32", &poly_multiclass<float>), terms.def("poly_multiclass_f64", &poly_multiclass<double>);
  terms.def("log_power_binary_f32", &log_power_binary<float>);
  terms.def("log_power_binary_f64", &log_power_binary<double>);
  terms.def("log_power_multiclass_f32", &log_power_multiclass<float>);
  terms.def("log_power_multiclass_f64", &log_power_multiclass<double>);
  terms.def("linear_binary_f32", &linear_binary<float>), terms.def("linear_binary_f64", &linear_binary<double>);
  terms.def("linear_multiclass_f32", &linear_multiclass<float>);
  terms.def("linear_multiclass_f64", &linear_multiclass<double>);
  terms.def("ce_f32", &ce<float>), terms.def("ce_f64", &ce<double>);
  terms.def("region_loss", &region_loss);
}

// The kernels of multiclass losses: every phase of a call, chosen outside of the loops over pixels.
#pragma once
#include "../epilogue.h"
#include "fast_loops.h"
#include "general.h"

namespace fl_cuda {

constexpr int kGeneralThreads = 256;

// Long code in double, which would take the loops' registers: apart from them.
static __device__ __noinline__ void finish_sums_apart(const Work& w, const Launch& l, Epilogue& e) {
  finish_sums(w, l, e);
}

// From the sums on, for all kernels: top-k's digits, the end of the sums by every block. Whether a gradient follows;
// then `grads` are the derivatives by the sums of the block's part.
template <int kV, class T>
__device__ __forceinline__ bool finish(const Work& w, const Launch& l, const Plan& p, unsigned char* memory,
                                       PointTerm<T>* terms, Epilogue& e, const double*& grads) {
  if (p.picks) select<kV>(w, l, p, terms, *shared_at<Selection<T>>(memory, p.digits));
  if (!l.finishes) return false;
  grid_barrier();
  if (l.phase != kAllPhases && blockIdx.x != 0 && !w.counts) return false;
  finish_sums_apart(w, l, e);
  grads = e.grad_sums;
  return l.phase == kAllPhases;
}

template <class T>
__device__ __forceinline__ void begin(const Work& w, const Launch& l, const Plan& p, unsigned char* memory,
                                      PointTerm<T>* terms, const Tables<T>& tables, const BlockSums& sums) {
  if (threadIdx.x == 0) fill_terms(w, terms);
  if (l.phase != kGradPhase) sums.clear();
  const bool counts = p.picks && l.phase != kGradPhase;
  if (counts && l.finishes) clear_histograms<T>(w, p.picks);
  __syncthreads();
  tables.fill_weights(w, terms, p.terms);
  if (counts) shared_at<Selection<T>>(memory, p.digits)->clear();
  __syncthreads();
}
// grads: of all parts, or null.
template <bool kHard, class T>
__device__ __forceinline__ void set_slopes(const Work& w, const Launch& l, const Plan& p, const double* grads,
                                           PointTerm<T>* terms, const Tables<T>& tables) {
  if (grads) grads += part_of(w, blockIdx.x / l.blocks).row * w.channels * columns_of(w);
  if (threadIdx.x == 0) set_scales(w, grads, p.terms, terms);
  __syncthreads();
  tables.template fill_slopes<kHard>(w, grads, terms, p.smooth);
  __syncthreads();
}

template <class X>
__global__ void __launch_bounds__(kMaxThreads)
    softmax_fast(const FL_GRID_CONSTANT Work w, const FL_GRID_CONSTANT Launch l, const FL_GRID_CONSTANT Plan p) {
  FL_DYNAMIC_SHARED(memory);
  __shared__ PointTerm<float> terms[fl::kMaxTerms];
  __shared__ Epilogue e;
  if (is_rescaled(w, l)) return;
  Fast<X> a(w, l, p, memory, terms);
  const BlockSums sums(w, l, p, memory);
  begin(w, l, p, memory, terms, a.tables, sums);
  const double* grads = w.grad_sums;
  const bool both = l.phase == kBothPhases;
  if (l.phase != kGradPhase && !both) {
    if (p.first == 0) {
      const bool bad = __syncthreads_or(add_sums(a));
      leave_sums(w, l, sums, p.in_shared, true, bad);
    }
    if (!finish<Fast<X>::kV>(w, l, p, memory, terms, e, grads)) return;
  }
  set_slopes<true>(w, l, p, both ? nullptr : grads, terms, a.tables);
  float flats = 0.0f;
  if (p.flats)
#pragma unroll 1
    for (int c = 0; c < w.channels; ++c) flats += a.tables.flat()[c];
  const bool bad = add_gradient(a, flats);
  if (!both) return;
  const bool any = __syncthreads_or(bad);
  leave_sums(w, l, sums, p.in_shared, true, any);
  finish<Fast<X>::kV>(w, l, p, memory, terms, e, grads);
}

template <class T>
__global__ void __launch_bounds__(kGeneralThreads, 2)
    softmax_general(const FL_GRID_CONSTANT Work w, const FL_GRID_CONSTANT Launch l, const FL_GRID_CONSTANT Plan p) {
  FL_DYNAMIC_SHARED(memory);
  __shared__ PointTerm<T> terms[fl::kMaxTerms];
  __shared__ Epilogue e;
  if (is_rescaled(w, l)) return;
  General<T> a(w, l, p, memory, terms);
  const BlockSums sums(w, l, p, memory);
  begin(w, l, p, memory, terms, a.tables, sums);
  const double* grads = w.grad_sums;
  if (l.phase != kGradPhase) {
    if (p.first == 0) {
      const bool bad = __syncthreads_or(add_sums(a));
      leave_sums(w, l, sums, p.in_shared, false, bad);
    }
    if (!finish<General<T>::kV>(w, l, p, memory, terms, e, grads)) return;
  }
  set_slopes<false>(w, l, p, grads, terms, a.tables);
  add_gradient(a);
}

}  // namespace fl_cuda

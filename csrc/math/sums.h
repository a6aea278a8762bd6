// The per-group sums that every loss is a function of, and the layout of the small tensors that carry them.
#pragma once
#include "hd.h"

FL_NAMESPACE_BEGIN

// Columns of sums and of their cotangents, [groups, channels, kFixedSums + terms].
enum SumColumn { kValid, kInter, kPred, kTarget, kPredSq, kTargetSq, kAbsDiff, kPredSqTarget, kFixedSums };

// Columns of aux, [terms, kAuxColumns]: what a term needs besides its sums.
enum AuxColumn { kDenominator, kThreshold, kTieWeight, kTopCount, kAuxColumns };

FL_NAMESPACE_END

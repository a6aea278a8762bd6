"""Types of arguments, as editors and type checkers see them; `_arguments` checks the values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

Mode = Literal["binary", "multilabel", "multiclass"]
SigmoidMode = Literal["binary", "multilabel"]
SoftmaxMode = Literal["multiclass"]
Reduction = Literal["mean", "sum", "none"]
ScalarReduction = Literal["mean", "sum"]
Empty = Literal["zero", "skip", "score"]
PlainEmpty = Literal["zero", "skip"]  # of Empty, where an absent class has no score
Soft = Literal["product", "l1"]
Weighting = Literal["square", "simple", "uniform"]
Curve = Literal["power", "log_cosh", "root", "log"]
Backend = Literal["reference", "cpu", "cuda", "triton"]
Interpolation = Literal["nearest-exact", "nearest"]
Upsampling = Literal["nearest", "nearest-exact", "linear", "bilinear", "trilinear"]
Direction = Literal["max", "min"]  # of a metric that gets better
Vector = Sequence[float] | Tensor

"""Plain PyTorch oracle: the same function names as csrc/math, differentiable, any device, float64-capable."""

from .boundary import add_label_columns
from .loss import counts, elementwise, finalize, loss, sums

__all__ = ["add_label_columns", "counts", "elementwise", "finalize", "loss", "sums"]

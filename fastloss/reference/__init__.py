"""Plain PyTorch oracle: the same function names as csrc/math, differentiable, any device, float64-capable."""

from .loss import counts, elementwise, finalize, loss, sums

__all__ = ["counts", "elementwise", "finalize", "loss", "sums"]

"""Plain PyTorch oracle: the same function names as csrc/math, differentiable, any device, float64-capable."""

from .loss import counts, elementwise, finalise, loss, sums

__all__ = ["counts", "elementwise", "finalise", "loss", "sums"]

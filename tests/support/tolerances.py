"""The one table of tolerances, and the one way to compare: as vectors, relative to the precision of the computation.

Kernels compute float32, float16 and bfloat16 logits in float32 and round a gradient once, to the dtype of the logits.
So a value is held to float32 whatever the logits, and a gradient to float32 plus half a unit in the last place.
"""

from dataclasses import dataclass

import torch

from fastloss._library import build_record


@dataclass(frozen=True)
class Tolerance:
    value: float  # |a - b| / |b| of a loss
    l2: float  # norm of the difference / norm of the truth
    worst: float  # largest difference / largest element of the truth
    # 1 - cosine of a pair with relative error l2 is at most l2^2 / 2, so that a tilt is seen beyond the rounding noise.

    @property
    def cosine(self) -> float:
        return max(self.l2**2, 1e-14)


def _rounded(dtype: torch.dtype, own: Tolerance) -> Tolerance:
    half_unit = torch.finfo(dtype).eps / 2
    return Tolerance(own.value, own.l2 + half_unit, own.worst + half_unit)


# An instrumented build is not vectorised: it adds a chunk's 1024 floats one by one, not in lanes, and rounds more.
SLACK = 10.0 if build_record().get("sanitize") else 1.0
_F32 = Tolerance(value=2e-6 * SLACK, l2=2e-6, worst=1e-5)
TOLERANCES = {
    torch.float64: Tolerance(value=1e-13, l2=1e-13, worst=1e-12),
    torch.float32: _F32,
    torch.float16: _rounded(torch.float16, _F32),
    torch.bfloat16: _rounded(torch.bfloat16, _F32),
}


def assert_value(actual, expected, dtype, scale=0.0, factor=1.0):
    """Two losses, or term values; `scale` bounds the magnitude from below where terms cancel."""
    a, b = actual.detach().double(), expected.detach().double()
    limit = factor * TOLERANCES[dtype].value
    error = ((a - b).abs() / b.abs().clamp_min(max(scale, 1e-30))).max().item() if a.numel() else 0.0
    if torch.equal(a, b):
        return
    assert error <= limit, f"value: got {a.tolist()}, expected {b.tolist()}, relative error {error:.2e} > {limit:.2e}"


def assert_vector(actual, expected, dtype, what="gradient", factor=1.0):
    """Two gradients (or elementwise values): relative L2, cosine, worst element relative to the largest."""
    assert actual.shape == expected.shape, f"{what}: shape {list(actual.shape)}, expected {list(expected.shape)}"
    a, b = actual.detach().double().flatten(), expected.detach().double().flatten()
    assert a.isfinite().all(), f"{what}: {(~a.isfinite()).sum().item()} of {a.numel()} elements are not finite"
    if torch.equal(a, b):
        return
    tolerance = TOLERANCES[dtype]
    size = b.norm().item()
    assert size > 0, f"{what}: expected zero, got up to {a.abs().max().item():.2e}"
    l2 = (a - b).norm().item() / size
    worst = ((a - b).abs().max() / b.abs().max()).item()
    cosine = 1.0 - (a @ b).item() / max(a.norm().item() * size, 1e-300)
    for name, error, limit in (
        ("relative L2", l2, tolerance.l2),
        ("worst element", worst, tolerance.worst),
        ("1 - cosine", cosine, tolerance.cosine),
    ):
        assert error <= factor * limit, f"{what}: {name} {error:.2e} > {factor * limit:.2e}"

"""f' against f for every term, in the kernels' own code (fastloss._C.terms), where it is hardest."""

import itertools
import math

import pytest

from fastloss import _library, spec

extension = _library.load()
pytestmark = pytest.mark.skipif(extension is None, reason=f"no extension: {_library.reason()}")
terms = extension and extension.terms

XS = [0.0, *(s * x for x in (1e-3, 1.0, 5.0, 20.0, 88.0, 1e4) for s in (1, -1))]
YS = (0.0, 1.0, 0.3)
TINY = 1e-37  # about the smallest normal float32: what lies below it counts as 0 in both precisions
GAMMAS = (0.0, 0.5, 1.0, 1.5, 2.0, 5.0)


def softplus(z):
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def bce(x, y, w=1.0):
    return (w * y * softplus(-x) if y else 0.0) + ((1 - y) * softplus(x) if y < 1 else 0.0)


def focal(x, y, gamma, on, off):
    b = bce(x, y)
    return (on * y + off * (1 - y)) * (-math.expm1(-b)) ** gamma * b


def margin(x, y, gamma, on, off):
    """1 - p_t by the margin: what soft labels are to MONAI."""
    miss = math.exp(-gamma * softplus(x * (2 * y - 1)))
    return (on * y + off * (1 - y)) * miss * bce(x, y)


def slope(f, x):
    """Central difference; every f here is computed to full relative accuracy, so only the step's own error is left."""
    h = 1e-4 if abs(x) < 50 else 1e-3
    return (f(x + h) - f(x - h)) / (2 * h)


def close(a, b, rtol, atol):
    relative = abs(a - b) / max(abs(b), 1e-300)
    assert abs(a - b) <= rtol * max(abs(a), abs(b)) + atol, f"{a!r} and {b!r}, relative {relative:.1e}"


@pytest.mark.parametrize("y", YS)
@pytest.mark.parametrize("x", XS)
def test_bce(x, y):
    for w in (1.0, 2.5):
        value, grad = terms.bce_f64(x, y, w)
        close(value, bce(x, y, w), 1e-14, 1e-300)
        close(grad, slope(lambda t: bce(t, y, w), x), 1e-6, 1e-9 if 0 < y < 1 else TINY)
        for got, exact in zip(terms.bce_f32(x, y, w), (value, grad)):
            close(got, exact, 1e-6, TINY)


@pytest.mark.parametrize(
    ("name", "formula"), (("focal_binary", focal), ("focal_margin", margin)), ids=("product", "margin")
)
@pytest.mark.parametrize("y", YS)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("x", XS)
def test_focal_binary(x, gamma, y, name, formula):
    double, single = [getattr(terms, f"{name}_{suffix}") for suffix in ("f64", "f32")]
    for on, off in ((1.0, 1.0), (0.25, 0.75)):
        value, grad = double(x, y, gamma, on, off)
        close(value, formula(x, y, gamma, on, off), 1e-12, TINY)
        close(grad, slope(lambda t: formula(t, y, gamma, on, off), x), 1e-6, 1e-9 if 0 < y < 1 else TINY)
        for got, exact in zip(single(x, y, gamma, on, off), (value, grad)):
            close(got, exact, 2e-5, TINY)


@pytest.mark.parametrize("suffix", ("f32", "f64"))
@pytest.mark.parametrize("y", (0.0, 1.0))
@pytest.mark.parametrize("x", (math.inf, -math.inf))
def test_sigmoid_terms_at_infinity(x, y, suffix):
    """Where the limit is finite it is taken: the gradient always, the value where the prediction is right."""
    right = (x > 0) == (y == 1)
    expected = 0.0 if right else math.copysign(1.0, x)
    for name, settings in (("bce", (1.0,)), *(("focal_binary", (gamma, 1.0, 1.0)) for gamma in GAMMAS)):
        value, grad = getattr(terms, f"{name}_{suffix}")(x, y, *settings)
        assert grad == pytest.approx(expected, abs=1e-15), (name, settings)
        assert value == (pytest.approx(0.0, abs=1e-15) if right else math.inf), (name, settings)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("nll", (1e-30, 1e-10, 1e-3, 0.1, 1.0, 5.0, 20.0, 88.0, 1e4))
def test_focal_multiclass(nll, gamma):
    """The second number is h = p dL/dp = -dL/d(nll)."""
    for alpha in (1.0, 0.25):

        def f(t, alpha=alpha):
            return alpha * (-math.expm1(-t)) ** gamma * t

        value, h = terms.focal_multiclass_f64(nll, -math.expm1(-nll), gamma, alpha)
        close(value, f(nll), 1e-12, TINY)
        step = min(1e-4, nll * 1e-4)
        close(h, -(f(nll + step) - f(nll - step)) / (2 * step), 1e-6, TINY)
        for got, exact in zip(terms.focal_multiclass_f32(nll, -math.expm1(-nll), gamma, alpha), (value, h)):
            close(got, exact, 2e-5, TINY)


@pytest.mark.parametrize("suffix", ("f32", "f64"))
@pytest.mark.parametrize("gamma", [g for g in GAMMAS if g])
def test_softmax_terms_where_p_is_0_or_1(gamma, suffix):
    focal_multiclass, ce = getattr(terms, f"focal_multiclass_{suffix}"), getattr(terms, f"ce_{suffix}")
    assert focal_multiclass(0.0, 0.0, gamma, 1.0) == (0.0, 0.0)
    assert focal_multiclass(math.inf, 1.0, gamma, 0.5) == (math.inf, -0.5)
    assert ce(0.0, 2.0) == (0.0, -2.0)
    assert ce(math.inf, 2.0) == (math.inf, -2.0)


SUMS = {  # valid, inter, p, y, p^2, y^2, |p - y|, p^2 y
    "usual": [100.0, 20.0, 40.0, 30.0, 25.0, 30.0, 30.0, 15.0],
    "soft": [100.0, 12.0, 35.5, 22.0, 17.0, 9.0, 40.5, 5.0],
    "nothing predicted": [100.0, 1e-3, 1e-2, 30.0, 1e-5, 30.0, 30.008, 1e-6],
    "tiny target": [1e9, 0.5, 1e6, 1.0, 1e5, 1.0, 1e6 - 0.5, 0.25],
}
SHAPES = [
    {"alpha": 0.5, "beta": 0.5},
    {"alpha": 1.0, "beta": 1.0, "smooth": 1.0},
    {"alpha": 0.3, "beta": 0.7, "gamma": 0.75},
    {"alpha": 1.5, "beta": 0.2, "gamma": 4 / 3, "smooth": 0.1},
    {"alpha": 0.5, "beta": 0.5, "curve": "log", "smooth": 1e-3},
    {"alpha": 0.5, "beta": 0.5, "curve": "log", "gamma": 0.3},
    {"alpha": 0.7, "beta": 0.4, "curve": "log_cosh"},
    {"alpha": 0.5, "beta": 0.5, "curve": "root", "gamma": 0.5},
    {"alpha": 1.0, "beta": 1.0, "curve": "root", "gamma": 3.0, "smooth": 1.0},
]
PLAIN = {"alpha": 0.5, "beta": 0.5, "gamma": 1.0, "smooth": 0.0, "eps": 1e-7, "curve": "power"}


def region(sums, *, curve, alpha, beta, gamma, smooth, eps, squared, l1):
    return terms.region_loss(sums, alpha, beta, gamma, smooth, eps, spec.CURVES.index(curve), squared, l1)


@pytest.mark.parametrize("squared,l1", list(itertools.product((False, True), repeat=2)))
@pytest.mark.parametrize("settings", SHAPES, ids=str)
@pytest.mark.parametrize("sums", SUMS.values(), ids=SUMS)
def test_region_loss(sums, settings, squared, l1):
    """Each derivative against a difference of the loss in that sum."""
    given = {**PLAIN, **settings, "squared": squared, "l1": l1}

    def f(values):
        return region(values, **given)[0]

    _, *derivatives = region(sums, **given)
    for column, derivative in zip((1, 2, 4, 6), derivatives):
        step = 1e-5 * min(sums[column], 1.0)
        up, down = [[v + s * (i == column) for i, v in enumerate(sums)] for s in (step, -step)]
        rounding = 1e-15 * (1 + abs(f(sums))) / step
        close(derivative, (f(up) - f(down)) / (2 * step), 1e-5, rounding)


def test_region_loss_at_its_edges():
    common = {**PLAIN, "squared": False, "l1": False}
    perfect, empty = [9.0, 5.0, 5.0, 5.0, 5.0, 5.0, 0.0, 5.0], [9.0, *[0.0] * 7]
    loss, *slopes = region(perfect, **common | {"gamma": 0.5})
    assert loss == 0.0 and slopes == [0.0] * 4  # no infinite slope where 1 - score is 0
    loss, d_inter, d_pred, *_ = region(empty, **common)
    assert loss == 1.0 and d_inter == pytest.approx(-1e7) and d_pred == 0.0  # the clamped denominator is a constant
    loss, *slopes = region(empty, **common | {"curve": "log"})
    assert loss == pytest.approx(-math.log(1e-7)) and slopes == [0.0] * 4


@pytest.mark.parametrize("gamma", (1e-3, 0.5, 1.0, 1.5, 50.0))
@pytest.mark.parametrize("curve", spec.CURVES)
def test_curves_at_the_ends_of_the_score(curve, gamma):
    """Value by the formula, and no slope that is infinite: at 0, 1, beside them, and above 1 (soft labels, squared)."""
    given = {**PLAIN, "curve": curve, "gamma": gamma, "squared": False, "l1": False}
    for score in (0.0, 1e-300, 1e-9, 1e-6, 1 - 1e-15, 1.0, 1.5):
        loss, *slopes = region([9.0, score, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0], **given)
        kept, miss = max(score, 1e-7), max(1 - score, 0.0)
        expected = {
            "power": 1 - score if gamma == 1 else miss**gamma,
            "log_cosh": math.log(math.cosh(1 - score)),
            "root": 1 - kept**gamma,
            "log": -math.log(kept) if gamma == 1 else max(-math.log(kept), 0.0) ** gamma,
        }[curve]
        assert loss == pytest.approx(expected, rel=1e-9, abs=1e-15), score
        assert all(map(math.isfinite, slopes)), score
    loss, *slopes = region([9.0, math.nan, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0], **given)
    assert math.isnan(loss) and math.isnan(slopes[0])


def poly(x, y, w, eps):
    p = 1.0 / (1.0 + math.exp(-x)) if x > -700 else 0.0
    q = 1.0 / (1.0 + math.exp(x)) if x < 700 else 0.0
    return bce(x, y, w) + eps * (w * y * q + (1 - y) * p)


@pytest.mark.parametrize("y", YS)
@pytest.mark.parametrize("x", XS)
def test_poly_binary(x, y):
    for settings in ((1.0, 1.0), (2.5, -1.0), (1.0, 0.0)):
        value, grad = terms.poly_binary_f64(x, y, *settings)
        close(value, poly(x, y, *settings), 1e-12, 1e-15 if settings[1] < 0 else TINY)  # with eps = -1 halves cancel
        close(grad, slope(lambda t, s=settings: poly(t, y, *s), x), 1e-6, 1e-9)
        for got, exact in zip(terms.poly_binary_f32(x, y, *settings), (value, grad)):
            close(got, exact, 2e-6, 1e-7 if settings[1] < 0 else 1e-30)


@pytest.mark.parametrize("gamma", (0.3, 1.0, 1.5, 3.0))
@pytest.mark.parametrize("y", YS)
@pytest.mark.parametrize("x", XS)
def test_log_power_binary(x, y, gamma):
    def f(t):
        return (2.5 * y * softplus(-t) ** gamma if y else 0.0) + ((1 - y) * softplus(t) ** gamma if y < 1 else 0.0)

    value, grad = terms.log_power_binary_f64(x, y, 2.5, gamma)
    close(value, f(x), 1e-12, 1e-30)
    if all(1e-7 < softplus(t) < 1e7 for t in (x, -x)):
        close(grad, slope(f, x), 1e-6, 1e-8 * max(1.0, abs(value)))
    for got, exact in zip(terms.log_power_binary_f32(x, y, 2.5, gamma), (value, grad)):
        close(got, exact, 2e-5, 1e-11)  # -log p below the smallest normal float counts as 0, and so does its root


@pytest.mark.parametrize("nll", (1e-6, 1e-3, 0.1, 1.0, 5.0, 88.0, 1e4))
def test_softmax_terms_beside_focal(nll):
    """The second number is h = p dL/dp = -dL/d(nll)."""
    cases = {
        "poly_multiclass": ((nll, -math.expm1(-nll)), (2.0, 0.7), lambda t: 2.0 * (t - 0.7 * math.expm1(-t))),
        "log_power_multiclass": ((nll,), (2.0, 0.3), lambda t: 2.0 * t**0.3),
        "linear_multiclass": ((nll,), (-3.0,), lambda t: -3.0 * math.exp(-t)),
    }
    for name, (at, settings, f) in cases.items():
        value, h = getattr(terms, f"{name}_f64")(*at, *settings)
        step = nll * 1e-4
        close(value, f(nll), 1e-12, TINY)
        close(h, -(f(nll + step) - f(nll - step)) / (2 * step), 1e-6, TINY)
        for got, exact in zip(getattr(terms, f"{name}_f32")(*at, *settings), (value, h)):
            close(got, exact, 2e-5, TINY)


@pytest.mark.parametrize("suffix", ("f32", "f64"))
@pytest.mark.parametrize("gamma", (0.3, 1.0, 2.0, 5.0))
def test_a_power_of_the_logarithm_where_p_is_0_or_1(gamma, suffix):
    """The slope is taken at -log p_t = 1e-7 and 1e7: finite, and nothing where it meets p_t = 1."""
    binary, multiclass = [getattr(terms, f"log_power_{name}_{suffix}") for name in ("binary", "multiclass")]
    value, grad = binary(math.inf, 1.0, 1.0, gamma)
    assert value == 0.0 and grad == 0.0
    value, grad = binary(-math.inf, 1.0, 1.0, gamma)
    assert value == math.inf and grad == pytest.approx(-gamma * 1e7 ** (gamma - 1), rel=1e-5)
    value, h = multiclass(0.0, 1.0, gamma)
    assert value == 0.0 and h == pytest.approx(-gamma * 1e-7 ** (gamma - 1), rel=1e-5)
    assert multiclass(math.inf, 0.0, gamma)[0] == 0.0


def test_a_distance_has_any_size():
    value, grad = terms.linear_binary_f64(0.0, -40.0, 0.5)
    assert (value, grad) == (-10.0, -5.0)
    assert terms.linear_binary_f32(math.inf, 40.0, 1.0) == (40.0, 0.0)

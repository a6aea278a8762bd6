"""Top-k: the count, the ties, and the selection where float32 cannot tell elements apart."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from cases import MODES, SHAPES, logits, oracle, run, target
from tolerances import SLACK, assert_value

import fastloss as fl
from fastloss.spec import Term

DECIMALS = (0.29, 0.57, 0.58, 0.1, 0.7, 0.07, 0.001, 1e-6, 1.0, 1 / 3, 0.999, 5e-324, 1e-300)


def count_of(k, x, y, backend, mask=None):
    """sum / mean."""
    mean, total = [fl.TopKLoss("binary", k=k, reduction=r, backend=backend)(x, y, mask) for r in ("mean", "sum")]
    return (total / mean).item()


@pytest.mark.parametrize("k", DECIMALS)
def test_count(k, backend):
    """max(1, floor(k n)) of the decimal that was written: 0.29 * 100 is 29, though the product of the floats is not."""
    for n in (1, 7, 10, 99, 100, 300, 1000):
        x, y = logits((1, 1, n), torch.float64), target("binary", (1, 1, n))
        expected = max(1, int(Fraction(repr(k)) * n))
        assert count_of(k, x, y, backend) == pytest.approx(expected, rel=1e-9)


def test_count_is_of_valid_elements_in_the_whole_batch(backend):
    x, y = logits((4, 1, 100), torch.float64), target("binary", (4, 1, 100))
    mask = torch.zeros(4, 100, dtype=torch.bool)
    mask[:2] = True
    assert count_of(0.29, x, y, backend) == pytest.approx(116, rel=1e-9)
    assert count_of(0.29, x, y, backend, mask) == pytest.approx(58, rel=1e-9)
    x[0] = 50.0  # all of the largest elements lie in one sample
    value, grad = run(fl.TopKLoss("binary", k=0.1), x, torch.zeros_like(y), backend)
    assert value.item() == pytest.approx(50.0) and not grad[1:].any()


@pytest.mark.parametrize("mode", MODES)
def test_all_elements_are_tied(mode, backend):
    """Each gets an equal share, so that the sum of the gradient does not depend on the order of memory."""
    x = torch.full(SHAPES[mode], -1.5)
    y = torch.zeros(SHAPES[mode] if mode != "multiclass" else (SHAPES[mode][0], *SHAPES[mode][2:])).long()
    value, grad = run(fl.TopKLoss(mode, k=0.29), x, y, backend)
    elements = run(fl.BCEWithLogitsLoss(mode) if mode != "multiclass" else fl.CrossEntropyLoss(), x, y, backend)
    assert value.item() == pytest.approx(elements[0].item(), rel=1e-6 * SLACK)
    torch.testing.assert_close(grad, elements[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", (0.05, 0.31, 0.8))
def test_ties_by_the_thousand(mode, k, dtype, backend):
    """Logits from a small set: every threshold cuts through a heap of equal elements."""
    values = torch.tensor([-4.0, -1.0, -0.25, 0.0, 0.5, 2.0, 3.0])
    shape = (2, SHAPES[mode][1], 40, 30)
    x = values[torch.randint(0, 7, shape)].to(dtype)
    if mode == "multiclass":  # only the target's logit varies, so that equal losses have equal bits
        x[:, 1:] = 0
    y = torch.zeros((2, 40, 30)).long() if mode == "multiclass" else target(mode, shape)
    value, grad = run(fl.TopKLoss(mode, k=k), x, y, backend, upstream=1000.0)
    expected, expected_grad = oracle(fl.TopKLoss(mode, k=k), x, y, upstream=1000.0)
    assert_value(value, expected, dtype)
    half_unit = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(grad.double(), expected_grad, rtol=2e-5 + half_unit, atol=1e-7)


@pytest.mark.parametrize("case", ("plain", "masked", "weighted", "soft", "saturated"))
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", (0.001, 0.1, 0.6))
def test_selection_outside_a_band_around_the_threshold(mode, k, case, compiled):
    """float32 may order differently what lies within its precision of the threshold; the weight in there is exact."""
    shape = (3, SHAPES[mode][1], 20_011)
    x = logits(shape, torch.float32, scale=30.0 if case == "saturated" else 3.0)
    soft = case == "soft"
    kind = torch.uint8 if not soft else "probabilities" if mode == "multiclass" else "soft"
    y = target(mode, shape, kind)
    mask = torch.rand(3, 20_011) < 0.5 if case == "masked" else None
    weight = torch.rand(3, 20_011) if case == "weighted" else None
    settings = {"reduction": "none", "backend": "reference"}
    each = fl.CrossEntropyLoss(**settings) if mode == "multiclass" else fl.BCEWithLogitsLoss(mode, **settings)
    x64 = x.double().requires_grad_()
    y64 = y.double() if soft else y
    elements = each(x64, y64, mask, None if weight is None else weight.double())
    (slopes,) = torch.autograd.grad(elements.sum(), x64)
    elements = elements.detach()
    valid = torch.ones_like(elements, dtype=torch.bool)
    if mask is not None:
        valid = valid & (mask if mode == "multiclass" else mask[:, None])
    count = max(1, int(Fraction(repr(k)) * int(valid.sum())))
    tau = elements[valid].topk(count).values[-1]

    value, grad = run(fl.TopKLoss(mode, k=k), x, y, compiled, mask, weight, upstream=float(count))
    assert_value(value, elements[valid].topk(count).values.mean(), torch.float32)
    if mode == "multiclass":  # the share of a pixel, from its largest slope
        where = slopes.abs().argmax(1, keepdim=True)
        slopes, grad = slopes.gather(1, where)[:, 0], grad.gather(1, where)[:, 0]
    share = torch.where(slopes.abs() > 1e-30, grad.double() / slopes, 0.0)
    band = 1e-5 * tau.abs() + 1e-30
    above, below = valid & (elements > tau + band), elements < tau - band
    inside = valid & ~above & ~below & (slopes.abs() > 1e-30)
    assert (share[above] - 1).abs().max() < 1e-4 if above.any() else True
    assert not grad[below | ~valid].any()
    assert share[inside].sum().item() == pytest.approx(count - int(above.sum()), abs=1e-3 + 1e-4 * int(inside.sum()))
    assert inside.sum() <= 50 or case == "saturated"


@pytest.mark.parametrize("mode", MODES)
def test_two_topk_terms_of_one_compound(mode, compiled):
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode])
    parts = [fl.TopKLoss(mode, k=k) for k in (0.05, 0.5)]
    value, grad = run(parts[0] + 3 * parts[1], x, y, compiled)
    (a, da), (b, db) = [run(part, x, y, compiled) for part in parts]
    assert value.item() == pytest.approx((a + 3 * b).item(), rel=1e-6)
    torch.testing.assert_close(grad, da + 3 * db, rtol=1e-5, atol=1e-9)


def test_the_sum_over_everything_is_bce(compiled):
    x, y = logits(SHAPES["binary"]), target("binary", SHAPES["binary"])
    value, _ = run(fl.TopKLoss("binary", k=1.0), x, y, compiled)
    assert value.item() == pytest.approx(F.binary_cross_entropy_with_logits(x, y.float()).item(), rel=1e-6)


@pytest.mark.parametrize("kind", ("topk", "focal", "tversky"))
def test_a_term_that_cannot_be_smoothed_says_so(kind):
    """The backends did not agree about it."""
    with pytest.raises(
        ValueError, match=f"label_smoothing needs a term of the kind 'bce', 'ce' or 'poly', got 0.1 for '{kind}'"
    ):
        Term(kind, label_smoothing=0.1)
    assert Term(kind).weighted(2.0).weight == 2.0

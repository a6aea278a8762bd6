"""The mean of a weighted cross-entropy where the class weights of the pixels sum to 0 or less: the quotient, as torch;
0 (torch: NaN) where they sum to 0 and nothing counts."""

import pytest
import torch
import torch.nn.functional as F
from cases import SHAPES, logits, oracle, run, target
from tolerances import assert_value, assert_vector

import fastloss as fl
from fastloss.compat import torch as own
from fastloss.plan import plan
from fastloss.spec import Spec, Term


@pytest.mark.parametrize("smoothing", (0.0, 0.2))
@pytest.mark.parametrize("weights", ([-1.0, -2.0, -0.5], [1.0, -2.0, -1.5], [0.5, -0.25, 1.0]), ids=str)
def test_negative_weights_are_divided_by(weights, smoothing, backend):
    x, y = logits(SHAPES["multiclass"]), target("multiclass", SHAPES["multiclass"])
    x.requires_grad_()
    weight = torch.tensor(weights)
    with fl.backends.use(backend):
        value = own.CrossEntropyLoss(weight, label_smoothing=smoothing)(x, y)
    expected = F.cross_entropy(x.double(), y, weight.double(), label_smoothing=smoothing)
    assert expected.abs() > 0.1
    assert_value(value, expected, torch.float32, factor=10)
    assert_vector(*[torch.autograd.grad(v, x)[0] for v in (value, expected)], torch.float32, factor=10)


@pytest.mark.parametrize("smoothing", (0.0, 0.2))
def test_weights_of_0_count_nothing(smoothing, backend):
    x, y = logits(SHAPES["multiclass"]), torch.zeros(SHAPES["multiclass"][0], *SHAPES["multiclass"][2:]).long()
    loss = fl.CrossEntropyLoss(class_weights=[0.0, 1.0, 2.0], label_smoothing=smoothing)
    value, grad = run(loss, x, y, backend)
    assert value == 0 and not grad.any()
    with fl.backends.use(backend):
        assert own.CrossEntropyLoss(torch.tensor([0.0, 1.0, 2.0]), label_smoothing=smoothing)(x, y) == 0


def test_what_is_masked_has_no_weight(backend):
    """The sum of the weights is of the valid pixels."""
    x, y = logits(SHAPES["multiclass"], torch.float64), target("multiclass", SHAPES["multiclass"])
    mask = y == 1
    term = Term("ce", vector=(2.0, -3.0, 1.0))
    with fl.backends.use(backend):
        value, _, _ = plan(Spec("multiclass", (term,))).run(x, y, mask)
    expected, _ = oracle(fl.CrossEntropyLoss(), x, y, mask)
    assert_value(value, expected, torch.float64)

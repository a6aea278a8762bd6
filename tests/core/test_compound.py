"""Sums of losses: flat, in one pass, with numbers or tensors as weights; losses as modules; functional forms."""

import copy
import inspect
import pickle

import pytest
import torch
from cases import (
    FORMS,
    LOSSES,
    MODES,
    NEEDED,
    SHAPES,
    build,
    crossentropy,
    default_mode,
    logits,
    oracle,
    run,
    target,
    target_of,
)
from tolerances import assert_value, assert_vector

import fastloss as fl
from fastloss import functional

A, B, C = fl.DiceLoss("binary"), fl.BCEWithLogitsLoss(), fl.FocalLoss("binary")
X, Y = logits(SHAPES["binary"], torch.float64), target("binary", SHAPES["binary"])
a, b, c = A(X, Y), B(X, Y), C(X, Y)

SUMS = {
    "plus": (lambda: A + B, a + b),
    "minus": (lambda: A - B, a - b),
    "scaled": (lambda: 0.5 * A + B * 2, 0.5 * a + 2 * b),
    "divided": (lambda: (A + B) / 4, (a + b) / 4),
    "negated": (lambda: -(A - C), c - a),
    "nested": (lambda: 2 * (A + 3 * (B - C / 2)), 2 * (a + 3 * (b - c / 2))),
    "sum()": (lambda: sum([A, B, C]), a + b + c),
    "sum of products": (lambda: sum(w * t for w, t in ((1, A), (2, B))), a + 2 * b),
    "the same twice": (lambda: A + A, 2 * a),
    "a tensor": (lambda: torch.tensor(0.25) * A + B, 0.25 * a + b),
    "a tensor behind": (lambda: A * torch.tensor(0.25, dtype=torch.float64) - B, 0.25 * a - b),
    "a product of tensors": (lambda: torch.tensor(0.5) * (torch.tensor(4.0) * A + 3 * B), 2 * a + 1.5 * b),
    "a half tensor": (lambda: torch.tensor(0.5, dtype=torch.bfloat16) * A, 0.5 * a),
    "nothing left": (lambda: 0 * A + 0.0 * B, 0 * a),
}


@pytest.mark.parametrize("make,expected", SUMS.values(), ids=SUMS)
def test_arithmetic(make, expected, backend):
    value, grad = run(make(), X, Y, backend)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
    assert grad.shape == X.shape


def test_a_compound_is_flat_and_its_parts_are_untouched():
    before = repr(A)
    compound = 2 * (A + 3 * (B - C / 2))
    assert [term.weight for term in compound.spec.terms] == [2.0, 6.0, -3.0]
    assert repr(A) == before and A.spec.terms[0].weight == 1.0
    assert isinstance(compound, fl.CompoundLoss) and len(list(compound.modules())) == 1


def test_the_order_of_a_weight_tensor_filled_later(compiled):
    weight = torch.tensor(0.0)
    criterion = weight * A + B
    for value in (0.0, 1.0, -2.5, 1e-3):
        weight.fill_(value)
        torch.testing.assert_close(run(criterion, X, Y, compiled)[0], value * a + b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
def test_a_weight_that_learns(mode, dtype, backend):
    """Its gradient is the term's value; the logits' gradient is that of the plain path."""
    x, y = logits(SHAPES[mode], dtype).requires_grad_(), target(mode, SHAPES[mode])
    weight = torch.nn.Parameter(torch.tensor(0.7))
    parts = fl.DiceLoss(mode, batch=False, empty="skip"), crossentropy(mode), fl.TopKLoss(mode, k=0.4)
    criterion = weight * parts[0] + parts[1] + 0.5 * weight * parts[2]
    assert list(criterion.parameters()) == [weight]
    mask, upstream = torch.rand(x[:, 0].shape) < 0.7, 100.0
    with fl.backends.use(backend):
        value, stats = criterion.with_stats(x, y, mask=mask)
        grads = torch.autograd.grad(value * upstream, (x, weight))
        plain = 0.7 * parts[0] + parts[1] + 0.35 * parts[2]
        expected_weight = parts[0](x, y, mask) + 0.5 * parts[2](x, y, mask)
    expected, expected_grad = oracle(plain, x, y, mask, upstream=upstream)
    assert_value(value, expected, dtype)
    assert_vector(grads[0], expected_grad, dtype)
    assert_value(grads[1], upstream * expected_weight, torch.float32)
    assert stats.counts.sum() == mask.sum() * x.shape[1]


def test_registered_weights_follow_state_dict_and_device():
    criterion = torch.tensor(0.25) * A + torch.nn.Parameter(torch.tensor(2.0)) * B
    assert set(criterion.state_dict()) == {"weight_0", "weight_1"}
    other = torch.tensor(0.0) * A + torch.nn.Parameter(torch.tensor(0.0)) * B
    other.load_state_dict(criterion.state_dict())
    assert torch.equal(other(X, Y), criterion(X, Y))
    assert criterion.to(torch.float64).weight_0.dtype == torch.float64


@pytest.mark.parametrize("name", LOSSES)
def test_copies(name):
    mode = LOSSES[name][0]
    loss = build(name)
    x, y = logits(SHAPES[mode]), target(mode, SHAPES[mode])
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert repr(other) == repr(loss) and torch.equal(other(x, y), loss(x, y))
        other.load_state_dict(loss.state_dict())
        assert other.spec == loss.spec


def test_a_deep_copy_has_weights_of_its_own():
    criterion = torch.tensor(1.0) * A
    other = copy.deepcopy(criterion)
    other.weight_0.fill_(0.0)
    assert criterion(X, Y) == a and other(X, Y) == 0


REPRS = {
    "DiceLoss('binary')": A,
    "TverskyLoss('binary', alpha=0.3 (FP), beta=0.7 (FN), gamma=0.75, batch=False, empty='skip', ignore_index=2)": (
        fl.TverskyLoss("binary", alpha=0.3, beta=0.7, gamma=0.75, batch=False, empty="skip", ignore_index=2)
    ),
    "FocalLoss('binary', gamma=2, alpha=0.25 (positives))": fl.FocalLoss("binary", alpha=0.25),
    "FocalLoss('multiclass', gamma=2, alpha=[1.0, 2.0] (classes))": fl.FocalLoss("multiclass", alpha=[1, 2]),
    "TopKLoss('binary', k=0.29)": fl.TopKLoss("binary", k=0.29),
    "CrossEntropyLoss('multiclass', class_weights=[1.0, 2.0], reduction='sum')": (
        fl.CrossEntropyLoss(class_weights=torch.tensor([1.0, 2.0]), reduction="sum")
    ),
    "JaccardLoss('binary', gamma=0.5, curve='root')": fl.JaccardLoss("binary", curve="root", gamma=0.5),
    "DiceLoss('multilabel', smooth=1, log_loss=True, classes=[0, 2], soft='l1', backend='reference')": (
        fl.DiceLoss("multilabel", smooth=1.0, log_loss=True, classes=(2, 0), soft="l1", backend="reference")
    ),
}


@pytest.mark.parametrize("text,loss", REPRS.items(), ids=REPRS)
def test_repr(text, loss):
    assert repr(loss) == text


def test_repr_of_a_compound():
    text = repr(0.5 * A - torch.tensor(0.25) * B)
    assert text.splitlines() == [
        "CompoundLoss(",
        "  +0.5 * DiceLoss('binary')",
        "  -1 * weight_0=0.25 * BCEWithLogitsLoss('binary')",
        ")",
    ]


class Adding(torch.nn.Module):
    """A loss of another library that adds itself to others."""

    def __radd__(self, other):
        return "added"


@pytest.mark.parametrize(
    "combine",
    (
        lambda a, b: a + b,
        lambda a, b: b + a,
        lambda a, b: a - b,
        lambda a, b: b - a,
        lambda a, b: sum([a, b]),
        lambda a, b: fl.CompoundLoss([(1.0, a), (0.5, b)]),
    ),
)
def test_a_loss_of_another_library_hints_at_fuse(combine):
    for other in (torch.nn.CrossEntropyLoss(), fl.fuse(torch.nn.CrossEntropyLoss())):
        with pytest.raises(TypeError, match=r"got CrossEntropyLoss; fastloss\.fuse\(\[\(weight, loss\), …\]\) adds"):
            combine(fl.DiceLoss("multiclass"), other)
    with pytest.raises(TypeError, match="unsupported operand"):
        fl.DiceLoss("multiclass") + 1.0
    assert fl.DiceLoss("multiclass") + Adding() == "added"


@pytest.mark.parametrize("name", FORMS)
def test_functional_form(name, backend):
    owner, form = FORMS[name], getattr(functional, name)
    mode = "multiclass" if default_mode(owner) == "multiclass" else "multilabel"
    x, y = logits(SHAPES[mode]), target_of(owner, mode, SHAPES[mode])
    mask, weight = torch.rand(x[:, 0].shape) < 0.5, torch.rand(x[:, 0].shape)
    arguments = inspect.signature(owner).parameters
    settings = {"backend": backend} | ({"ignore_index": 5} if "ignore_index" in arguments else {})
    extra = dict(NEEDED.get(owner, {}))
    if "class_weights" in arguments and (mode == "multiclass" or owner is not fl.PolyLoss):
        extra["class_weights"] = [1.0, 2.0, 3.0]
    expected = owner(mode, **settings, **extra)(x, y, mask, weight)
    assert torch.equal(form(x, y, mode, mask=mask, pixel_weight=weight, **settings, **extra), expected)
    keywords = {p.name for p in inspect.signature(owner).parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert keywords <= set(inspect.signature(form).parameters)


def test_every_form_is_tested():
    assert set(functional.__all__) == {*FORMS, "stats"}


def test_a_functional_form_sees_a_changed_tensor():
    """Settings are cached by value, never by identity."""
    x, y = logits(SHAPES["multiclass"]), target("multiclass", SHAPES["multiclass"])
    weights = torch.ones(3)
    before = functional.cross_entropy_loss(x, y, class_weights=weights)
    weights[0] = 100.0
    assert functional.cross_entropy_loss(x, y, class_weights=weights) != before


def test_more_than_one_thread_may_call_a_loss():
    """The cache of checked calls and the predicted scale are shared."""
    from concurrent.futures import ThreadPoolExecutor

    criterion = A + C

    def work(i):
        size = 5 + i % 7
        x, y = logits((1, 1, size, size)).requires_grad_(), target("binary", (1, 1, size, size))
        scale = float(1 + i % 3)
        (grad,) = torch.autograd.grad(criterion(x, y) * scale, x)
        assert_vector(grad, oracle(criterion, x, y, upstream=scale)[1], torch.float32)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(200)))

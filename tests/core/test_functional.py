"""Functional forms and classes have the same arguments, which editors see: signatures, words and docstrings."""

import inspect
from typing import get_args

import pytest
import torch
from cases import FORMS, NEEDED, default_mode, target_of

import fastloss as fl
from fastloss import _types, backends, deep, functional, spec

CALL = ("x", "y", "mask", "pixel_weight")
NATIVE = [f for f in vars(fl).values() if inspect.isclass(f) and issubclass(f, torch.nn.Module)]


@pytest.mark.parametrize("name", FORMS)
def test_a_form_has_the_arguments_of_its_class(name):
    form = getattr(functional, name)
    own = {p.name: (p.default, p.kind, p.annotation) for p in inspect.signature(form).parameters.values()}
    of_class = inspect.signature(FORMS[name]).parameters.values()
    assert list(own)[:3] == ["x", "y", "mode"]
    assert [own.pop(argument)[0] for argument in CALL] == [inspect.Parameter.empty] * 2 + [None] * 2
    assert list(own.items()) == [(p.name, (p.default, p.kind, p.annotation)) for p in of_class]


@pytest.mark.parametrize("name", functional.__all__)
def test_a_form_says_what_it_returns(name):
    form = getattr(functional, name)
    assert form.__doc__.startswith("Return ") and form.__name__ in (name, "jaccard_loss")
    assert form.__module__ == "fastloss.functional"


@pytest.mark.parametrize("owner", NATIVE, ids=lambda owner: owner.__name__)
def test_a_constructor_describes_its_arguments(owner):
    """In a docstring of its own: an editor shows that of torch's Module else."""
    text = vars(owner)["__init__"].__doc__
    for argument in inspect.signature(owner).parameters:
        assert f"\n            {argument}: " in text, argument


@pytest.mark.parametrize("owner", FORMS.values(), ids=lambda owner: owner.__name__)
def test_every_word_of_an_argument_is_taken(owner):
    """The words that editors offer are those that the checks allow."""
    words = {"mode": "Mode", "reduction": "Reduction", "empty": "Empty", "soft": "Soft", "curve": "Curve"}
    words |= {"backend": "Backend"}
    words |= {"weighting": "Weighting"}
    parameters = inspect.signature(owner).parameters
    for argument, parameter in parameters.items():
        if argument in words:
            name = parameter.annotation.removesuffix(" | None")
            assert name.endswith(words[argument])
            for word in get_args(getattr(_types, name)):
                needed = {"smooth": 1.0} if word == "score" and "smooth" in parameters else {}
                owner(**{argument: word}, **needed)


def test_the_words_are_those_of_the_specs():
    assert get_args(_types.Mode) == spec.MODES and get_args(_types.Reduction) == spec.REDUCTIONS
    assert get_args(_types.Empty) == spec.EMPTY and get_args(_types.Backend) == backends.NAMES
    assert get_args(_types.Curve) == spec.CURVES
    assert get_args(_types.Interpolation) == deep.INTERPOLATIONS


@pytest.mark.parametrize("name", FORMS)
def test_the_mode_has_the_same_default_in_both(name):
    owner, form = FORMS[name], getattr(functional, name)
    classes, needed = default_mode(owner) == "multiclass", NEEDED.get(owner, {})
    x = torch.randn(2, 3 if classes else 1, 4, 5)
    y = target_of(owner, "multiclass" if classes else "binary", x.shape)
    assert torch.equal(owner(**needed)(x, y), form(x, y, **needed))


@pytest.mark.parametrize("name", FORMS)
def test_a_wrong_argument_is_an_error_that_names_the_class(name):
    x = torch.zeros(1, 1, 2, 2)
    for call in (lambda: FORMS[name](bogus=1), lambda: getattr(functional, name)(x, x, bogus=1)):
        with pytest.raises(TypeError, match=rf"^{FORMS[name].__name__}\S*\(\) got an unexpected keyword .*'bogus'"):
            call()
    with pytest.raises(TypeError, match=rf"^{FORMS[name].__name__}\S*\(\) takes from 1 to 2 positional"):
        FORMS[name]("binary", 1.0)
    with pytest.raises(TypeError, match=r"^\w+_loss\(\) takes from 2 to 3 positional"):
        getattr(functional, name)(x, x, "binary", None)


@pytest.mark.parametrize(
    "form,setting,good,bad",
    (
        (functional.topk_loss, "k", 1.0, 1),
        (functional.cross_entropy_loss, "class_weights", [1.0, 1.0, 1.0], [True, True, True]),
        (functional.dice_loss, "classes", [0, 1], [0.0, 1.0]),
        (functional.dice_loss, "batch", True, 1),
    ),
)
def test_an_equal_value_of_a_wrong_type_is_refused_after_a_right_one(form, setting, good, bad):
    x, y = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    form(x, y, "multiclass", **{setting: good})
    with pytest.raises(TypeError, match=f"^{setting} must be"):
        form(x, y, "multiclass", **{setting: bad})

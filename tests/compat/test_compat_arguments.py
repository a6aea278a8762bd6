"""Arguments of drop-ins that are no list where one is expected: refused wherever the original refuses them, and what
smp leaves out without a word is an error with strict=False."""

import importlib
import inspect
import warnings

import pytest
import torch

import fastloss as fl
from fastloss.compat._base import REGISTRY

pytest.importorskip("segmentation_models_pytorch")
pytest.importorskip("monai")
pytest.importorskip("nnunetv2")
for name in ("smp", "monai", "nnunet", "torch"):
    getattr(fl.compat, name)
LISTS = ("weight", "pos_weight", "alpha", "classes", "class_weights", "weights", "weight_factors")
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MASKS = (X > 0.5).float()
IDS = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(1))
BAD = {
    "dict": lambda: {0: 1.0, 1: 2.0, 2: 0.5},
    "set": lambda: {1.0, 2.0, 0.5},
    "frozenset": lambda: frozenset({1.0, 2.0, 0.5}),
    "string": lambda: "abc",
    "bytes": lambda: b"abc",
    "strings": lambda: ["a", "b", "c"],
    "nested": lambda: [[1.0, 2.0, 3.0]],
    "complex": lambda: [1j, 2.0, 3.0],
    "object": object,
}
CASES = [
    (home, argument)
    for home, drop_in in sorted(REGISTRY.items())
    for argument in inspect.signature(drop_in).parameters
    if argument in LISTS
]


def outcome(owner, argument, bad):
    """The value of a loss made with it, or the exception."""
    settings = {argument: bad()}
    parameters = inspect.signature(owner).parameters
    if "sigmoid" in parameters:
        settings["sigmoid"] = True
    if "mode" in parameters:
        settings["mode"] = "multilabel"
    if "loss" in parameters:
        settings["loss"] = torch.nn.BCEWithLogitsLoss()
    y = IDS if issubclass(owner, torch.nn.CrossEntropyLoss) else MASKS
    y = y[:, None] if owner.__name__ == "TopKLoss" else y
    args = {"DeepSupervisionLoss": ([X], y), "DeepSupervisionWrapper": ([X], [y])}.get(owner.__name__, (X, y))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return owner(**settings)(*args)
    except Exception as error:
        return error


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("home,argument", CASES, ids=str)
def test_what_the_original_refuses_is_refused(home, argument, kind):
    module, _, name = home.rpartition(".")
    if kind == "complex" and name == "DeepSupervisionLoss":
        return  # multiplies by it
    expected = outcome(getattr(importlib.import_module(module), name), argument, BAD[kind])
    found = outcome(REGISTRY[home], argument, BAD[kind])
    if isinstance(expected, Exception):
        assert isinstance(found, Exception), f"the original raises {expected!r}, ours gives {found}"
    elif isinstance(found, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ("dict", "set", "frozenset", "string", "object"))
@pytest.mark.parametrize("argument", ("classes", "class_weights"))
@pytest.mark.parametrize("name", ("DiceLoss", "JaccardLoss", "TverskyLoss", "FocalLoss"))
def test_smp_leaves_out_and_strict_false_does_not(name, argument, kind):
    owner = getattr(fl.compat.smp, name)
    if argument in inspect.signature(owner).parameters:
        with pytest.raises(TypeError, match=f"^{argument} must be a list"):
            owner("multilabel", **{argument: BAD[kind]()}, strict=False)

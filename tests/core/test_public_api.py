"""The public API is that of public_api.txt: names, arguments, defaults. What is changed on purpose is written by

python tests/core/test_public_api.py > tests/core/public_api.txt
"""

import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch

import fastloss
from fastloss.compound import Criterion

HERE = Path(__file__).resolve().parent
NAMESPACES = ("smp", "monai", "nnunet", "torch")


def signature(found):
    """Names, kinds and defaults of the arguments."""
    whole = inspect.signature(found)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in whole.parameters.values()]
    return str(whole.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def members(owner, base=torch.nn.Module):
    """Public methods and attributes that the base does not have."""
    for name in sorted(set(dir(owner)) - set(dir(base))):
        if name[0] != "_":
            found = getattr(owner, name)
            yield name + (signature(found) if callable(found) else "")


def lines():
    """One line for each public name."""
    yield from [f"every loss: {text}" for text in members(Criterion)]
    for name in sorted(fastloss.__all__):
        found = getattr(fastloss, name)
        if inspect.ismodule(found):
            public = getattr(found, "__all__", [n for n, f in vars(found).items() if own_function(found, n, f)])
            yield from [f"fastloss.{name}.{n}{signature(getattr(found, n))}" for n in sorted(public)]
        elif inspect.isclass(found) and issubclass(found, Exception):
            yield f"fastloss.{name}({found.__base__.__name__})"
        elif inspect.isclass(found):
            yield f"fastloss.{name}{signature(found)}"
            yield from [f"fastloss.{name}.{text}" for text in members(found, *own_base(found))]
        else:
            yield f"fastloss.{name}{signature(found) if callable(found) else ''}"
    for namespace in NAMESPACES:
        module = importlib.import_module(f"fastloss.compat.{namespace}")
        for name in sorted(module.__all__):
            found = getattr(module, name)
            yield f"fastloss.compat.{namespace}.{name}{signature(found) if callable(found) else f' = {found!r}'}"
    for name in sorted(fastloss.compat.__all__):
        yield f"fastloss.compat.{name}{signature(getattr(fastloss.compat, name))}"


def own_base(owner):
    return [Criterion] if issubclass(owner, Criterion) else []


def own_function(module, name, found):
    return name[0] != "_" and inspect.isfunction(found) and found.__module__ == module.__name__


def test_the_public_api_is_the_stored_one():
    stored = (HERE / "public_api.txt").read_text(encoding="utf-8").splitlines()
    assert list(lines()) == stored, "on purpose? python tests/core/test_public_api.py > tests/core/public_api.txt"


@pytest.mark.skipif(not (HERE.parents[1] / "ARCHITECTURE.md").exists(), reason="not in a source tree")
def test_what_the_readme_names_is_public():
    text = (HERE.parents[1] / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.-])fastloss\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", text))
    assert len(named) > 10
    for path in named:
        found = fastloss
        for part in path.split("."):
            found = getattr(found, part)
        assert path.split(".")[0] in (*fastloss.__all__, "compat"), path


if __name__ == "__main__":
    print("\n".join(lines()))

"""The pages name everything public and their code runs. `make docs` builds them and takes warnings for errors."""

import importlib
import re
from pathlib import Path

import pytest
import torch

import fastloss as fl
from fastloss.compat import nnunet

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="not in a source tree")


def text(page):
    return page.read_text(encoding="utf-8")


def test_the_reference_has_everything_public():
    shown = "\n".join([text(page) for page in PAGES])
    aliases = {"IoULoss", "__version__", "backends", "debug", "functional"}  # debug is shown with the backends
    for name in set(fl.__all__) - aliases:
        assert f"::: fastloss.{name}\n" in shown, name
    for module in ("backends", "functional", "compat.nnunet", "compat.torch"):
        assert f"::: fastloss.{module}\n" in shown, module


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_what_the_reference_shows_exists_and_says_something(page):
    for path in re.findall(r"^::: (\S+)", text(page), re.MULTILINE):
        module, _, name = path.rpartition(".")
        try:
            found = importlib.import_module(path)
        except ModuleNotFoundError:
            found = getattr(importlib.import_module(module), name)
        assert found.__doc__ and len(found.__doc__) > 20, path


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", text(page)):
        assert (page.parent / link).exists(), link


def test_the_code_of_the_first_page_runs():
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", text(DOCS / "index.md"), re.MULTILINE | re.DOTALL):
        exec(block, names)
    assert names["loss"].isfinite() and names["logits"].grad.isfinite().all()


def test_the_imports_of_the_pages_work():
    for page in PAGES:
        for line in re.findall(r"from fastloss\.compat\.nnunet import (\w+)", text(page)):
            assert issubclass(getattr(nnunet, line), torch.nn.Module)

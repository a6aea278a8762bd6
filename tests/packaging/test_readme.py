"""The documents tell the truth: the code of the README runs, links lead somewhere, and what is named exists."""

import re
from pathlib import Path

import pytest
import torch

import fastloss

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")
pytestmark = pytest.mark.skipif(not (ROOT / "ARCHITECTURE.md").exists(), reason="not in a source tree")


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def test_the_code_of_the_readme_runs():
    """Block after block in one namespace, as a reader would type them; each loss is a finite scalar at the end."""
    blocks = re.findall(r"^```python\n(.*?)^```", text("README.md"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    names = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"README.md, block {number + 1}", "exec"), names)
        if isinstance(names.get("loss"), torch.Tensor):
            assert names["loss"].ndim == 0 and names["loss"].isfinite()
    assert names["logits"].grad.isfinite().all()


def test_the_readme_is_short():
    assert len(text("README.md").splitlines()) <= 150


def test_the_readme_names_everything_public():
    assert not [name for name in fastloss.__all__ if name != "__version__" and name not in text("README.md")]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link, anchor in re.findall(r"\]\(([^)#:]+)(#[^)]+)?\)", text(page)):
        assert (ROOT / link).exists(), f"{page} links to {link}"
        if anchor and link.endswith(".md"):
            assert anchor[1:] in anchors(text(link)), f"{page} links to {link}{anchor}"


def anchors(markdown):
    """The headings as GitHub and mkdocs write them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_named_files_and_tests_exist(page):
    for path in re.findall(r"`((?:csrc|fastloss|tests|bench|docs)/[\w./*-]+)`", text(page)):
        made = ("fastloss/_build.json", "csrc/cpu/*.cpp")  # written by the build; a group of files
        assert path in made or list(ROOT.glob(path.rstrip("/"))), f"{page} names {path}"
    tests = "".join([file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py")])
    for name in re.findall(r"`(test_\w+)`", text(page)):
        assert f"def {name}(" in tests or list((ROOT / "tests").rglob(f"{name}.py")), f"{page} names {name}"

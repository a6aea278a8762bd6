"""The documents tell the truth: the code of the README runs, links lead somewhere, and what is named exists."""

import re
from pathlib import Path

import pytest
import torch

import fastloss

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")
pytestmark = pytest.mark.skipif(not (ROOT / "ARCHITECTURE.md").exists(), reason="not in a source tree")


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def test_the_code_of_the_readme_runs():
    """Block after block in one namespace, as a reader would type them; each loss is a finite scalar at the end."""
    blocks = re.findall(r"^```python\n(.*?)^```", text("README.md"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    names = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"README.md, block {number + 1}", "exec"), names)
        if isinstance(names.get("loss"), torch.Tensor):
            assert names["loss"].ndim == 0 and names["loss"].isfinite()
    assert names["logits"].grad.isfinite().all()


def test_the_readme_names_everything_public():
    assert not [name for name in fastloss.__all__ if name != "__version__" and name not in text("README.md")]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", text(page))
    # What `fastloss bench --full` writes is there once it ran.
    missing = [link for link in links if not link.startswith("bench/results/") and not (ROOT / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_named_files_and_tests_exist(page):
    for path in re.findall(r"`((?:csrc|fastloss|tests|bench)/[\w./*-]+)`", text(page)):
        made = ("fastloss/_build.json", "csrc/cpu/*.cpp")  # written by the build; a group of files
        assert path in made or list(ROOT.glob(path.rstrip("/"))), f"{page} names {path}"
    tests = "".join([file.read_text(encoding="utf-8") for file in (ROOT / "tests").glob("test_*.py")])
    for name in re.findall(r"`(test_\w+)`", text(page)):
        assert f"def {name}(" in tests or (ROOT / "tests" / f"{name}.py").exists(), f"{page} names {name}"

"""What is handed to the public beside the code: metadata, citation, workflows, a source distribution that is whole."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import fastloss

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "CITATION.cff").exists(), reason="not in a source tree")


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


PROJECT = text("pyproject.toml") if (ROOT / "pyproject.toml").exists() else ""
HOME = (re.findall(r'^Repository = "(.+)"', PROJECT, re.MULTILINE) or [""])[0]


def test_one_address():
    """Whoever moves the project changes it in pyproject.toml, and this test names the other places."""
    owner, name = HOME.split("/")[-2:]
    for file in ("CITATION.cff", "mkdocs.yml", ".github/ISSUE_TEMPLATE/config.yml"):
        found = set(re.findall(r"https://github\.com/[\w.-]+/[\w.-]+", text(file)))
        assert found <= {HOME} and found, f"{file}: {found}"
    pages = f"https://{owner}.github.io/{name}"
    assert f"site_url: {pages}/" in text("mkdocs.yml") and f'Documentation = "{pages}"' in PROJECT


def test_versions_agree():
    assert f"version: {fastloss.__version__}\n" in text("CITATION.cff")
    minors = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
    assert f'requires-python = ">={minors[0]}"' in PROJECT
    assert str(minors).replace("'", '"') in text(".github/workflows/ci.yml"), "CI tests the versions that are claimed"


def read_readme():
    """setup.py's own function, without running setup()."""
    tree = ast.parse(text("setup.py"))
    tree.body = [node for node in tree.body if getattr(node, "name", "") == "read_readme"]
    names = {"ROOT": ROOT, "re": re}
    exec(compile(tree, "setup.py", "exec"), names)
    return names["read_readme"]()


def test_the_links_of_the_long_description_are_absolute():
    shown = read_readme()
    targets = re.findall(r"\]\(([^)]+)\)", shown)
    assert targets and all([target.startswith(HOME) for target in targets])
    assert f"({HOME}/raw/main/bench/results/" in shown and f"({HOME}/blob/main/docs/install.md)" in shown


@pytest.mark.parametrize("folder", (".github", ".github/workflows", ".github/ISSUE_TEMPLATE"))
def test_yaml_is_well_formed(folder):
    yaml = pytest.importorskip("yaml")
    for path in (ROOT / folder).glob("*.yml"):
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path


def test_the_citation_has_what_github_reads():
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= found.keys()


def test_make_targets_of_the_workflows_exist():
    """And those that the documents tell people to call."""
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    for file in (".github/workflows/ci.yml", ".github/pull_request_template.md", "CONTRIBUTING.md", "SECURITY.md"):
        for words in re.findall(r"(?:run: |`|^    )make ([a-z -]+)", text(file), re.MULTILINE):
            assert set(words.split()) <= targets, f"{file}: make {words}"


def test_the_source_distribution_is_whole(tmp_path):
    """Every file of the repository is in it, so that it can be built and tested (`make test`) where it is unpacked."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listed = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    command = ["setup.py", "-q", "egg_info", "--egg-base", tmp_path, "sdist", "--dist-dir", tmp_path]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(made) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert "conftest.py" in held and not [name for name in held if name.endswith((".so", "_build.json"))]
    assert not [name for name in listed if name not in held and name != ".gitignore" and (ROOT / name).exists()]

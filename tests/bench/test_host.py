"""The commit and the processor that records and reports name."""

import runpy
import shutil
import subprocess

import pytest

from fastloss.measure import host

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


def commit_of(folder) -> str:
    return runpy.run_path(str(folder / "host.py"))["commit"]()


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The module in a repository of somebody else, where git ignores it."""
    monkeypatch.delenv("FASTLOSS_COMMIT", raising=False)

    def git(*words: str) -> str:
        names = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.run(
            ("git", "-C", tmp_path, *names, *words), check=True, capture_output=True, text=True
        ).stdout

    folder = tmp_path / "site-packages"
    folder.mkdir()
    shutil.copy(host.__file__, folder)
    (tmp_path / ".gitignore").write_text("site-packages\n")
    git("init", "-q")
    git("add", ".gitignore")
    git("commit", "-q", "-m", "theirs")
    return folder, git


def test_another_projects_commit_is_not_ours(copy, monkeypatch):
    folder, _ = copy
    assert commit_of(folder) == ""
    monkeypatch.setenv("FASTLOSS_COMMIT", "abc")
    assert commit_of(folder) == "abc"


def test_a_tracked_file_has_its_commit_and_changes_are_marked(copy):
    folder, git = copy
    git("add", "--force", "site-packages/host.py")
    git("commit", "-q", "-m", "ours")
    head = git("rev-parse", "HEAD").strip()
    assert commit_of(folder) == head
    with (folder / "host.py").open("a") as file:
        file.write("# more\n")
    assert commit_of(folder) == head + "+changes"


def test_what_cannot_be_read_or_run_is_empty(tmp_path):
    assert host.read(tmp_path / "missing") == "" == host.output("no-such-program") == host.output("false")
    assert host.processor()

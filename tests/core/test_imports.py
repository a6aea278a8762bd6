"""Imports run one way: no file of the package imports, by whatever way round, what imports it. Imports inside functions
count, but not those for type checkers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastloss

FOLDER = Path(fastloss.__file__).parent
CORE = ("reference", "triton", "compat")  # folders that, like the core itself, know nothing of the program around them


def name_of(file):
    parts = file.relative_to(FOLDER.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in FOLDER.rglob("*.py")}


def nodes(tree):
    """All nodes but those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from nodes(node)


def imported(name, text):
    """The modules of the package that a file names: a submodule before a name that its package defines."""
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in nodes(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= inner
            if inner - set(FILES):
                found.add(base)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                given = str(argument.value)
                found.add(package + given if given.startswith(".") else given)
    return found & set(FILES) - {name}


GRAPH = {name: imported(name, file.read_text(encoding="utf-8")) for name, file in FILES.items()}


def circles(graph):
    """The sets of files of which each imports, by whatever way round, each."""
    reached = {}
    for name in graph:
        seen, new = set(), {name}
        while new:
            new = {inner for module in new for inner in graph[module]} - seen
            seen |= new
        reached[name] = seen
    return {frozenset(m for m in reached[n] if n in reached[m]) for n in graph if n in reached[n]}


def test_there_is_no_import_circle():
    assert [sorted(circle) for circle in circles(GRAPH)] == []


def test_names_for_everyone_are_sorted():
    assert fastloss.__all__ == sorted(fastloss.__all__)


def test_a_circle_would_be_found():
    text = "def late():\n    from .compound import Criterion\n"
    assert imported("fastloss.spec", text) == {"fastloss.compound"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {frozenset("bc")}
    graph = {**GRAPH, "fastloss.spec": {"fastloss.compound"}}
    assert any([{"fastloss.spec", "fastloss.plan", "fastloss.compound"} <= circle for circle in circles(graph)])


def part(name):
    """The folder of the package that a module lies in; "" for the core."""
    inner = name.removeprefix("fastloss").lstrip(".")
    return inner.split(".")[0] if (FOLDER / inner.split(".")[0]).is_dir() and inner else ""


@pytest.mark.parametrize("name", sorted(name for name in FILES if part(name) in ("", *CORE)))
def test_the_core_imports_neither_bench_nor_train(name):
    if name in ("fastloss.cli", "fastloss.__main__"):  # the command line calls all of it
        return
    outer = {part(module) for module in GRAPH[name]} - {"", *CORE}
    assert not outer, f"{name} imports {sorted(outer)}"
    if not part(name) and name != "fastloss":  # whose `fuse` and `compat` are public
        assert not any([part(module) == "compat" for module in GRAPH[name]]), f"{name} imports a drop-in"


def test_importing_fastloss_loads_no_library_of_others():
    """Neither the trainers that its callbacks are for, nor the loggers of its own."""
    others = "lightning pytorch_lightning lightning_fabric ignite monai tensorboardX wandb mlflow nibabel".split()
    code = f"import sys, fastloss, fastloss.cli, fastloss.integrations; print(*sys.modules.keys() & {set(others)})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr

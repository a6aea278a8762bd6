"""The pages name everything public and their code runs. `make docs` builds them and takes warnings for errors."""

import ast
import importlib
import json
import re
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

import fastloss as fl
from fastloss.cli import COMMANDS, Parser

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NOTEBOOKS = [path.with_suffix(".md") for path in DOCS.glob("*.ipynb")]  # pages that docs/hooks.py makes
pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="not in a source tree")


def text(page):
    return page.read_text(encoding="utf-8")


def name_of(page):
    return page.relative_to(DOCS).with_suffix("").as_posix()


def test_the_reference_has_everything_public():
    shown = "\n".join([text(page) for page in PAGES])
    aliases = {"IoULoss", "__version__", "backends", "debug", "functional"}  # debug is shown with the backends
    for name in set(fl.__all__) - aliases:
        assert f"::: fastloss.{name}\n" in shown, name
    for module in ("backends", "functional", "compat.nnunet", "compat.torch"):
        assert f"::: fastloss.{module}\n" in shown, module


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_the_reference_shows_exists_and_says_something(page):
    for path in re.findall(r"^::: (\S+)", text(page), re.MULTILINE):
        module, _, name = path.rpartition(".")
        try:
            found = importlib.import_module(path)
        except ModuleNotFoundError:
            found = getattr(importlib.import_module(module), name)
        assert found.__doc__ and len(found.__doc__) > 20, path
        assert not any([part.startswith("_") for part in path.split(".")]), f"{path} is private"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text(page)):
        assert (page.parent / link).exists() or (page.parent / link).resolve() in NOTEBOOKS, link


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    hidden = DOCS / "assets" / "katex" / "README.md"
    for page in [*PAGES, *NOTEBOOKS]:
        assert page == hidden or f": {page.relative_to(DOCS).as_posix()}\n" in nav, page


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_fits_the_page(page):
    """What the site's column holds at 1400 pixels; docs/assets/site.css wraps it on a phone."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)
    lines = [*"\n".join(fenced).splitlines(), *re.findall(r"^    .*$", text(page), re.MULTILINE)]
    assert not [line for line in lines if len(line) > 104]


def test_code_of_the_tutorial_fits_the_page():
    cells = json.loads(text(DOCS / "tutorial.ipynb"))["cells"]
    assert not [line for cell in cells if cell["cell_type"] == "code" for line in cell["source"] if len(line) > 101]


def absent(block):
    """The modules that a block imports and that are not installed."""
    found = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in found]
    return [name for name in names if find_spec(name.partition(".")[0]) is None]


def options(parser):
    """The words of a parser's options, those of its subcommands too."""
    for action in parser._actions:
        yield from action.option_strings
        for sub in (getattr(action, "choices", None) or {}).values() if action.nargs == "A..." else ():
            yield from options(sub)


def test_commands_and_options_exist():
    """What a page tells people to type is what the commands take."""
    known = {"--no-build-isolation", "--no-deps", "--build-constraint", "--nproc-per-node", "--benchmark"}  # of others
    for name, command in COMMANDS.items():
        parser = Parser(prog=name)
        importlib.import_module(command.module).add_arguments(parser)
        known |= set(options(parser))
    for page in [*PAGES, ROOT / "README.md"]:
        typed = re.findall(r"`[^`\n]+`|^    .*$", text(page), re.MULTILINE)
        for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(typed)):
            assert word in known, f"{page.name} names {word}"
        for name in re.findall(r"(?:`|^    )fastloss ([a-z]+)", text(page), re.MULTILINE):
            assert name in COMMANDS, f"{page.name} names fastloss {name}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """Block after block in one namespace; a loss is finite where there is one."""
    monkeypatch.chdir(tmp_path)
    names, missing = {}, []
    for number, block in enumerate(blocks(page)):
        if absent(block):
            missing += absent(block)
            continue
        exec(compile(block, f"{page.name}, block {number + 1}", "exec"), names)
        if isinstance(names.get("loss"), torch.Tensor):
            assert names["loss"].isfinite().all(), number
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.mark.filterwarnings("ignore")
def test_the_tutorial_runs():
    """Its cells, and those that print or draw have stored what they showed."""
    pytest.importorskip("matplotlib")
    spec = spec_from_file_location("notebook", DOCS / "notebook.py")
    notebook = module_from_spec(spec)
    spec.loader.exec_module(notebook)
    cells = json.loads(text(notebook.TUTORIAL))["cells"]
    threads = torch.get_num_threads()
    try:
        outputs = notebook.run(cells)
    finally:
        torch.set_num_threads(threads)
    kinds = [[output["output_type"] for output in each] for each in outputs]
    assert kinds == [[output["output_type"] for output in cell.get("outputs", [])] for cell in cells]
    assert sum(map(len, kinds)) >= 8


@pytest.mark.parametrize("picture", ["gradients.png", "sizes.svg", "pixel.svg", "schedules.svg"])
def test_pictures_are_there_and_small(picture):
    assert 1_000 < (DOCS / "assets" / picture).stat().st_size < 200_000


def test_nothing_is_fetched_when_a_page_is_read():
    files = [path for path in (DOCS / "assets").rglob("*") if path.suffix in (".css", ".js")]
    for path in [*files, ROOT / "mkdocs.yml"]:
        loads = re.findall(r"(?:url\(|@import |src=)[\"']?(https?:[^\"')]+)", text(path))
        assert not loads, f"{path} loads {loads}"
        for font in re.findall(r"url\((fonts/[^)]+)\)", text(path)):
            assert (path.parent / font).exists(), font

"""A page of headings, words, tables and pictures, written as Markdown and as one self-contained HTML file."""

from __future__ import annotations

import base64
import html as escaping
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from ..checkpoint import make_folder, write_atomically
from ..text import table, wrap


@dataclass(frozen=True)
class Cell:
    """What we have, what the paper prints, and ours minus the paper's."""

    text: str
    paper: str = ""
    difference: str = ""

    @property
    def printed(self) -> str:
        """The paper's side in words; "" if it prints nothing."""
        both = (f"paper {self.paper}" if self.paper else "", f"difference {self.difference}" if self.difference else "")
        return ", ".join([part for part in both if part])

    def plain(self) -> str:
        printed = f"({self.printed})" if self.printed else ""
        return " ".join([part for part in (self.text, printed) if part]).replace("|", "\\|").replace("\n", " ")


@dataclass(frozen=True)
class Table:
    """`caveat` is what must be read before the numbers; `folded`: shown when asked for."""

    title: str
    head: list[str]
    rows: list[list[Cell | str]]
    caveat: str = ""
    notes: list[str] = field(default_factory=list)
    folded: bool = False
    kind: str = "table"

    @property
    def cells(self) -> list[list[Cell]]:
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Figure:
    """A PNG; `name` is that of its file beside the Markdown. `caption` stands below it."""

    name: str
    title: str
    png: bytes
    caveat: str = ""
    caption: str = ""
    kind: str = "figure"

    @property
    def base64(self) -> str:
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Words:
    """Paragraphs, or the points of a list."""

    paragraphs: list[str]
    title: str = ""
    listed: bool = False
    kind: str = "words"


@dataclass(frozen=True)
class Heading:
    title: str
    kind: str = "heading"


@dataclass(frozen=True)
class Contents:
    """Links to everything with a title that follows."""

    title: str = "Contents"
    kind: str = "contents"


Block = Table | Figure | Words | Heading | Contents


def write(folder: Path, title: str, blocks: list[Block]) -> list[Path]:
    """Write report.md with its pictures, and report.html; return both."""
    make_folder(folder)
    paths = [folder / "report.md", folder / "report.html"]
    for block in blocks:
        if isinstance(block, Figure):
            write_atomically(folder / block.name, lambda file, png=block.png: file.write(png))
    for path, text in zip(paths, (markdown(title, blocks), html(title, blocks))):
        write_atomically(path, lambda file, text=text: file.write(text.encode()))
    return paths


def anchored(blocks: list[Block]) -> Iterator[tuple[Block, str]]:
    """Give each block with a title an anchor of its own: the title's letters and digits."""
    seen: dict[str, int] = {}
    for block in blocks:
        anchor = re.sub(r"[^a-z0-9]+", "-", block.title.lower()).strip("-")
        if anchor:
            seen[anchor] = seen.get(anchor, 0) + 1
            anchor += f"--{seen[anchor]}" if seen[anchor] > 1 else ""
        yield block, anchor


def sections(blocks: list[Block]) -> list[tuple[Block, str, list[tuple[Block, str]]]]:
    """List what the contents link to: each heading with its anchor, and the titles below it with theirs."""
    found: list[tuple[Block, str, list[tuple[Block, str]]]] = []
    begun = not any([isinstance(block, Contents) for block in blocks])
    for block, anchor in anchored(blocks):
        if begun and isinstance(block, Heading):
            found.append((block, anchor, []))
        elif begun and block.title and found:
            found[-1][2].append((block, anchor))
        begun = begun or isinstance(block, Contents)
    return found


def markdown(title: str, blocks: list[Block]) -> str:
    """Write the page as Markdown. Anchors are elements, since renderers make different ones of titles."""
    parts = [f"# {_text(title)}"]
    for block, anchor in anchored(blocks):
        if anchor:
            parts.append(f'<a id="{anchor}"></a>')
            parts.append(f"{'##' if isinstance(block, (Heading, Contents)) else '###'} {_text(block.title)}")
        parts += _below(block, blocks)
    return "\n\n".join(parts) + "\n"


def _below(block: Block, blocks: list[Block]) -> list[str]:
    """Write what stands below a block's title."""
    if isinstance(block, Contents):
        lines = []
        for heading, anchor, below in sections(blocks):
            lines.append(f"- {_link(heading, anchor)}")
            lines += [f"  - {_link(each, anchor)}" for each, anchor in below]
        return ["\n".join(lines)]
    if isinstance(block, Words):
        texts = [_text(words) for words in block.paragraphs]
        return ["\n".join([f"- {words}" for words in texts])] if block.listed else texts
    parts = [f"**{_text(block.caveat)}**"] if isinstance(block, (Table, Figure)) and block.caveat else []
    if isinstance(block, Figure):
        parts += [f"![{_text(block.title)}]({block.name})", *[_text(block.caption)] * bool(block.caption)]
    elif isinstance(block, Table):
        rows = [[_text(cell.plain()) for cell in row] for row in block.cells]
        below = [table(block.head, rows), *map(_text, block.notes)]
        parts += [f"<details><summary>{len(rows)} lines</summary>", *below, "</details>"] if block.folded else below
    return parts


def _link(block: Block, anchor: str) -> str:
    return f"[{_text(block.title)}](#{anchor})"


def _text(words: str) -> str:
    """Escape what Markdown takes for an element or a link."""
    return escaping.escape(words, quote=False).replace("[", "\\[").replace("*", "\\*")


def plain(block: Table) -> str:
    """Format a table for the terminal."""
    cells = [[cell.plain() for cell in row] for row in block.cells]
    return "\n".join([block.title, table(block.head, cells), *[wrap(note) for note in block.notes]])


def html(title: str, blocks: list[Block]) -> str:
    from jinja2 import Environment

    source = resources.files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source).render(
        title=title, blocks=list(anchored(blocks)), sections=sections(blocks)
    )  # fmt: skip

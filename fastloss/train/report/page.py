"""A page of headings, words, tables and pictures, written as Markdown and as one self-contained HTML file."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from ..checkpoint import make_folder, write_atomically
from ..text import table, wrap


@dataclass(frozen=True)
class Cell:
    """What we have, what the paper prints (greyed), and a remark such as the difference."""

    text: str
    paper: str = ""
    remark: str = ""

    def plain(self) -> str:
        parts = [self.text, f"(paper: {self.paper})" if self.paper else "", self.remark]
        return " ".join([part for part in parts if part]).replace("|", "\\|")


@dataclass(frozen=True)
class Table:
    """`caveat` is what must be read before the numbers."""

    title: str
    head: list[str]
    rows: list[list[Cell | str]]
    caveat: str = ""
    notes: list[str] = field(default_factory=list)
    kind: str = "table"

    @property
    def cells(self) -> list[list[Cell]]:
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Figure:
    """A PNG; `name` is that of its file beside the Markdown."""

    name: str
    title: str
    png: bytes
    caveat: str = ""
    kind: str = "figure"

    @property
    def base64(self) -> str:
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Words:
    """Paragraphs."""

    paragraphs: list[str]
    title: str = ""
    kind: str = "words"


@dataclass(frozen=True)
class Heading:
    title: str
    kind: str = "heading"


Block = Table | Figure | Words | Heading


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


def markdown(title: str, blocks: list[Block]) -> str:
    parts = [f"# {title}"]
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"## {block.title}")
            continue
        if block.title:
            parts.append(f"### {block.title}")
        if isinstance(block, Words):
            parts += block.paragraphs
            continue
        if block.caveat:
            parts.append(f"**{block.caveat}**")
        if isinstance(block, Figure):
            parts.append(f"![{block.title}]({block.name})")
        else:
            parts.append(table(block.head, [[cell.plain() for cell in row] for row in block.cells]))
            parts += block.notes
    return "\n\n".join(parts) + "\n"


def plain(block: Table) -> str:
    """Format a table for the terminal."""
    cells = [[cell.plain() for cell in row] for row in block.cells]
    return "\n".join([block.title, table(block.head, cells), *[wrap(note) for note in block.notes]])


def html(title: str, blocks: list[Block]) -> str:
    from jinja2 import Environment

    source = resources.files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source).render(
        title=title, blocks=blocks
    )  # fmt: skip

"""Puts reproduced rows beside the papers' numbers: report.md, and report.html in one self-contained file."""

from __future__ import annotations

import argparse
from dataclasses import replace

from fastloss.cli import CommandError, user_path

from . import direction, discrepancies, figures, paper1, paper2, summary, volumes
from .page import Block, Cell, Contents, Figure, Heading, Table, Words, write
from .results import Reproduction, read
from .throughput import blocks as throughput_blocks

TITLES = {
    "paper1": "Paper 1: Enhancing medical image segmentation based on loss functions integration",
    "paper2": "Paper 2: Dynamic alteration of the loss function",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", type=user_path, metavar="RUNS", help="folders of `fastloss reproduce`")
    parser.add_argument("--out", type=user_path, metavar="DIR", help="folder of the report (default: first of RUNS)")


def main(args: argparse.Namespace) -> int:
    """Write the report of all folders and return 0; CommandError for a folder that holds no reproduction."""
    if not args.runs:
        raise CommandError("RUNS must name at least one folder of `fastloss reproduce`, got none")
    found = [read(folder) for folder in args.runs]
    for each in found:
        if each.settings.paper not in TITLES:
            raise CommandError(f"{each.folder} is of `fastloss {each.settings.paper}`, which has written its report")
    out = args.out or args.runs[0]
    if out.exists() and not out.is_dir():
        raise CommandError(f"--out must name a folder, got {out}")
    named: list[Block] = [*summary.blocks(found), Contents()]
    for number, each in enumerate(found, 1):
        named += [_named(number, block) for block in _reproduction(each)]
    named += [block for paper in sorted({each.settings.paper for each in found}) for block in _discrepancies(paper)]
    for path in write(out, summary.title(found), named):
        print(path)
    return 0


def _named(number: int, block: Block) -> Block:
    """Name a picture so that several reproductions do not share a file."""
    return replace(block, name=f"report-{number}-{block.name}") if isinstance(block, Figure) else block


def _reproduction(found: Reproduction) -> list[Block]:
    s = found.settings
    blocks: list[Block] = [Heading(f"{TITLES[s.paper]} ({s.dataset})")]
    if s.paper == "paper1":
        blocks.append(Words(paper1.PROVENANCE, "Where the paper's numbers come from"))
        blocks += [paper1.table2(found), paper1.direction(found), *figures.paper1(found), *figures.masks(found)]
        blocks.append(paper1.table3(found))
    else:
        blocks += [paper2.single(found, name) for name in ("table1", "table2", "table3")]
        blocks += [direction.table4(found), paper2.single(found, "controls"), direction.direction(found)]
        extra = [paper2.single(found, name) for name in ("figure2", "figure3", "optional")]
        blocks += [each for each in extra if any([cells[2].text != "missing" for cells in each.cells])]
        blocks += [*figures.figure2(found), *figures.pairs(found), *figures.masks(found)]
    return [*blocks, *volumes.blocks(found), *throughput_blocks(found), summary.settings_table(found)]


def _discrepancies(paper: str) -> list[Block]:
    rows: list[list[Cell | str]] = [list(entry) for entry in getattr(discrepancies, paper.upper())]
    head = ["where", "printed", "usual, or right", "here"]
    return [
        Heading(f"{TITLES[paper].split(':')[0]}: what was decided"),
        Table("Discrepancies", head, rows, folded=True),
    ]

"""Puts reproduced rows beside the papers' numbers: report.md, and report.html in one self-contained file."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from fastloss.cli import CommandError, user_path

from . import discrepancies, figures, paper1, paper2, volumes
from .page import Block, Cell, Heading, Table, Words, write
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
    blocks = [block for each in found for block in _reproduction(each)]
    used = sorted({each.settings.paper for each in found})
    blocks += [block for paper in used for block in _discrepancies(paper)]
    named = [_named(out, number, block) for number, block in enumerate(blocks)]
    for path in write(out, "fastloss: two papers reproduced", named):
        print(path)
    return 0


def _named(out: Path, number: int, block: Block) -> Block:
    """Name a picture so that several reproductions do not share a file."""
    return replace(block, name=f"report-{number:02d}-{block.name}") if block.kind == "figure" else block


def _reproduction(found: Reproduction) -> list[Block]:
    s = found.settings
    blocks: list[Block] = [Heading(f"{TITLES[s.paper]} ({s.dataset})"), Words(_summary(found))]
    if s.paper == "paper1":
        blocks.append(Words(paper1.PROVENANCE, "Where the paper's numbers come from"))
        blocks += [paper1.table2(found), *figures.paper1(found), paper1.table3(found)]
    else:
        blocks += [paper2.single(found, name) for name in ("table1", "table2", "table3")]
        blocks += [paper2.table4(found), paper2.single(found, "controls"), paper2.direction(found)]
        extra = [paper2.single(found, name) for name in ("figure2", "figure3", "optional")]
        blocks += [each for each in extra if any([cells[2].text != "missing" for cells in each.cells])]
        blocks += [*figures.figure2(found), *figures.pairs(found), *figures.masks(found)]
    return [*blocks, *volumes.blocks(found), *throughput_blocks(found), _settings(found)]


def _summary(found: Reproduction) -> list[str]:
    s, data = found.settings, found.data
    what = "phantom (generated ellipses and noise)" if data["phantom"] else "real"
    epochs = sum([result["run"]["epochs"] - result["run"]["first"] for result in found.finished.values()])
    words = [found.caveat] if found.caveat else ["Data and preset are the paper's: numbers may be compared."]
    words.append(
        f"Data: {data['kind']}, {what}, {data['patients']} patients, {data['slices']} slices. "
        f"Preset {s.preset}: {s.model}, {s.size} px, batch {s.batch}. {len(found.finished)} finished trainings, "
        f"{epochs} epochs, {found.seeds} seed(s)."
    )
    if found.machines:
        words.append(f"Continued on {len(found.machines)} other machine(s), see the settings: bits may differ.")
    if found.changed:
        words.append(f"Changed from the preset: {', '.join(found.changed)}.")
    if not found.comparable:
        words.append("Phantoms, short trainings and other data show that the software runs, and which way a comparison "
                     "falls there; they say nothing for or against the paper.")  # fmt: skip
    return words


def _settings(found: Reproduction) -> Table:
    rows = [[name, str(value)] for name, value in asdict(found.settings).items()]
    rows += [[f"data: {name}", str(value)] for name, value in found.data.items()]
    rows += [[f"machine: {name}", str(value)] for name, value in found.machine.items()]
    for number, machine in enumerate(found.machines, 2):
        rows += [[f"machine {number}: {name}", str(value)] for name, value in machine.items()]
    return Table("Settings and environment", ["setting", "value"], rows)


def _discrepancies(paper: str) -> list[Block]:
    rows: list[list[Cell | str]] = [list(entry) for entry in getattr(discrepancies, paper.upper())]
    head = ["where", "printed", "usual, or right", "here"]
    return [Heading(f"{TITLES[paper].split(':')[0]}: what was decided"), Table("Discrepancies", head, rows)]

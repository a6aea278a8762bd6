"""One module for each layout on disk.

find(folder) -> Path | None                         the root of the dataset in or at `folder`
scan(root, settings) -> Found                       cases from names and headers, and what is missing
packaged() -> Path                                  the root that a package brings, if no folder is asked for
read(case) -> (image, label)                        float32 [D, H, W]; ids [D, H, W] or uint8 masks [D, C, H, W]
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from fastloss.cli import CommandError

from ..specs import DATASETS, get


def of(kind: str) -> ModuleType:
    return importlib.import_module(f".{get(kind).reader}", __name__)


def root_of(kind: str, folder: Path) -> Path:
    """Find where the dataset lies in `folder`, which may be its root or the folder above.

    Raises:
        CommandError: there is no such folder, or no such layout in it.
    """
    if not folder.is_dir():
        raise CommandError(f"{folder} is not a folder; the data of {kind} are expected there")
    root = of(kind).find(folder)
    if root is None:
        raise CommandError(f"{folder} does not hold the layout of {kind}: {of(kind).EXPECTED}")
    return root


def detect(folder: Path) -> str | None:
    """Name the kind whose layout lies in a folder."""
    return next((kind for kind in DATASETS if not get(kind).packaged and of(kind).find(folder) is not None), None)

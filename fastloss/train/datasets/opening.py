"""`open_dataset`: which folder a name means, and the store that belongs to it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastloss.cli import CommandError

from . import readers
from .disk import lock
from .phantom import Phantom, generate
from .prepare import MEMORY, key, prepare
from .records import MARKER
from .settings import resolve
from .specs import get
from .store import Store


def default_cache() -> Path:
    """Return $FASTLOSS_CACHE, else ~/.cache/fastloss (or $XDG_CACHE_HOME/fastloss)."""
    named = os.environ.get("FASTLOSS_CACHE")
    folder = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fastloss"
    return folder.expanduser()


def open_dataset(
    name_or_path: str | Path,
    *,
    kind: str,
    settings: Mapping[str, Any] | None = None,
    cache_dir: Path | None = None,
    patients: int = 12,
    jobs: int | None = None,
    memory: float = MEMORY,
    say: Callable[[str], None] | None = None,
) -> Store:
    """Open the store of a dataset; prepare it first if there is none for these files and settings.

    Processes that want the same store at once wait for the first, so that every rank of a run may call this.

    Args:
        name_or_path: the dataset's folder (write ./phantom for a folder of such a name); "phantom", generated on first
            use in the layout of `kind`; or "demo", the MRI slices of `fastloss demo`, whatever the kind: they are
            binary, and of the settings only `size` counts.
        kind: one of DATASETS.
        settings: what differs from the defaults of the kind, see `settings.resolve`.
        cache_dir: for stores and phantoms; default $FASTLOSS_CACHE, else ~/.cache/fastloss.
        patients: of the phantom.
        jobs: threads that prepare; default: all cores.
        memory: GiB that they may take together; how many volumes are in work at once is limited by that.
        say: gets the lines of progress; default: a bar on a terminal, lines on standard output elsewhere.

    Raises:
        CommandError: data missing, half-copied, unreadable or of other shapes or labels than announced, a setting
            unknown, no space. Nothing is left behind that a later call would use.
    """
    cache = cache_dir or default_cache()
    if name_or_path == "demo":
        kind, settings = "demo", {"size": settings["size"]} if settings and "size" in settings else None
    resolved = resolve(kind, settings)
    root = _folder(name_or_path, kind, cache, patients, say)
    reader = readers.of(kind)
    found = reader.scan(root, resolved)
    if found.problems:
        more = f" (and {len(found.problems) - 1} more problems: fastloss data check)" if len(found.problems) > 1 else ""
        raise CommandError(found.problems[0] + more)
    if not found.cases:
        raise CommandError(f"{root} holds no volume of {kind}")
    folder = cache / "stores" / f"{kind}-{key(root, kind, resolved, found)}"
    with lock(folder):
        store = _existing(folder)
        if store is None:
            phantom = (root / MARKER).exists()
            how = {"jobs": jobs or os.cpu_count() or 1, "memory": memory, "say": say}
            store = prepare(folder, root, kind, resolved, found, reader, phantom=phantom, **how)
    store.cases = {case.name: case for case in found.cases}
    return store


def _folder(name_or_path: str | Path, kind: str, cache: Path, patients: int, say: Callable[[str], None] | None) -> Path:
    if get(kind).packaged:
        return readers.of(kind).packaged()
    if name_or_path == "phantom":
        if not get(kind).phantom:
            raise CommandError(f"there is no phantom of {kind}; name the folder of its data")
        return readers.root_of(kind, generate(Phantom(get(kind).phantom, patients=patients), cache, say))
    return readers.root_of(kind, Path(name_or_path).expanduser())


def _existing(folder: Path) -> Store | None:
    """Open the store, or return None; remove a damaged one (a file cut short by hand or by the disk)."""
    if not folder.exists():
        return None
    try:
        return Store(folder)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        print(f"{folder} is damaged ({error}) and is prepared anew", file=sys.stderr)
        shutil.rmtree(folder)
        return None

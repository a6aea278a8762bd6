"""Folders that are made once: one process at a time, and only where there is space."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastloss.cli import CommandError

CACHE = "FASTLOSS_CACHE"


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Let one process in at a time; the system frees the lock of a process that dies."""
    try:
        import fcntl
    except ImportError:  # Windows: two preparations of one store at once are the user's business
        yield
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = folder.with_name(f".{folder.name}.lock").open("w")
    except OSError as error:
        raise CommandError(f"{folder.parent} cannot be written to ({error.strerror}); see {CACHE}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def no_space(folder: Path, needed: int, setting: str = CACHE) -> Iterator[None]:
    """Say in one sentence that the disk is, or while writing became, too small; `setting` names another place."""
    words = f"{folder.parent} has too little space: {needed / 1e6:.0f} MB are needed"
    free = shutil.disk_usage(_existing(folder.parent)).free
    if free < needed:
        raise CommandError(f"{words}, {free / 1e6:.0f} MB are free; name another place with {setting}")
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CommandError(f"{words}; name another place with {setting}") from error


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())

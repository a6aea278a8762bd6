"""Files that are whole or absent, whenever the power goes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from fastloss.cli import CommandError


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write beside `path` and rename, so that a reader finds the old content or the new, never a part.

    Raises CommandError, and leaves no draft, if the disk is full.
    """
    draft = path.with_name(path.name + ".part")
    try:
        with _written(path), draft.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Name the file that could not be written."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{path} could not be written: {error.strerror or error}") from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it; CommandError if that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"the folder {path} could not be made: {error.strerror or error}") from error


def check_writable(folder: Path) -> None:
    """Try to write into a folder, which need not exist, and leave nothing behind; CommandError if that fails."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CommandError(f"the folder {folder} cannot be written to: {error.strerror or error}") from error
    finally:
        for path in made:
            path.rmdir()


def write_json(path: Path, data: object) -> None:
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """Read a JSON object; CommandError if the file cannot be read as one with these keys at least."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise CommandError(f"{path} must hold a JSON object, got {type(data).__name__}")
    if missing := sorted(set(keys) - set(data)):
        raise CommandError(f"{path} is damaged: {', '.join(missing)} is missing")
    return data


def save(path: Path, state: dict[str, Any]) -> None:
    try:
        write_atomically(path, lambda file: torch.save(state, file))
    except RuntimeError as error:  # torch's writer has met the full disk
        raise CommandError(f"{path} could not be written: {error}") from error


def restore(path: Path) -> dict[str, Any] | None:
    """Read the state, or None if none was saved; CommandError if the file is damaged."""
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CommandError(f"{path} is damaged ({type(error).__name__}); delete it to start this run anew") from error


def digest(model: torch.nn.Module) -> str:
    """Fingerprint all weights: equal only if every bit is."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in model.state_dict().values():
        found.update(tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


class Log:
    """A CSV file that only grows. A checkpoint records `position`; a resumed run cuts off what was written after it."""

    def __init__(self, path: Path, columns: tuple[str, ...], position: int = 0) -> None:
        self.path, self.columns = path, columns
        if position and (not path.exists() or path.stat().st_size < position):
            raise CommandError(
                f"{path} is shorter than its checkpoint says; delete {path.parent} to start this run anew"
            )
        self.file = path.open("r+b" if position else "wb")
        self.file.truncate(position)
        self.file.seek(position)
        if not position:
            self._write(columns)

    def _write(self, cells: tuple[object, ...]) -> None:
        with _written(self.path):
            self.file.write((",".join([repr(c) if isinstance(c, float) else str(c) for c in cells]) + "\n").encode())

    def add(self, *cells: object) -> None:
        """Write one row, as many cells as there are columns; floats are written with all their digits."""
        if len(cells) != len(self.columns):
            raise ValueError(f"a row of {self.path.name} has {len(self.columns)} cells, got {len(cells)}")
        self._write(cells)

    def position(self) -> int:
        """Return the bytes written so far, which are on disk on return."""
        with _written(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
        return self.file.tell()

    def close(self) -> None:
        with _written(self.path):
            self.file.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_log(path: Path, columns: Collection[str] = (), epochs: int | None = None) -> dict[str, list[float]]:
    """Read {column: values} of a finished log with these columns, whose last row is of epoch number `epochs` - 1.

    Raises CommandError for a file that is missing or cut short.
    """
    try:
        text = path.read_text(encoding="utf-8")
        head, *rows = csv.reader(text.splitlines())
        found = dict(zip(head, map(list, zip(*[map(float, row) for row in rows], strict=True)), strict=True))
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} cannot be read ({error}); its run must be trained again") from error
    whole = text.endswith("\n") and set(columns) <= set(found)
    if not whole or (epochs is not None and found["epoch"][-1] != epochs - 1):
        raise CommandError(f"{path} is cut short; its run must be trained again")
    return found

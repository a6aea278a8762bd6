"""From a dataset's folder to a store: all cores read and resize, one thread writes, a rename makes it valid."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastloss.cli import CommandError

from ..progress import counting
from . import images, readers
from .disk import no_space
from .records import Case, Found, Slice
from .settings import label_map
from .specs import get
from .store import IMAGES, LABELS, MANIFEST, VERSION, Store, record_of

MEMORY = 4.0  # GiB that preparing threads may take together; a larger volume is prepared alone
VOXEL_BYTES = 24  # while it is read, normalised and resized; 17 were measured of 512 x 512 x 107 int16


class Room:
    """Lets threads work on volumes as long as those fit the memory together; one volume always may."""

    def __init__(self, memory: float) -> None:
        self.free, self.users, self.changed = int(memory * 2**30), 0, Condition()

    @contextmanager
    def take(self, case: Case) -> Iterator[None]:
        need = VOXEL_BYTES * len(case.slices) * case.shape[0] * case.shape[1]
        with self.changed:
            self.changed.wait_for(lambda: need <= self.free or not self.users)
            self.free, self.users = self.free - need, self.users + 1
        try:
            yield
        finally:
            with self.changed:
                self.free, self.users = self.free + need, self.users - 1
                self.changed.notify_all()


class Prepared(NamedTuple):
    """The slices of one case, as they are stored."""

    records: list[Slice]
    images: list[np.ndarray]
    labels: list[np.ndarray]


def key(root: Path, kind: str, settings: dict[str, Any], found: Found) -> str:
    """Hash the settings and every file's name, size and time: what differs gets a store of its own."""
    stamps = []
    for case in found.cases:
        for path in case.files:
            stat = path.stat()
            stamps.append((os.path.relpath(path, root), stat.st_size, stat.st_mtime_ns))
    # The runs of a csv and the parts of a list are in the cases, not in the files' stamps.
    cases = [(case.name, case.slices, case.part, case.group, case.masks) for case in found.cases]
    content = json.dumps([VERSION, kind, settings, stamps, cases])
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def original_label(kind: str, settings: dict[str, Any], case: Case) -> np.ndarray:
    """Read uint8 [D, H, W] of classes or [D, C, H, W] of masks, of the size in the files."""
    _, label = readers.of(kind).read(case)
    if get(kind).mode == "multilabel":
        return label
    return images.map_labels(label, label_map(kind, settings), _where(case))


def check_case(reader: ModuleType, case: Case, kind: str, settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Read an image float32 [D, H, W], normalised, and a label uint8 [D, H, W] of classes or [D, C, H, W] of masks.

    Raises:
        CommandError: a file is broken, or image and label do not fit each other, the header or the map of labels.
    """
    image, label = reader.read(case)
    spatial = label.shape[:1] + label.shape[2:] if label.ndim == 4 else label.shape
    if image.shape != spatial or len(image) != len(case.slices):
        shapes = f"the image has the shape {list(image.shape)}, its label {list(spatial)}"
        raise CommandError(f"{case.name}: {shapes}; {len(case.slices)} slices are expected")
    if get(kind).mode != "multilabel":
        label = images.map_labels(label, label_map(kind, settings), _where(case))
    try:
        return images.normalise(image, settings).astype(np.float32, copy=False), label
    except ValueError as error:
        raise CommandError(f"{case.files[0]} cannot be used: {error}") from error


def _where(case: Case) -> str:
    """Name the file with a case's labels."""
    return str(case.files[1]) if 2 <= len(case.files) <= 3 else f"{case.name} in {case.files[0].parent}"


def no_foreground(cases: list[Case]) -> str:
    """Say that labels were lost on the way."""
    return f"the labels of all {len(cases)} volumes are background alone, from {_where(cases[0])} on"


def _prepare_case(reader: ModuleType, case: Case, kind: str, settings: dict[str, Any], room: Room) -> Prepared:
    with room.take(case):
        return _sized_case(case, *check_case(reader, case, kind, settings), kind, settings)


def _sized_case(case: Case, volume: np.ndarray, labels: np.ndarray, kind: str, settings: dict[str, Any]) -> Prepared:
    size, how = settings["size"], get(kind).resize
    result = Prepared([], [], [])
    for z, image, label in zip(case.slices, volume, labels):
        image = images.resize(image, size, how).astype(np.float16)
        small = images.resize_label(label, size, how)
        if small.ndim == 3:
            classes = tuple(np.flatnonzero(small.any((1, 2))).tolist())
            small = np.bitwise_or.reduce(small << np.arange(len(small), dtype=np.uint8)[:, None, None])
        else:
            classes = tuple((np.flatnonzero(np.bincount(small.ravel(), minlength=1)[1:]) + 1).tolist())
        shape = image.shape
        record = Slice(case.patient, case.name, z, shape, case.part, case.group, classes, bool(label.any()))
        result.records.append(record)
        result.images.append(image)
        result.labels.append(small)
    return result


def prepare(
    folder: Path,
    root: Path,
    kind: str,
    settings: dict[str, Any],
    found: Found,
    reader: ModuleType,
    *,
    phantom: bool,
    jobs: int,
    memory: float = MEMORY,
    say: Callable[[str], None] | None = None,
) -> Store:
    """Write the store `folder`, which must not exist, and open it. On any error nothing of it is left."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a preparation that was killed; the caller holds the lock
    with no_space(folder, _bytes(found, settings)):
        partial.mkdir(parents=True)
        try:
            _write(partial, kind, settings, found, reader, phantom, jobs, memory, say)
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return Store(folder)


def _bytes(found: Found, settings: dict[str, Any]) -> int:
    """Count the bytes of the store: three a pixel, and the records."""
    return sum(3 * _pixels(case, settings["size"]) + 200 * len(case.slices) for case in found.cases)


def _pixels(case: Case, size: int | None) -> int:
    return len(case.slices) * (case.shape[0] * case.shape[1] if size is None else size * size)


def _write(
    folder: Path,
    kind: str,
    settings: dict[str, Any],
    found: Found,
    reader: ModuleType,
    phantom: bool,
    jobs: int,
    memory: float,
    say: Callable[[str], None] | None,
) -> None:
    records: list[Slice] = []
    digest = hashlib.blake2b(digest_size=16)
    pixels = sum(_pixels(case, settings["size"]) for case in found.cases)
    slices = sum(len(case.slices) for case in found.cases)
    files = [(folder / name).open("xb") for name in (IMAGES, LABELS)]
    try:
        for file, dtype in zip(files, (np.dtype("float16"), np.dtype("uint8"))):
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (pixels,)}
            np.lib.format.write_array_header_1_0(file, header)
        with counting(slices, f"preparing {kind}", "slices", say) as count:
            for prepared in _in_order(reader, found.cases, kind, settings, jobs, memory):
                for arrays, file in zip(prepared[1:], files):
                    for array in arrays:
                        content = np.ascontiguousarray(array).tobytes()
                        digest.update(content)
                        file.write(content)
                records += prepared.records
                count(len(prepared.records))
        if not any([record.source_positive for record in records]):
            raise CommandError(no_foreground(found.cases))
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in files:
            file.close()
    manifest = {
        "version": VERSION,
        "kind": kind,
        "settings": settings,
        "is_phantom": phantom,
        "slices": [record_of(record) for record in records],
    }
    digest.update(json.dumps(manifest).encode())
    manifest["fingerprint"] = digest.hexdigest()
    with (folder / MANIFEST).open("x") as file:
        json.dump(manifest, file)
        file.flush()
        os.fsync(file.fileno())


def _in_order(
    reader: ModuleType, cases: list[Case], kind: str, settings: dict[str, Any], jobs: int, memory: float
) -> Iterator[Prepared]:
    """Prepare each case, in order; no more than two for each thread are held, and no more than the memory holds: three
    quarters of it for those in work, the rest for those that wait to be written. Threads suffice: zlib, resizing and
    NumPy's loops run without the interpreter's lock."""
    waiting: deque[tuple[Future[Prepared], int]] = deque()
    room, left = Room(0.75 * memory), int(0.25 * memory * 2**30)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for case in cases:
                size = 3 * _pixels(case, settings["size"])
                while waiting and (size > left or len(waiting) >= 2 * jobs):
                    first, freed = waiting.popleft()
                    left += freed
                    yield first.result()
                left -= size
                waiting.append((pool.submit(_prepare_case, reader, case, kind, settings, room), size))
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

"""The store: made once, in parallel, and only whole ones are ever used."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")
h5py = pytest.importorskip("h5py")
Image = pytest.importorskip("PIL.Image")

from phantoms import LAYOUTS, opened, phantom, silent

from fastloss.cli import CommandError
from fastloss.train.datasets import open_dataset, prepare
from fastloss.train.datasets.records import Case
from fastloss.train.datasets.store import IMAGES, LABELS, MANIFEST


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """One small phantom for each kind; tests must not write into them."""
    folder = tmp_path_factory.mktemp("phantoms")
    return {kind: phantom(kind, folder / kind) for kind in LAYOUTS}


def test_a_store_is_made_once_for_the_same_files_and_settings(tmp_path, monkeypatch):
    root = phantom("acdc", tmp_path / "p")
    first = opened(root, "acdc", tmp_path / "c", size=32)
    monkeypatch.setattr(prepare, "_prepare_case", None)  # whoever prepares now fails
    again = opened(root, "acdc", tmp_path / "c", size=32)
    assert (again.folder, again.slices) == (first.folder, first.slices)
    np.testing.assert_array_equal(again.image(5), first.image(5))
    monkeypatch.undo()
    changed = opened(root, "acdc", tmp_path / "c", size=32, normalise="percentile")
    assert changed.folder != first.folder and changed.fingerprint != first.fingerprint
    path = next(root.glob("training/*/*_frame01.nii.gz"))
    os.utime(path, (1, 1))
    touched = opened(root, "acdc", tmp_path / "c", size=32)
    assert touched.folder != first.folder and touched.fingerprint == first.fingerprint


@pytest.mark.parametrize("jobs", [2, 5])
def test_the_number_of_threads_changes_nothing(roots, tmp_path, jobs):
    one = opened(roots["acdc"], "acdc", tmp_path / "1")
    many = open_dataset(roots["acdc"], kind="acdc", cache_dir=tmp_path / "2", jobs=jobs, say=silent)
    assert one.fingerprint == many.fingerprint and one.slices == many.slices


@pytest.mark.parametrize("name", [IMAGES, LABELS, MANIFEST])
def test_a_damaged_store_is_prepared_anew(roots, tmp_path, capsys, name):
    store = opened(roots["acdc"], "acdc", tmp_path)
    path = store.folder / name
    os.truncate(path, path.stat().st_size // 2)
    again = opened(roots["acdc"], "acdc", tmp_path)
    assert "is damaged" in capsys.readouterr().err
    assert again.folder == store.folder and again.fingerprint == store.fingerprint
    assert again.image(len(again) - 1).shape == (224, 224)


KILLED = """
import sys, time
from pathlib import Path
from fastloss.train.datasets import open_dataset, prepare
real = prepare._prepare_case
def slow(*args):
    print("working", flush=True)
    time.sleep(0.2)
    return real(*args)
prepare._prepare_case = slow
open_dataset(sys.argv[1], kind="acdc", cache_dir=Path(sys.argv[2]), jobs=1, say=lambda words: None)
"""


def test_a_killed_preparation_is_never_trusted(roots, tmp_path):
    """Killed twice in the middle: what remains is not a store, and the next call makes the right one."""
    for _ in range(2):
        command = [sys.executable, "-c", KILLED, str(roots["acdc"]), str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        (left,) = [path for path in (tmp_path / "stores").iterdir() if path.is_dir()]
        assert left.name.endswith(".partial") and not (left / MANIFEST).exists()
    store = opened(roots["acdc"], "acdc", tmp_path)
    assert [path for path in (tmp_path / "stores").iterdir() if path.is_dir()] == [store.folder]
    assert store.fingerprint == opened(roots["acdc"], "acdc", tmp_path / "fresh").fingerprint


def test_two_processes_make_one_store(roots, tmp_path):
    command = [sys.executable, "-c", KILLED, str(roots["acdc"]), str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate()[0].count("working") for process in both]
    assert sorted(printed) == [0, 6] and [process.returncode for process in both] == [0, 0]


def test_an_interrupt_leaves_nothing(roots, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "_prepare_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(roots["acdc"], "acdc", tmp_path)
    assert [path for path in (tmp_path / "stores").iterdir() if path.is_dir()] == []


def test_a_pickled_store_is_small_and_reads(roots, tmp_path):
    store = opened(roots["acdc"], "acdc", tmp_path)
    store.image(0)
    content = pickle.dumps(store)
    assert len(content) < 20_000
    np.testing.assert_array_equal(pickle.loads(content).image(3), store.image(3))


def test_preparing_waits_for_no_more_than_a_few_volumes(roots, monkeypatch):
    """Memory stays bounded: beyond two volumes for each thread the reading waits for the writing."""
    started = []
    monkeypatch.setattr(prepare, "_prepare_case", lambda reader, case, *rest: started.append(case) or case)
    cases = [Case(str(n), str(n), (), (0,), (4, 4)) for n in range(50)]
    stream = prepare._in_order(None, cases, "acdc", {"size": 16}, jobs=2, memory=prepare.MEMORY)
    assert next(stream) == cases[0]
    time.sleep(0.05)
    assert len(started) <= 4
    assert list(stream) == cases[1:]


def test_errors_of_a_volume_reach_the_caller(roots, monkeypatch, tmp_path):
    def broken(*args):
        raise CommandError("this volume is broken")

    monkeypatch.setattr(prepare, "_prepare_case", broken)
    with pytest.raises(CommandError, match="this volume is broken"):
        opened(roots["acdc"], "acdc", tmp_path)


def test_volumes_in_work_fit_the_memory(roots, tmp_path, monkeypatch):
    """Eight threads, memory for two volumes of 6 x 40 x 40 at a time: never three, and the same store."""
    active, most = 0, 0
    check = prepare.check_case
    lock = threading.Lock()

    def slow(*args):
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        time.sleep(0.02)
        try:
            return check(*args)
        finally:
            with lock:
                active -= 1

    monkeypatch.setattr(prepare, "check_case", slow)
    root = phantom("msd-colon", tmp_path / "data", patients=8)
    volume = 6 * 40 * 40 * prepare.VOXEL_BYTES / 2**30
    stores = []
    for memory, allowed in ((2.5 * volume / 0.75, 2), (volume / 10, 1)):
        most = 0
        stores.append(open_dataset(root, kind="msd-colon", cache_dir=tmp_path / f"c{allowed}", jobs=8, memory=memory,
                                   settings={"size": 16}, say=silent))  # fmt: skip
        assert most == allowed
    assert stores[0].fingerprint == stores[1].fingerprint

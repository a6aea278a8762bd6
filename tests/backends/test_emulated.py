"""The CUDA kernels, run by the emulator: tests of every backend, in a process in which "cuda" works on CPU tensors.

A part of them, for `make test`; `make test-emulated` runs all, `make sanitize-cuda` all of them instrumented.
"""

import json
import os
import re
import subprocess
import sys

import emulated
import pytest

pytestmark = pytest.mark.skipif(emulated.reason() is not None, reason=str(emulated.reason()))

VALUES = "test_loss or test_soft_targets or test_whole_vectors or test_numbers_of_classes"
MANY_TILES = "selection and 0.6-multiclass and (plain or masked)"  # of multiclass top-k: more than fit on the chip
COMMON = f"({VALUES}) and float32"  # what every path is tried with
RUNS = {
    # path: [(file, which of its tests)]
    "auto": [
        ("test_parity.py", f"{VALUES} or test_other_dimensions or ((test_layout or test_elementwise) and not float64)"),
        ("test_parity.py", "test_ignore_index and not float64 or (test_target_dtype or test_class_id) and float16"),
        ("test_topk.py", "not saturated and not 0.001"),
        ("test_edges.py", "not fresh_memory and not everything"),
        ("test_ops.py", "direct_call"),
        ("test_tiles.py", "test_"),
        ("test_upsampled.py", "masks or targets or dtypes or layouts or axes_that_stay"),
    ],
    "resident": [
        ("test_parity.py", f"{COMMON} or test_whole_vectors or test_long_plane or test_loss and bfloat16"),
        ("test_topk.py", f"ties_by_the_thousand and float32 or two_topk or {MANY_TILES}"),
    ],
    "split": [
        ("test_parity.py", f"{COMMON} or test_whole_vectors or test_loss and float16"),
        ("test_topk.py", "ties_by_the_thousand and float32 or two_topk"),
    ],
}
CASES = [(path, *selection) for path, selections in RUNS.items() for selection in selections]


def run(file, wanted, sanitize="", **environment):
    library = emulated.build("backend", emulated.BACKEND, sanitize)
    env = {**os.environ, "FASTLOSS_EMULATED": str(library), **environment}
    if sanitize:
        env |= {"LD_PRELOAD": emulated.preload(), "ASAN_OPTIONS": "detect_leaks=0"}
    file = next(emulated.ROOT.glob(f"tests/*/{file}"))
    wanted = f"({wanted}) and not compile and not slow"
    call = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file, "-k", wanted]
    done = subprocess.run(call, capture_output=True, text=True, cwd=emulated.ROOT, env=env)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return int(re.search(r"(\d+) passed", done.stdout)[1])


@pytest.mark.parametrize(("path", "file", "wanted"), CASES, ids=[f"{c[0]}-{c[1][5:-3]}" for c in CASES])
def test_kernels(path, file, wanted):
    assert run(file, wanted, FASTLOSS_CUDA_PATH=path) > 5


@pytest.mark.parametrize("answer", ("0", "2"), ids=("absent", "refused"))
def test_a_refused_cooperative_launch_falls_to_two_phases(answer):
    chosen = "(test_loss or test_numbers_of_classes) and float32 and (dice or topk or ce)"
    assert run("test_parity.py", chosen, FASTLOSS_EMULATOR_COOPERATIVE=answer, FASTLOSS_CUDA_PATH="resident") > 5


# Launches of forward with a gradient, of its backward and of forward alone, where blocks can meet; where they cannot.
# A training step takes two where the whole call fits on the chip.
LAUNCHES = {
    "pointwise": ([1, 1, 1], [2, 1, 2]),
    "region": ([1, 1, 1], [3, 1, 2]),
    "topk": ([1, 1, 1], [6, 1, 5]),
    "topk and others": ([1, 1, 1], [6, 1, 5]),
    "two topk": ([1, 1, 1], [6, 1, 5]),
    "region, more than fits": ([2, 1, 1], [3, 1, 2]),
    "topk, more than fits": ([2, 1, 1], [6, 1, 5]),
    "topk of many classes": ([1, 1, 1], [6, 1, 5]),
    "multilabel, pointwise": ([1, 1, 1], [2, 1, 2]),
    "multilabel, region": ([1, 1, 1], [3, 1, 2]),
    "multilabel, any other": ([1, 1, 1], [3, 1, 2]),
    "multilabel, topk": ([1, 1, 1], [6, 1, 5]),
}


@pytest.mark.parametrize("settings", ({}, {"CUDA_PATH": "split"}, {"EMULATOR_COOPERATIVE": "2"}), ids=str)
def test_launches(settings):
    library = emulated.build("backend", emulated.BACKEND)
    folders = os.pathsep.join([str(emulated.ROOT), str(emulated.ROOT / "tests" / "support")])
    env = {**os.environ, "FASTLOSS_EMULATED": str(library), "PYTHONPATH": folders}
    if "EMULATOR_COOPERATIVE" in settings:  # what is tried first is the same; tiny inputs need no second block
        env["FASTLOSS_CUDA_PATH"] = "resident"
    env |= {f"FASTLOSS_{name}": value for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "tests/support/launches.py"], capture_output=True, text=True, cwd=emulated.ROOT, env=env
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout) == {name: counts[bool(settings)] for name, counts in LAUNCHES.items()}


def test_the_order_of_threads_changes_no_bit():
    """Each call draws another order."""
    assert run("test_determinism.py", "float32 or hit_and_miss", FASTLOSS_EMULATOR_SEED="1") > 5


def test_kernels_under_sanitizers():
    chosen = "test_loss and float32 or test_layout and bfloat16 and (sliced or channels_last)"
    assert run("test_parity.py", chosen, "address,bounds,alignment") > 5

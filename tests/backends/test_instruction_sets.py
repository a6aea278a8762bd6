"""Every build of the kernels in the extension: the core of the parity tests again, in a process that runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cases import COMPILED

from fastloss import _library

HERE = Path(__file__).parent
BUILT = _library.build_record().get("flags", {}) if "cpu" in COMPILED else {}
SETS = [name for name in ("baseline", "avx2", "avx512") if name in BUILT]
TESTS = [
    "test_parity.py::test_loss",
    "test_parity.py::test_soft_targets",
    "test_parity.py::test_ignore_index_mask_and_pixel_weight",
    "../core/test_edges.py::test_saturated_logits",
    "../core/test_edges.py::test_sizes_around_chunks_and_blocks",
    "../core/test_upsampled.py::test_modes_and_ratios",
    "../core/test_determinism.py::test_the_loss_has_the_same_bits_with_and_without_gradient",
    "../core/test_topk.py::test_selection_outside_a_band_around_the_threshold",
]


@pytest.mark.parametrize("name", SETS)
def test_parity(name):
    here = _library.load().cpu_capability()
    if name == here:
        pytest.skip("the other tests run it")
    env = {**os.environ, "FASTLOSS_CPU": name}
    code = "import torch, fastloss._library as l; print(l.load().cpu_capability())"
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=HERE.parent)
    if got.stdout.strip() != name:
        pytest.skip(f"this processor has no {name}")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=short", "-p", "no:cacheprovider", "-k", "cpu", *TESTS]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=HERE)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout

"""The Triton backend beside its kernels; those run in Triton's interpreter, which a process must be started with.

`make test-triton` runs there everything that tests a backend.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import DEVICES, LOSSES

from fastloss import triton

INTERPRETED = DEVICES["triton"] == "cpu"
native = pytest.mark.skipif(INTERPRETED, reason="not in the interpreter")


@native
def test_in_the_interpreter():
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    file = Path(__file__).with_name("in_interpreter.py")
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", file]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    passed = re.search(r"(\d+) passed", result.stdout)
    assert result.returncode == 0 and passed and int(passed.group(1)) >= len(LOSSES), result.stdout[-4000:]


def test_nothing_is_imported_before_it_is_used():
    code = "import sys, fastloss; fastloss.backends.available(); sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


REASONS = {
    "triton is not installed": lambda patch: patch.setattr("importlib.util.find_spec", lambda name: None),
    "need triton 3.6 or later, you have 2.1.0": lambda patch: patch.setattr(
        "importlib.metadata.version", lambda _: "2.1.0"
    ),
    "was built without CUDA": lambda patch: patch.setattr(torch.version, "cuda", None),
    "no NVIDIA GPU": lambda patch: patch.setattr(torch.cuda, "is_available", lambda: False),
    "compute capability 8.0 or later, this one has 7.5": lambda patch: patch.setattr(
        torch.cuda, "get_device_capability", lambda: (7, 5)
    ),
    None: lambda patch: None,
}


@native
@pytest.mark.parametrize("expected", REASONS, ids=str)
def test_reason(expected, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "3.8.0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    REASONS[expected](monkeypatch)
    reason = triton.reason()
    assert reason is None if expected is None else expected in reason


@native
def test_the_fastest_tile_is_kept_on_disk(monkeypatch, tmp_path):
    pytest.importorskip("triton")
    from fastloss.triton import tune

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tune, "_best", {})
    times = dict(zip(tune.SIGMOID, (3.0, 2.0, 1.0, 4.0)))
    best = tune.decide(tune.SIGMOID, ("key", torch.float32, 0), "a GPU", times.__getitem__)
    assert best == tune.SIGMOID[2] and list(tune._best.values()) == [best]
    again = tune.decide(tune.SIGMOID, ("key", torch.float32, 0), "a GPU", None)
    assert again == best and type(again) is tuple
    other = tune.decide(tune.SIGMOID, ("key", torch.float32, 0), "another GPU", lambda candidate: -times[candidate])
    assert other == tune.SIGMOID[3]
    assert tune.choose(tune.SIGMOID, ("new",), torch.device("cpu"), None) == tune.SIGMOID[0]

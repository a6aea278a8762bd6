"""bench/bands.py: every way computes the same loss, and is timed and weighed."""

import importlib.util
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "bands.py"
pytestmark = [
    pytest.mark.skipif(not SCRIPT.exists(), reason="not in a source tree"),
    pytest.mark.filterwarnings("ignore"),
]
SMALL = {"up": (2, 3, (8, 8), (32, 32), None), "head": (1, 3, None, (8, 8, 8), 4)}


@pytest.fixture
def bands(monkeypatch):
    spec = importlib.util.spec_from_file_location("bench_bands", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "CASES", SMALL)
    return module


@pytest.mark.parametrize("case", SMALL)
def test_every_way_is_the_same_loss(case, bands):
    step = bands.Step(case, compiled=False)
    expected = step.run("torch")
    assert len(step.ways) >= 3
    for way in step.ways:
        for ours, theirs in zip(step.run(way), expected):
            assert (ours - theirs).norm() < 1e-3 * theirs.norm(), way


def test_times_and_peaks(bands):
    seconds = bands.timed("up", ["torch"], 2, False)
    assert list(seconds) == [bands.OURS, "torch"] and all(len(found) == 2 for found in seconds.values())
    if Path("/proc/self/clear_refs").exists():
        assert bands.peak("up", bands.OURS) >= 0
    assert torch.get_num_threads() >= 1 and bands.machine()

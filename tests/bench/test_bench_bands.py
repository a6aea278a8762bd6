"""bench/bands.py: every way computes the same loss, and is timed and weighed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_a_record_is_gone_on_with_and_drawn(bands, monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    from fastloss.bench import chart

    path = tmp_path / "record.json"
    peak = subprocess.CompletedProcess([], 0, "5000000", "")
    monkeypatch.setattr(bands.subprocess, "run", lambda *_, **__: peak)
    for case, ways in (("up", "torch"), ("head", "torch"), ("up", "fastloss")):
        given = ["--cases", case, "--ways", ways, "--rounds", "1", "--no-compile", "--threads", "1,2"]
        monkeypatch.setattr(sys, "argv", ["bands.py", *given, "--out", str(path)])
        bands.main()
    found = json.loads(path.read_text())
    assert set(found["cases"]["up"]["1"]) == {bands.OURS, "torch", "fastloss"} and set(found["cases"]) == {"up", "head"}
    assert found["cases"]["up"]["1"]["torch"]["peak"] == 5_000_000 and "peak" not in found["cases"]["up"]["2"]["torch"]
    assert found["machine"]["cores"] and "| up | 2 | torch |" in capsys.readouterr().out
    monkeypatch.setattr(chart, "HEADLINE", "up")
    monkeypatch.setattr(sys, "argv", ["bands.py", "--draw", str(path)])
    bands.main()
    drawn = (tmp_path / "record.svg").read_text()
    assert "5 MiB" in drawn and "fastloss, in bands" in drawn
    assert drawn.count("prefers-color-scheme: dark") == 1 and f"stroke: {chart.INK}" in drawn

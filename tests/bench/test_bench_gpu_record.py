"""What the GPU benchmark makes of a record: targets, page, command line. The records are made up here, by formula."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastloss.bench import cases_gpu as cases
from fastloss.bench import readings, render, targets
from fastloss.bench import record as records
from fastloss.bench.targets import MISS, PASS, UNPROVEN
from fastloss.cli import main

ROOT = Path(__file__).parents[2]
FULL = cases.named(False)


def entry(microseconds, role="ours", **more):
    return {"seconds": 1e-6 * microseconds, "spread": 0.02, "rounds": 40, "role": role, "target": "uint8", **more}


def record(change=lambda contenders, row: None):
    """A record in which every target is met, as a GPU might write it."""
    rows = []
    for p in FULL.values():
        floor = p.least_bytes() / 4.3e6  # microseconds at 4.3 TB/s
        dice = 9 * p.pixels / 4.3e6
        copy = {"copy": 1e-6 * floor, "path_copy": 1.5e-6 * floor}
        graph = {"seconds": 1.2e-6 * floor, "host_seconds": 1e-6, "copy": 1e-6 * floor}
        more = {"memory": {"kept": 1.0, "peak": 1.0}, "graph": graph, **copy}
        more["profile"] = {"launches": 1, "gpu_us": floor, "kernels": [], "forward": ["sigmoid_resident<1>"]}
        if p.group == "64":
            more["host_seconds"] = 2e-5
        contenders = {
            "cuda": entry(1.1 * (dice if "topk" in p.name else floor), **more),
            "cuda split": entry(1.2 * floor, **copy),
            "triton": entry(1.2 * floor, **more),
            "smp": entry(20 * floor, "peer"),
            "smp compiled": entry(12 * floor, "peer"),
        }
        row = records.row(p) | {"contenders": contenders, "missing": {"monai": "no such loss"}}
        change(contenders, row)
        rows.append(row)
    more = {
        "dry": False,
        "gpu": {},
        "absent_peers": ["exacta"],
        "left_out": [],
        "bandwidth": {str(1 << 32): entry(1000.0)},
    }
    return records.new("gpu", [], {}, **more) | {"rows": rows}


def page(data):
    return render.section(json.loads(json.dumps(data)), "gpu--card")


def verdicts(data):
    return {b.name: b.verdict for b in targets.check(data)}


def test_targets_of_a_record_that_meets_them():
    found = targets.check(record())
    assert {b.verdict for b in found} == {PASS}, [b for b in found if b.verdict != PASS]


def slower(factor, key="cuda"):
    def change(contenders, row):
        contenders[key]["seconds"] *= factor

    return change


def test_every_target_can_be_missed():
    def spoil(contenders, row):
        contenders["cuda"]["seconds"] *= 30 if row["title"] != "Dice" else 20
        graph = contenders["cuda"]["graph"] | {"seconds": 1.0}
        contenders["cuda"]["graph"] = {"refused": "not permitted"} if row["group"] == "64" else graph
        contenders["cuda"]["memory"]["peak"] *= 2
        contenders["triton"]["seconds"] *= 900
        contenders["triton"]["graph"] = {"refused": "not permitted"}
        if row["group"] == "64":
            contenders["triton"]["host_seconds"] = 1e-3
        if "TopK" in row["title"]:
            contenders["cuda"]["seconds"] *= 10

    assert set(verdicts(record(spoil)).values()) == {MISS}


def test_a_target_is_unproven_where_something_was_not_measured():
    def lose(contenders, row):
        del contenders["cuda"]

    found = verdicts(record(lose))
    assert PASS not in {v for name, v in found.items() if "Triton:" not in name}
    assert set(verdicts(record() | {"rows": []}).values()) == {UNPROVEN}
    assert set(verdicts(record() | {"dry": True}).values()) == {UNPROVEN}

    def noisy(contenders, row):
        contenders["cuda"]["spread"] = 0.5

    assert verdicts(record(noisy))["Dice at 8.4 Mpx over the copy, graph"] == UNPROVEN


def test_the_path_is_told_by_the_kernels_of_the_forward():
    def row(*names, kept=1.0):
        return {"contenders": {"cuda": {"profile": {"forward": list(names)}, "memory": {"kept": kept, "peak": 1.0}}}}

    assert readings.path(row("sigmoid_resident<float>(Params)")) == "one pass"
    assert readings.path(row("sigmoid_fast<float>", kept=0.01)) == "split"  # sums in forward, the gradient in backward
    assert readings.path(row("softmax_small<9>", "finish_sums")) == "one pass"
    assert readings.path(row("sigmoid_stream<0>", "finish_sums", "sigmoid_stream<1>")) == "split"
    assert readings.path(row("Memset")) is readings.path({"contenders": {}}) is None


def test_a_peer_of_another_formula_is_not_compared():
    def change(contenders, row):
        contenders["smp"] |= {"role": "other", "seconds": 1e-9}

    found = {b.name: b for b in targets.check(record(change))}["eager peer"]
    assert found.verdict == UNPROVEN and found.detail == "nothing measured"


def test_the_page_shows_what_was_measured_and_nothing_else():
    data = json.loads(json.dumps(record()))
    text = page(data)
    assert "Dry run" not in text and "4.29 TB/s" in text and "exacta: not installed" in text
    assert "one pass" in text and "±2%" in text and "monai: no such loss" in text
    for row in data["rows"]:
        row["contenders"] = {}
    empty = page(data | {"bandwidth": {}})
    assert "±2%" not in empty and "TB/s" not in empty and empty.count("| not measured |") > 3 * len(data["rows"])
    assert "Dry run on a CPU" in page(data | {"dry": True})


def test_command_line(capsys, tmp_path, monkeypatch):
    assert main(["bench", "--gpu", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(FULL)
    file = tmp_path / "gpu--card.json"
    file.write_text(json.dumps(record()))
    assert main(["bench", "--gpu", "--render", str(file)]) == 0
    assert page(record()).split("\n- 20")[0] in (tmp_path / "gpu--card.md").read_text()
    assert main(["bench", "--render", str(tmp_path)]) == 0 and not (tmp_path / "README.md").exists()
    file.write_text("{}")
    monkeypatch.setenv("FASTLOSS_DRY", "1")
    for words in (
        ["--render", str(file)],
        ["--peers", "nobody"],
        ["--seconds", "1"],
        ["--cases", "nothing"],
        ["--quick"],
    ):
        assert main(["bench", "--gpu", *words]) == 2
        said = capsys.readouterr().err
        assert words[0] in said and said.count("\n") == 1
    monkeypatch.delenv("FASTLOSS_DRY")
    if not torch.cuda.is_available():
        assert main(["bench", "--gpu"]) == 2 and "no NVIDIA GPU" in capsys.readouterr().err


@pytest.mark.parametrize("script", ("bench/gpu.sh", "bench/gpu_wheels.sh"))
def test_the_scripts_are_shell(script):
    assert subprocess.run(["bash", "-n", str(ROOT / script)]).returncode == 0
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", str(ROOT / script)]).returncode == 0


def gpu_sh(tmp_path, *words, **env):
    env = {**os.environ, "FASTLOSS_DRY": "1", "OUT": str(tmp_path), "PYTHON": sys.executable, **env}
    return subprocess.run(["bash", "bench/gpu.sh", *words], env=env, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(not (ROOT / "fastloss" / "_build.json").exists(), reason="would build the extension")
def test_a_dry_run(tmp_path):
    """One row; the others are those of the tests above, and take minutes."""
    done = gpu_sh(tmp_path, "bench", "--cases", "dice-64-fp32", "--peers", "none")
    lines = [json.loads(line) for line in (tmp_path / "bench.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == ["wheels", "build", "environment", "bench"]
    assert lines[-1]["status"] == 0, done.stdout + done.stderr  # a busy machine may be late with the others
    (row,) = json.loads((tmp_path / "bench-dry.json").read_text())["rows"]
    assert row["contenders"].keys() == {"cuda", "triton"} and row["contenders"]["triton"]["seconds"] > 0
    assert "Dry run on a CPU" in (tmp_path / "bench-dry.md").read_text()


def test_a_mode_and_time_are_needed(tmp_path):
    assert gpu_sh(tmp_path).returncode == 2 and "usage" in gpu_sh(tmp_path, "all").stderr
    late = gpu_sh(tmp_path, "checks", FASTLOSS_GPU_SECONDS="1")
    assert late.returncode == 1 and late.stdout.count("no time left") >= 8

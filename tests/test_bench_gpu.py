"""The GPU benchmark without a GPU: its cases and bytes, its peers, its clock and its lanes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastloss.bench import formula, parity
from fastloss.bench.gpu import cases, clock, lane, lanes, run, smoke, ways

ROOT = Path(__file__).parent.parent
FULL = {p.name: p for p in cases.full() + cases.resident()}


def test_bytes_of_the_paths():
    dice, focal, topk = [FULL[f"{name}-8mpx-fp32"] for name in ("dice", "focal", "topk")]
    pixels = 8 * 1024**2
    assert dice.least_bytes == dice.path_bytes("resident") == focal.path_bytes("split") == 9 * pixels
    assert dice.path_bytes("split") == 14 * pixels and topk.path_bytes("split") == 24 * pixels
    assert dice.path_bytes("auto") is None and focal.path_bytes("auto") == focal.least_bytes
    assert FULL["dice-8mpx-bf16"].path_bytes("split") == 8 * pixels
    classes, summed = FULL["topk-c9-fp32"], FULL["iou+topk-c9-fp32"]
    pixels = 8 * 224**2
    assert classes.path_bytes("split") == (12 * 9 + 2 + 16) * pixels and summed.path_bytes("split") == 163 * pixels
    assert classes.path_bytes("resident") == classes.least_bytes == 73 * pixels and classes.paths and summed.paths
    pyramid = FULL["dice+ce-c14-fp32-4levels"]
    voxels = 2 * (96**3 + 48**3 + 24**3 + 12**3)
    assert pyramid.least_bytes == (2 * 4 * 14 + 1) * voxels and pyramid.one_gradient == 4 * 14 * voxels


def test_the_issues_sizes_and_losses_are_all_there():
    assert {p.case.shape for p in FULL.values()} == set(cases.SHAPES.values())
    assert {p.case.title for p in FULL.values()} >= {"Dice", "BCE", "Focal", "TopK", "Dice+BCE", "Dice+Focal"}
    assert {p.case.title for p in FULL.values()} >= {"IoU+TopK", "Dice+CE"}
    assert {p.case.dtype for p in FULL.values()} == {"float32", "bfloat16"}
    assert {p.case.target for p in FULL.values()} == {"uint8", "int64"} and {p.levels for p in FULL.values()} == {1, 4}
    assert len(cases.full()) == len({p.name for p in cases.full()})
    assert cases.SHAPES.keys() == cases.DRY.keys()


def test_a_forced_path_only_where_it_can_work():
    fits = {(p.size, path) for p in FULL.values() for path in ("resident", "shared", "split", "small") if p.fits(path)}
    assert ("64", "small") in fits and ("2mpx", "small") not in fits
    assert ("8mpx", "resident") in fits and ("268mpx", "resident") not in fits
    assert ways.path_of("cuda split") == "split" and ways.path_of("cuda") == ways.path_of("triton") == "auto"


def dry(name):
    return {p.name: p for p in cases.full(True) + cases.resident(True)}[name]


PAIRS = [
    ("nnunet compiled", "dice+ce-c14-fp32-4levels", "nnunetv2"),
    ("torchvision", "focal-c3", "torchvision"),
    ("monai", "dice+ce-c14-fp32-4levels", "monai"),
    ("torch", "topk-c14-fp32", "torch"),
    ("cuda", "dice+ce-c14-fp32-4levels", "torch"),
    ("triton", "topk-c14-fp32", "torch"),
]


@pytest.mark.parametrize("key,name,module", PAIRS, ids=str)
def test_a_way_is_the_same_formula(key, name, module):
    """Value and gradient against float64, pyramids and multiclass top-k too."""
    pytest.importorskip(module)
    case = "multilabel" if name == "focal-c3" else ""
    problem = cases._problem("c3", "focal", mode=case, dry=True) if case else dry(name)
    worker = lane.Lane(dry=True)
    worker.problems[problem.name] = problem
    if key == "cuda" and run.unavailable(key, True):
        pytest.skip(run.unavailable(key, True))
    way = ways.build(problem, key, dry=True)
    xs, ys = cases.inputs(problem, "cpu")
    found = worker._check(problem, way, xs, [way.target(y) for y in ys])
    assert found["role"] == ("ours" if key in ways.OURS else "peer"), found
    assert "refused" not in found and found["grad_error"] < 1e-4


def test_a_wrong_way_is_refused():
    problem, worker = dry("topk-c14-fp32"), lane.Lane(dry=True)
    right = ways.build(problem, "triton", dry=True)
    wrong = ways.Way("triton", "ours", lambda xs, ys: 1.01 * right.loss(xs, ys), right.target, "uint8")
    xs, ys = cases.inputs(problem, "cpu")
    assert "parity" in worker._check(problem, wrong, xs, [right.target(y) for y in ys])["refused"]


def test_ties_of_multiclass_topk_are_weighed():
    """Gradient that goes missing at the threshold is seen, though its elements are left out of the comparison."""
    case = dry("topk-c14-fp32").case
    (x,), (y,) = cases.inputs(dry("topk-c14-fp32"), "cpu")
    x = x.detach().round().clamp(-1, 1)
    truth = parity.truth(case, x, y)
    assert truth.band.any() and formula.compare(truth, truth.value, truth.grad, (1e-6, 1e-6)).ok
    lost = truth.grad.masked_fill(truth.band, 0)
    assert not formula.compare(truth, truth.value, lost, (1e-6, 1e-6)).ok


def test_levels_of_inputs():
    problem = dry("dice+ce-c14-fp32-4levels")
    xs, ys = cases.inputs(problem, "cpu")
    assert [tuple(x.shape[2:]) for x in xs] == [(16,) * 3, (8,) * 3, (4,) * 3, (2,) * 3]
    assert [y.shape[1:] for y in ys] == [x.shape[2:] for x in xs] and all(x.requires_grad for x in xs)
    other = cases.clones(xs, 2)[1][0]
    assert other.shape == xs[0].shape and other.requires_grad and not torch.equal(other, xs[0])


def test_smoke_sees_a_wrong_loss(monkeypatch):
    assert smoke.run("reference", "cpu", tiny=True)["failures"] == []
    assert "missing" in smoke.run("cuda", "cpu") or torch.cuda.is_available()
    evaluate = smoke.evaluate
    monkeypatch.setattr(smoke, "evaluate", lambda *a: (evaluate(*a)[0] * 1.001, evaluate(*a)[1]))
    failures = smoke.run("reference", "cpu", tiny=True)["failures"]
    assert len(failures) > 30 and "value off" in failures[0]


def test_clock_of_a_dry_run():
    found = clock.Dry().rounds({"a": lambda: sum(range(1000))}, 0.01)["a"]
    assert found["seconds"] > 0 and found["rounds"] == 3
    assert clock.summary([3.0, 1.0, 2.0, 4.0])["seconds"] == 2.5


LANE = """
import json, sys, time
print("ready", flush=True)
for line in sys.stdin:
    what = json.loads(line)["do"]
    if what == "hang": time.sleep(60)
    if what == "die": print("illegal access", file=sys.stderr); sys.exit(3)
    print(json.dumps({"did": what, "broken": what == "break"}), flush=True)
"""


def test_a_lane_survives_what_hangs_and_dies(monkeypatch, tmp_path):
    (tmp_path / "stand_in.py").write_text(LANE)
    popen = subprocess.Popen
    words = [sys.executable, str(tmp_path / "stand_in.py")]
    monkeypatch.setattr(lanes.subprocess, "Popen", lambda _, **settings: popen(words, **settings))
    one = lanes.Lane("cuda split", "cuda split", True)
    assert one.env["FASTLOSS_CUDA_PATH"] == "split"
    assert one.ask({"do": "work"}, 20)["did"] == "work"
    first = one.process.pid
    assert "no answer" in one.ask({"do": "hang"}, 0.3)["refused"] and one.process is None
    assert one.ask({"do": "work"}, 20)["did"] == "work" and one.process.pid != first
    refused = one.ask({"do": "die"}, 20)["refused"]
    assert "status 3" in refused and "illegal access" in refused
    assert one.ask({"do": "break"}, 20)["did"] == "break" and one.process is None  # its CUDA context is lost
    one.stop()

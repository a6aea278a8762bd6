"""The GPU benchmark without a GPU: its cases and bytes, its peers, its clock and its lanes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastloss.bench import parity
from fastloss.bench.gpu import cases, clock, lane, lanes, run, smoke, ways
from fastloss.measure import formula

ROOT = Path(__file__).parent.parent
TOPK = cases._problem("c14", "topk", dry=True)
FULL = {p.name: p for p in cases.bench() + cases.more()}


def test_bytes_of_the_paths():
    dice, focal, topk = [FULL[f"{name}-8mpx-fp32"] for name in ("dice", "focal", "topk")]
    pixels = 8 * 1024**2
    assert dice.least_bytes == dice.path_bytes("resident") == focal.path_bytes("split") == 9 * pixels
    assert dice.path_bytes("split") == topk.path_bytes("split") == 14 * pixels
    assert dice.path_bytes("auto") is None and focal.path_bytes("auto") == focal.least_bytes
    assert FULL["dice-8mpx-bf16"].path_bytes("split") == 8 * pixels
    assert FULL["dice+bce-8mpx-fp32-masked"].least_bytes == 10 * pixels  # the mask is a byte a pixel
    assert FULL["dice+bce-8mpx-fp32-ignored"].least_bytes == 9 * pixels
    assert FULL["dice+bce-8mpx-fp32-float32"].least_bytes == 12 * pixels
    classes = FULL["topk-c9-fp32"]
    assert classes.path_bytes("resident") == classes.least_bytes == 73 * 8 * 224**2
    pyramid = FULL["dice+ce-c14-fp32-4levels"]
    voxels = 2 * (96**3 + 48**3 + 24**3 + 12**3)
    assert pyramid.least_bytes == (2 * 4 * 14 + 1) * voxels and pyramid.one_gradient == 4 * 14 * voxels


def test_the_issues_sizes_and_losses_are_all_there():
    assert {p.case.shape for p in FULL.values()} == set(cases.SHAPES.values())
    assert {p.case.title for p in FULL.values()} >= {"Dice", "BCE", "Focal", "TopK", "Dice+BCE", "Dice+Focal"}
    assert {p.case.title for p in FULL.values()} >= {"IoU+TopK", "Dice+CE", "Focal 1.5", "Dice+CE smoothed"}
    assert {p.case.title for p in FULL.values()} >= {"Dice+BCE, mask", "Dice+BCE, ignore_index"}
    assert {p.case.dtype for p in FULL.values()} == {"float32", "bfloat16"}
    assert {p.case.target for p in FULL.values()} == {"uint8", "int64", "float32"}
    assert {p.levels for p in FULL.values()} == {1, 4}
    assert len(cases.bench() + cases.more()) == len(FULL)
    assert cases.SHAPES.keys() == cases.DRY.keys()


def test_paths_are_forced_where_their_ranges_are_open():
    forced = {name: p.forced for name, p in FULL.items()}
    assert forced["dice-8mpx-fp32"] == forced["topk-2mpx-fp32"] == ["resident", "split"]
    assert forced["dice-268mpx-fp32"] == forced["dice+ce-c118-fp32"] == ["split"]
    assert forced["focal1.5-8mpx-fp32"] == forced["dice-64-fp32"] == forced["dice+ce-c14-fp32-4levels"] == []
    assert ways.path_of("cuda split") == "split" and ways.path_of("cuda") == ways.path_of("triton") == "auto"


def test_peers_are_the_best_ones_or_those_that_were_named():
    dice, soft = FULL["dice-8mpx-fp32"], FULL["dice+bce-8mpx-fp32-float32"]
    assert ways.wanted(dice, None) == ["monai", "smp compiled"] and ways.wanted(soft, None) == [
        "torch",
        "torch compiled",
    ]
    assert ways.wanted(FULL["dice-64-fp32"], None) == ["monai"] and ways.wanted(FULL["focal-268mpx-fp32"], None) == []
    assert ways.wanted(FULL["dice+ce-c14-fp32-4levels"], None) == ["monai", "nnunet compiled"]
    named = ["monai", "exacta", "nnunet"]
    assert ways.wanted(dice, named) == ["monai", "exacta", "monai compiled", "nnunet compiled"]
    assert ways.wanted(dice, []) == []
    with pytest.raises(ways.NotOffered):
        ways.peer(soft, "monai", dry=True)


def dry(name):
    return {p.name: p for p in cases.bench(True) + cases.more(True)}[name]


PAIRS = [(key, p.name) for p in cases.bench(True) for key in ("cuda", "triton", *ways.wanted(p, None))]
PAIRS += [("torchvision", "focal-c3"), ("monai", "dice+bce-c3"), ("torch", "bce-c3")]


@pytest.mark.parametrize("key,name", PAIRS, ids=str)
def test_a_way_is_the_same_formula(key, name, monkeypatch):
    """Value and gradient against float64: every row that stands for all, by us and by its peers."""
    pytest.importorskip(ways.MODULES.get(key.split()[0], "torch"))
    monkeypatch.setattr(torch, "compile", lambda loss, **_: loss)  # what compiles is the same formula
    loss, *size = name.split("-")
    problem = cases._problem("c3", loss, mode="multilabel", dry=True) if size == ["c3"] else dry(name)
    worker = lane.Lane(dry=True)
    worker.problems[problem.name] = problem
    if key == "cuda" and run.unavailable(key, True):
        pytest.skip(run.unavailable(key, True))
    way = ways.build(problem, key, dry=True)
    xs, ys = cases.inputs(problem, "cpu")
    found = worker._check(problem, way, xs, [way.target(y) for y in ys])
    assert found["role"] == ("ours" if key in ways.OURS else "peer"), found
    limit = 4e-3 if problem.case.dtype == "bfloat16" else 1e-4
    assert "refused" not in found and (found["grad_error"] < limit or key not in ways.OURS), found


def test_a_wrong_way_is_refused():
    problem, worker = TOPK, lane.Lane(dry=True)
    worker.problems[TOPK.name] = TOPK
    right = ways.build(problem, "triton", dry=True)
    wrong = ways.Way("triton", "ours", lambda xs, ys: 1.01 * right.loss(xs, ys), right.target, "uint8")
    xs, ys = cases.inputs(problem, "cpu")
    assert "parity" in worker._check(problem, wrong, xs, [right.target(y) for y in ys])["refused"]


def test_ties_of_multiclass_topk_are_weighed():
    """Gradient that goes missing at the threshold is seen, though its elements are left out of the comparison."""
    case = TOPK.case
    (x,), (y,) = cases.inputs(TOPK, "cpu")
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
    whole, late = smoke.run("reference", "cpu", tiny=True), smoke.run("reference", "cpu", tiny=True, seconds=0)
    assert whole["failures"] == [] and "late" not in whole
    assert late["checked"] == 0 and "stopped" in late["late"]
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

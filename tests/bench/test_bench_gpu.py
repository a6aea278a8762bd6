"""The GPU benchmark without a GPU: its cases and bytes, its peers, its clock and its lanes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastloss.bench import cases_gpu as cases
from fastloss.bench import clock, gpu, parity, process, smoke, worker_gpu
from fastloss.bench.cases_gpu import path_bytes, wanted
from fastloss.measure import formula, peers
from fastloss.measure.cases import inputs
from fastloss.measure.contenders import Contender

ROOT = Path(__file__).parents[2]
TOPK = cases.make("c14", "topk", dry=True)
FULL = cases.named(False)


def test_bytes_of_the_paths():
    dice, focal, topk = [FULL[f"{name}-8mpx-fp32"] for name in ("dice", "focal", "topk")]
    pixels = 8 * 1024**2
    assert dice.least_bytes() == path_bytes(dice, "resident") == path_bytes(focal, "split") == 9 * pixels
    assert path_bytes(dice, "split") == path_bytes(topk, "split") == 14 * pixels
    assert path_bytes(dice, "auto") is None and path_bytes(focal, "auto") == focal.least_bytes()
    assert path_bytes(FULL["dice-8mpx-bf16"], "split") == 8 * pixels
    assert FULL["dice+bce-8mpx-fp32-masked"].least_bytes() == 10 * pixels  # the mask is a byte a pixel
    assert FULL["dice+bce-8mpx-fp32-ignored"].least_bytes() == 9 * pixels
    assert FULL["dice+bce-8mpx-fp32-float32"].least_bytes() == 12 * pixels
    classes = FULL["topk-c9-fp32"]
    assert path_bytes(classes, "resident") == classes.least_bytes() == 73 * 8 * 224**2
    pyramid = FULL["dice+ce-c14-fp32-4levels"]
    voxels = 2 * (96**3 + 48**3 + 24**3 + 12**3)
    assert pyramid.least_bytes() == (2 * 4 * 14 + 1) * voxels and pyramid.logits_bytes == 4 * 14 * voxels


def test_the_issues_sizes_and_losses_are_all_there():
    assert {p.shape for p in FULL.values()} == {shape for shape, _ in cases.SHAPES.values()}
    assert {p.title for p in FULL.values()} >= {"Dice", "BCE", "Focal", "TopK", "Dice+BCE", "Dice+Focal"}
    assert {p.title for p in FULL.values()} >= {"IoU+TopK", "Dice+CE", "Focal 1.5", "Dice+CE smoothed"}
    assert {p.title for p in FULL.values()} >= {"Dice+BCE, mask", "Dice+BCE, ignore_index"}
    assert {p.dtype for p in FULL.values()} == {"float32", "bfloat16"}
    assert {p.target for p in FULL.values()} == {"uint8", "int64", "float32"}
    assert {p.levels for p in FULL.values()} == {1, 4}
    assert len(cases.bench() + cases.more()) == len(FULL)
    assert all(len(a) == len(b) for a, b in cases.SHAPES.values())


def test_paths_are_forced_where_their_ranges_are_open():
    forced = {name: cases.forced(p) for name, p in FULL.items()}
    assert forced["dice-8mpx-fp32"] == forced["topk-2mpx-fp32"] == ["resident", "split"]
    assert forced["dice-268mpx-fp32"] == forced["dice+ce-c118-fp32"] == ["split"]
    assert forced["focal1.5-8mpx-fp32"] == forced["dice-64-fp32"] == forced["dice+ce-c14-fp32-4levels"] == []
    assert [worker_gpu.path_of(key) for key in ("cuda split", "cuda", "triton")] == ["split", "auto", "auto"]


def test_peers_are_the_best_ones_or_those_that_were_named():
    dice, soft = FULL["dice-8mpx-fp32"], FULL["dice+bce-8mpx-fp32-float32"]
    assert wanted(dice, None) == ["monai", "smp compiled"] and wanted(soft, None) == ["torch", "torch compiled"]
    assert wanted(FULL["dice-64-fp32"], None) == ["monai"] and wanted(FULL["focal-268mpx-fp32"], None) == []
    assert wanted(FULL["dice+ce-c14-fp32-4levels"], None) == ["monai", "nnunet compiled"]
    named = ["monai", "exacta", "nnunet"]
    assert wanted(dice, named) == ["monai", "exacta", "monai compiled", "nnunet compiled"]
    assert wanted(dice, []) == []
    with pytest.raises(peers.NotOffered):
        worker_gpu.build(soft, "monai", dry=True)


PAIRS = [(key, p.name) for p in cases.bench(True) for key in ("cuda", "triton", *wanted(p, None))]
PAIRS += [("torchvision", "focal-c3"), ("monai", "dice+bce-c3"), ("torch", "bce-c3"), ("nnunet", "dice+ce-c14-fp32")]


def judge(case, contender):
    x, y = inputs(case)
    x = worker_gpu.fresh(x)
    return parity.judge(case, contender.on(y), parity.truth(case, x, y), x)


@pytest.mark.parametrize("key,name", PAIRS, ids=str)
def test_a_contender_is_the_same_formula(key, name, monkeypatch):
    """Value and gradient against float64: every row that stands for all, by us and by its peers."""
    library = key.split()[0]
    pytest.importorskip(peers.MODULES.get(library, library) if library in peers.PEERS else "torch")
    monkeypatch.setattr(torch, "compile", lambda loss, **_: loss)  # what compiles is the same formula
    loss, *size = name.split("-")
    case = cases.make("c3", loss, True, mode="multilabel") if size == ["c3"] else cases.named(True)[name]
    if key == "cuda" and gpu.unavailable(key, True):
        pytest.skip(gpu.unavailable(key, True))
    found = judge(case, worker_gpu.build.__wrapped__(case, key, dry=True))
    roles = ("ours",) if key in worker_gpu.OURS else ("baseline", "peer") if library == "torch" else ("peer",)
    assert found["role"] in roles, found
    limit = 4e-3 if case.dtype == "bfloat16" else 1e-4
    assert "refused" not in found and (found["grad_error"] < limit or key not in worker_gpu.OURS), found


def test_a_wrong_contender_is_refused():
    right = worker_gpu.build(TOPK, "triton", dry=True)
    wrong = Contender("triton", "ours", lambda x, y: 1.01 * right.loss(x, y), right.target)
    assert "refused" not in judge(TOPK, right) and "parity" in judge(TOPK, wrong)["refused"]


def test_ties_of_multiclass_topk_are_weighed():
    """Gradient that goes missing at the threshold is seen, though its elements are left out of the comparison."""
    x, y = inputs(TOPK)
    truth = parity.truth(TOPK, x.round().clamp(-1, 1), y)
    assert truth.band.any() and formula.compare(truth, truth.value, truth.grad, (1e-6, 1e-6)).ok
    lost = truth.grad.masked_fill(truth.band, 0)
    assert not formula.compare(truth, truth.value, lost, (1e-6, 1e-6)).ok


def test_levels_of_inputs():
    xs, ys = inputs(cases.named(True)["dice+ce-c14-fp32-4levels"])
    assert [tuple(x.shape[2:]) for x in xs] == [(16,) * 3, (8,) * 3, (4,) * 3, (2,) * 3]
    assert [y.shape[1:] for y in ys] == [x.shape[2:] for x in xs]
    other = worker_gpu.clones(xs, 2)[1][0]
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


STAND_IN = """
import json, sys, time
print("ready", flush=True)
for line in sys.stdin:
    what = json.loads(line)["do"]
    if what == "hang": time.sleep(60)
    if what == "die": print("illegal access", file=sys.stderr); sys.exit(3)
    print(json.dumps({"doing": "half of " + what}), flush=True)
    print(json.dumps({"did": what, "broken": what == "break"}), flush=True)
"""


def test_a_worker_survives_what_hangs_and_dies(monkeypatch, tmp_path):
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    popen = subprocess.Popen
    words = [sys.executable, str(tmp_path / "stand_in.py")]
    monkeypatch.setattr(process.subprocess, "Popen", lambda _, **settings: popen(words, **settings))
    one, said = gpu.worker("cuda split", "cuda split"), []
    assert one.env["FASTLOSS_CUDA_PATH"] == "split"
    assert one.ask({"do": "work"}, 20, said.append)["did"] == "work" and said == ["half of work"]
    first = one.process.pid
    assert "no answer" in one.ask({"do": "hang"}, 0.3)["refused"] and one.process is None
    assert one.ask({"do": "work"}, 20)["did"] == "work" and one.process.pid != first
    refused = one.ask({"do": "die"})["refused"]
    assert "status 3" in refused and "illegal access" in refused
    assert one.ask({"do": "break"}, 20)["did"] == "break" and one.process is None  # its CUDA context is lost
    one.close()
    assert one.ask({"do": "work"})["refused"] == "stopped" and one.process is None


def test_workers_are_closed_when_one_fails():
    workers = [process.Worker("a"), process.Worker("b")]

    def work(worker):
        if worker.name == "b":
            raise ValueError("b")

    with pytest.raises(ValueError, match="b"):
        process.together(workers, work)
    assert all(worker.closed for worker in workers)


def test_a_worker_says_what_failed():
    worker = process.Worker("one")
    missing = worker.ask({"do": "worker_gpu.prepare", "case": "dice-64-fp32", "key": "nnunet", "dry": True})
    assert "softmax Dice" in missing.get("missing", "") or "nnunetv2" in missing["refused"]
    assert "KeyError" in worker.ask({"do": "worker_gpu.prepare", "case": "x", "key": "cuda", "dry": True})["refused"]
    found = worker.ask({"do": "worker_gpu.prepare", "case": "dice-64-fp32", "key": "triton", "dry": True})
    assert found["first_seconds"] > 0
    worker.close()

"""Several processes: the training that one would do, rows of top-k and the papers' own networks included."""

import os
import socket

import pytest
import torch
from paper_runs import cache, in_child, run  # noqa: F401
from timm.layers import DropPath

from fastloss.train import models, parallel
from fastloss.train.checkpoint import read_log
from fastloss.train.report import results

pytestmark = pytest.mark.usefixtures("cache")
EXACT = ["--precision", "64-true"]  # in float32 Adam makes rounding errors of the first steps large
SMP = ["paper2", "--rows", "dice+topk", "--model", models.PAPER, *EXACT]
LEVIT = [
    "paper1",
    "--dataset",
    "uwmgi",
    "--rows",
    "modified",
    "--size",
    "224",
    "--set",
    "size=224",
    "--rate",
    "0.001",
    *EXACT,
]
LEVIT += ["--model", "levit-unet-128s"]


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        (["paper2", "--rows", "iou+bce,topk", "--folds", "2", "--channels-last"], 1e-4),
        ([*SMP, "--train-limit", "8"], 1e-6),
        pytest.param([*LEVIT, "--train-limit", "8", "--valid-limit", "4"], 1e-6, marks=pytest.mark.slow),
    ],
)
def test_two_processes_are_one_on_the_concatenated_batch(words, tolerance, tmp_path, capfd):
    assert run(*words, "--out", str(tmp_path / "one")) == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = []
    for rank in range(2):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
        ranks.append(in_child(lambda: run(*words, "--out", str(tmp_path / "two")), place))
    assert [os.waitpid(rank, 0)[1] for rank in ranks] == [0, 0]
    one, two = (results.read(tmp_path / name) for name in ("one", "two"))
    assert two.machine["processes"] == 2
    assert set(one.finished) == set(two.finished)
    for name in one.finished:
        for log, column in (("steps.csv", "loss"), ("epochs.csv", "valid_loss"), ("epochs.csv", "dice")):
            paths = [tmp_path / side / "runs" / name / log for side in ("one", "two")]
            expected, found = (read_log(path)[column] for path in paths)
            assert found == pytest.approx(expected, rel=tolerance), (name, column)
        assert len(set(expected)) > 1 or column == "dice"  # something was learned


@pytest.mark.parametrize("name", [name for name in models.NAMES if name != "levit-unet-192"])
def test_every_parameter_that_is_trained_gets_a_gradient(name):
    """DDP waits for those that get none, and stops."""
    side = 224 if name.startswith("levit") else 32
    torch.manual_seed(0)
    net = models.build_model(name, 2)
    net(torch.randn(2, 1, side, side)).square().mean().backward()
    lacking = {path: p.requires_grad for path, p in net.named_parameters() if p.grad is None}
    assert not any(lacking.values())
    frozen = sum([p.numel() for p in net.parameters() if not p.requires_grad])
    assert frozen == (412_160 if name == models.PAPER else 0)


@pytest.mark.parametrize("drop", [DropPath(0.5), lambda x: smp_drop(x)])
def test_paths_are_dropped_as_one_process_drops_them(drop):
    x = torch.ones(8, 3, 2, 2)
    torch.manual_seed(3)
    whole = drop(x)
    for rank in range(2):
        torch.manual_seed(3)
        with parallel.SharedDraws(rank, 2, 4):
            assert torch.equal(drop(x[:4]), whole[rank::2])
    assert 0 < whole.mean() < 2


def smp_drop(x):
    from segmentation_models_pytorch.encoders._efficientnet import drop_connect

    return drop_connect(x, 0.5, True)

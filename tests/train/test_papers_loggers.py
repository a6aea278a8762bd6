"""`reproduce --logger`: the journal's numbers in other places, steps that continue, and no other bit of training."""

import csv
import json
import os
import struct

import pytest
from paper_runs import STEPS, cache, killed_after, run  # noqa: F401

from fastloss.cli import main
from fastloss.train import loggers
from fastloss.train.checkpoint import read_log

ROW = ("paper2", "--rows", "iou-to-dice", "--epochs", "4")
ALTERED, FIRST = "split/iou-to-dice-4-seed0", "split/iou-2-seed0"
CELLS = ("dice", "iou", "case_dice")

pytestmark = pytest.mark.usefixtures("cache")


def rows(out, name):
    with (out / "csv" / name / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def the_same_as_the_journal(out, name, first):
    """Every step from `first` on is there once, with the loss and rate of steps.csv; every epoch with its scores."""
    steps, epochs = (read_log(out / "runs" / name / file) for file in ("steps.csv", "epochs.csv"))
    found = rows(out, name)
    trained = [row for row in found if row["train/loss"]]
    wanted = [at for at, step in enumerate(steps["step"]) if step > first]
    assert [int(row["step"]) for row in trained] == [steps["step"][at] for at in wanted] != []
    for ours, theirs in (("train/loss", "loss"), ("rate", "rate"), ("epoch", "epoch")):
        assert [float(row[ours]) for row in trained] == [steps[theirs][at] for at in wanted]
    scored = [row for row in found if row["valid/dice"]]
    assert [int(row["step"]) for row in scored] == [STEPS * (int(row["epoch"]) + 1) for row in scored]
    for cell in CELLS:
        assert [float(row[f"valid/{cell}"]) for row in scored] == epochs[cell][-len(scored) :]
    return trained, scored


@pytest.fixture(scope="module")
def bare(cache, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("bare") / "run"
    assert run(*ROW, "--out", str(out)) == 0
    return out


def weights(out):
    return [json.loads(path.read_text())["weights"] for path in sorted(out.rglob("result.json"))]


def test_csv_has_losses_terms_rate_and_scores_and_changes_no_bit(bare, tmp_path, capfd):
    assert run(*ROW, "--logger", "csv", "--out", str(tmp_path / "run")) == 0
    assert weights(tmp_path / "run") == weights(bare)
    trained, scored = the_same_as_the_journal(tmp_path / "run", ALTERED, first=2 * STEPS)  # the rest is of its parent
    # one term whose weight is 1: its value is the loss
    assert [float(row["train/dice"]) for row in trained if row["train/dice"]] == pytest.approx(
        [float(row["train/loss"]) for row in trained if row["train/dice"]]
    )
    assert [bool(row["train/dice"]) for row in trained] == [True, False, False] * 2
    assert [(row["loss_weight_0"], row["loss_weight_1"]) for row in scored] == [("0.0", "1.0")] * 2
    assert "train/jaccard" in rows(tmp_path / "run", FIRST)[0]
    assert not (bare / "csv").exists()


def test_a_resumed_run_goes_on_where_its_checkpoint_was(bare, tmp_path, capfd):
    """Killed after steps that no checkpoint knows; --logger is remembered."""
    out = tmp_path / "run"
    killed_after(STEPS + 2, *ROW, "--logger", "csv", "--out", str(out))
    with (out / "csv" / FIRST / "metrics.csv").open("a", newline="") as file:
        columns = rows(out, FIRST)[0].keys()
        csv.DictWriter(file, columns).writerow({"step": 99, "train/loss": 7.0})
    assert run(*ROW, "--resume", "--out", str(out)) == 0
    the_same_as_the_journal(out, FIRST, first=0)
    the_same_as_the_journal(out, ALTERED, first=2 * STEPS)
    assert weights(out) == weights(bare)


def events(folder):
    """(step, name, value) of each scalar, and the steps from which on earlier files do not count."""
    from tensorboardX.proto.event_pb2 import Event

    found, purged = [], []
    for path in sorted(folder.glob("events.*"), key=os.path.getmtime):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            purged += [event.step] * (event.session_log.status == 1)
            at += length + 16
    return found, purged


def test_tensorboard(tmp_path, capfd):
    pytest.importorskip("tensorboardX")
    out = tmp_path / "run"
    assert run(*ROW, "--logger", "tensorboard", "--logger", "csv", "--out", str(out)) == 0
    found, purged = events(out / "tensorboard" / ALTERED)
    losses = {step: value for step, name, value in found if name == "train/loss"}
    trained = [row for row in rows(out, ALTERED) if row["train/loss"]]
    assert losses == {int(row["step"]): pytest.approx(float(row["train/loss"])) for row in trained}
    assert {"rate", "valid/dice", "train/dice", "loss_weight_1"} <= {name for _, name, _ in found}
    assert purged == [2 * STEPS + 1]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_services_that_are_installed_get_it(name, tmp_path, monkeypatch, capfd):
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "run"
    assert run(*ROW, "--logger", name, "--out", str(out)) == 0
    known = json.loads((out / "runs" / ALTERED / "loggers.json").read_text())[name]
    if name == "wandb":
        assert list((out / "wandb").glob(f"offline-run-*{known}"))
    else:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
        history = client.get_metric_history(known, "train/loss")
        assert [point.step for point in history] == list(range(2 * STEPS + 1, 4 * STEPS + 1))


@pytest.mark.parametrize(
    "name,installed,told",
    [
        ("tensorboard", [], "--logger tensorboard needs tensorboard; run `pip install tensorboard`"),
        ("wandb", ["lightning"], "--logger wandb needs wandb; run `pip install wandb`"),
        ("wandb", [], "--logger wandb needs wandb and pytorch-lightning; run `pip install wandb pytorch-lightning`"),
        ("mlflow", ["mlflow"], "--logger mlflow needs pytorch-lightning; run `pip install pytorch-lightning`"),
    ],
)
def test_what_is_not_installed_is_named_before_anything_begins(name, installed, told, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(loggers, "find_spec", lambda module: module in installed or None)
    assert main(["reproduce", "paper2", "--preset", "smoke", "--logger", name, "--out", str(tmp_path / "run")]) == 2
    assert capfd.readouterr().err == f"fastloss reproduce: {told}\n"
    assert not (tmp_path / "run").exists()

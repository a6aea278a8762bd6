"""What the trainer stands on: files that are whole, scores, progress."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("scipy")

from fastloss.cli import CommandError
from fastloss.train import checkpoint, metrics, progress


def test_writing_leaves_the_old_file_if_it_fails(tmp_path):
    path = tmp_path / "file"
    checkpoint.write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(CommandError, match="file could not be written: disk full"):
        checkpoint.write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_log_forgets_what_its_checkpoint_does_not_know(tmp_path):
    log = checkpoint.Log(tmp_path / "log.csv", ("a", "b"))
    log.add(1, 0.1)
    position = log.position()
    log.add(2, 0.2)
    log.close()
    log = checkpoint.Log(tmp_path / "log.csv", ("a", "b"), position)
    log.add(3, 1 / 3)
    log.close()
    assert checkpoint.read_log(tmp_path / "log.csv") == {"a": [1, 3], "b": [0.1, 1 / 3]}
    with pytest.raises(CommandError, match="shorter than its checkpoint"):
        checkpoint.Log(tmp_path / "log.csv", ("a", "b"), 10_000)


def test_scores_leave_empty_truths_out_but_pool_their_false_positives():
    counts = torch.tensor([[[3, 1, 1, 5]], [[0, 2, 0, 8]]])
    found = metrics.scores(counts)
    assert found.dice == pytest.approx(6 / 8)
    assert found.iou == pytest.approx(3 / 5)
    assert found.pooled_dice == pytest.approx(6 / 10)


def test_thresholds_find_a_band_of_intensities():
    images = torch.linspace(0, 1, 400).reshape(1, 1, 20, 20)
    masks = ((images >= 0.4) & (images < 0.7)).to(torch.uint8)
    found = metrics.fit_thresholds(images, masks)
    assert found.scores(images, masks).dice > 0.97


def test_the_first_step_does_not_spoil_the_time_left(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    run = SimpleNamespace(method="IoU", seed=0, epochs=1)
    view = progress.Lines(total=80)
    for seconds in (50.0, 2.0, 2.0):  # the first one loads libraries
        now += seconds
        view.step(run, 0, 0.5, 8)
    view.epoch(run, 0, metrics.Scores(0.5, 0.4, 0.5, 0.4))
    assert "4 images/s, 0:14 left" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match=r"the folder .*/file/run could not be made: Not a directory"):
        checkpoint.make_folder(tmp_path / "file" / "run")

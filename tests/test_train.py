"""The trainer: data as a pure function of its key, runs that continue with the same bits, files that are whole."""

import os
import signal
import subprocess
import sys

import pytest
import torch

pytest.importorskip("nibabel")
pytest.importorskip("nilearn")
pytest.importorskip("monai")
pytest.importorskip("segmentation_models_pytorch")

from fastloss.cli import CommandError
from fastloss.train import checkpoint, data, demo, loop, metrics, side_by_side
from fastloss.train.progress import Lines

RUN = loop.Run("IoU → BCE", seed=3, epochs=2, size=32, batch=4)


def phantom(count: int = 10, size: int = 32) -> data.Slices:
    """Bright discs on grey, the bright ones on the left are the target."""
    rng = torch.Generator().manual_seed(5)
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centres = torch.rand(count, 2, generator=rng) * size / 2 + size / 4
    discs = (row - centres[:, :1, None]) ** 2 + (column - centres[:, 1:, None]) ** 2 < (size / 6) ** 2
    masks = (discs & (column < size / 2)).to(torch.uint8)[:, None]
    return data.Slices(0.3 + 0.5 * discs.float()[:, None], masks, torch.arange(count))


def trained(folder, run: loop.Run = RUN) -> dict:
    view = Lines(total=20)
    loop.train(run, demo.methods(run.epochs)[run.method], phantom(), phantom(4), folder, view)
    return checkpoint.read_json(folder / "result.json")


def bits(folder) -> tuple:
    """What must not depend on interruptions: all but the times."""
    steps = checkpoint.read_log(folder / "steps.csv")
    kept = {name: steps[name] for name in ("step", "epoch", "loss", "value_gap", "gradient_gap", "images")}
    return kept, (folder / "epochs.csv").read_bytes(), checkpoint.read_json(folder / "result.json")


@pytest.fixture(scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def uninterrupted(one_thread, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    trained(folder)
    return folder


KILLED = """
import sys, torch
sys.path.insert(0, sys.argv[2])
import test_train as t
from pathlib import Path
torch.set_num_threads(1)
t.loop.SAVE_SECONDS = -1.0  # a checkpoint after every step
class View(t.Lines):
    def step(self, *args):
        super().step(*args)
        print("step", flush=True)
        if self.here >= int(sys.argv[3]):
            sys.stdin.read()  # until killed: the row of this step is in the log, its checkpoint is not
t.Lines = View
t.trained(Path(sys.argv[1]))
"""


def test_a_killed_run_continues_with_the_same_bits(uninterrupted, tmp_path):
    # 10 slices in batches of 4 are 3 steps an epoch: killed in the second step of the second epoch, after the switch.
    command = [sys.executable, "-c", KILLED, tmp_path, os.path.dirname(__file__), "18"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        steps = 0
        while steps < 5:
            line = child.stdout.readline()
            assert line, "the run ended before it was killed"
            steps += line == b"step\n"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert 0 < loop.steps_done(tmp_path) < 6
    assert not (tmp_path / "result.json").exists()
    trained(tmp_path)
    assert bits(tmp_path) == bits(uninterrupted)


def test_an_exception_between_two_steps_changes_no_bit(uninterrupted, tmp_path, monkeypatch):
    class Stops(Lines):
        def step(self, *args):
            super().step(*args)
            if self.here > 7:
                raise KeyboardInterrupt

    schedule = demo.methods(RUN.epochs)[RUN.method]
    with pytest.raises(KeyboardInterrupt):
        loop.train(RUN, schedule, phantom(), phantom(4), tmp_path, Stops(total=20))
    trained(tmp_path)
    assert bits(tmp_path) == bits(uninterrupted)


def test_the_loss_is_altered_once_and_smp_agrees_on_every_step(uninterrupted):
    assert checkpoint.read_log(uninterrupted / "epochs.csv")["altered"] == [0, 1]
    steps = checkpoint.read_log(uninterrupted / "steps.csv")
    assert len(steps["step"]) == 6
    assert max(steps["value_gap"]) < 1e-5
    assert max(steps["gradient_gap"]) < 1e-4
    assert all([0 < loss < step for loss, step in zip(steps["loss_s"], steps["step_s"])])


def test_other_seeds_and_epochs_give_other_data(one_thread):
    slices = phantom()
    first = next(slices.batches(0, 0, 4))
    assert torch.equal(first[0], next(slices.batches(0, 0, 4))[0])
    for seed, epoch in ((1, 0), (0, 1)):
        assert not torch.equal(first[0], next(slices.batches(seed, epoch, 4))[0])
    second = list(slices.batches(0, 0, 4))[1]
    assert torch.equal(second[0], next(slices.batches(0, 0, 4, skip=1))[0])


@pytest.mark.parametrize("count", [30, 147, 189])
def test_slabs_have_a_gap(count):
    train, valid = data.split(count)
    assert train and valid
    assert min(abs(a - b) for a in train for b in valid) > data.GAP
    assert max(*train, *valid) < count


def test_the_brain_is_read(one_thread):
    train, valid = data.load(64)
    assert train.images.shape == train.masks.shape == (80, 1, 64, 64)
    assert len(valid) == 30
    assert 0.02 < train.masks.float().mean() < 0.08
    assert torch.equal(valid.images, data.load(64)[1].images)
    # Deep grey matter is neither empty space nor most of what is bright.
    clean = train.images[train.masks.bool()]
    assert 0.4 < clean.median() < 0.8


def test_a_damaged_volume_is_named(tmp_path):
    with pytest.raises(CommandError, match=r"t1_tal_nlin_sym_09a_converted\.nii\.gz cannot be read"):
        data.load(64, tmp_path)
    (tmp_path / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz").write_bytes(b"no brain")
    with pytest.raises(CommandError, match="cannot be read"):
        data.load(64, tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(CommandError, match=r"checkpoint\.pt is damaged"):
        trained(tmp_path)


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


def test_every_region_loss_has_its_twin_in_smp():
    import fastloss

    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y = (torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.3).float()
    whole = fastloss.TverskyLoss("binary", alpha=0.3, beta=0.7) + 0.5 * fastloss.DiceLoss("binary")
    whole = whole + fastloss.FocalLoss("binary", gamma=2.0) + fastloss.IoULoss("binary")
    pair = side_by_side.compare(whole, side_by_side.of_smp(whole), x, y, smp_first=False, judged=True)
    assert pair.value_gap < 1e-6
    assert pair.gradient_gap < 1e-5
    assert pair.error < 1e-6
    with pytest.raises(ValueError, match="topk"):
        side_by_side.of_smp(fastloss.TopKLoss("binary"))

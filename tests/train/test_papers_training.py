"""The papers' trainer: the same bits after kill -9, shared first stages, several processes, settings at a switch."""

import csv
import json
import os

import pytest
import torch
from paper_runs import STEPS, cache, in_child, killed_after, run  # noqa: F401

from fastloss import BCEWithLogitsLoss, IoULoss, LossSchedule
from fastloss.cli import main
from fastloss.train import learner, progress, runs, session, training
from fastloss.train.checkpoint import read_json, read_log
from fastloss.train.report import results

ROW = ("paper2", "--rows", "iou-to-bce", "--epochs", "4", "--folds", "2", "--keep-weights")
ALTERED, FIRST = "iou-to-bce-4-seed0", "iou-2-seed0"

pytestmark = pytest.mark.usefixtures("cache")


def bits(folder):
    """All that a reproduction leaves, without times."""
    found = {}
    for path in sorted((folder / "runs").rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "epochs.csv":
            rows = list(csv.DictReader(path.open()))
            found[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        elif path.name == "result.json":
            result = json.loads(path.read_text())
            found[name] = [result["weights"], {k: v for k, v in result["best"].items() if k != "seconds"}]
        elif path.suffix in (".csv", ".npz"):
            found[name] = path.read_bytes()
        elif path.is_file():
            found[name] = None
    return found


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("whole") / "run"
    torch.set_num_threads(1)
    assert run(*ROW, "--out", str(out)) == 0
    return out


@pytest.mark.parametrize("workers", ["0", "2"])
def test_killed_twice_it_continues_with_the_same_bits(whole, tmp_path, workers, capfd):
    words = [*ROW, "--out", str(tmp_path / "run"), "--workers", workers]
    killed_after(STEPS + 2, *words)  # in the second epoch
    assert (tmp_path / "run" / "runs" / "split" / FIRST / "checkpoint.pt").exists()
    killed_after(STEPS * 2, *words, "--resume")  # after the switch, in another run
    assert not (tmp_path / "run" / "runs" / "split" / ALTERED / "result.json").exists()
    assert run(*words, "--resume") == 0
    assert bits(tmp_path / "run") == bits(whole)
    assert not list(tmp_path.rglob("*.part"))


def test_a_shared_first_stage_is_the_same_as_training_it_again(whole, tmp_path, capfd):
    out = tmp_path / "run"
    assert run(*ROW, "--out", str(out)) == 0
    shared = bits(out)
    folder = out / "runs" / "split" / ALTERED
    for path in [*folder.iterdir(), out / "runs" / "split" / FIRST / "checkpoint.pt"]:
        path.unlink()
    assert run(*ROW, "--out", str(out), "--resume") == 0
    assert len(read_log(folder / "steps.csv")["step"]) == 4 * STEPS
    again = bits(out)
    assert {name: value for name, value in again.items() if ALTERED in name} == {
        name: value for name, value in shared.items() if ALTERED in name
    }


def test_the_logs_show_the_switch(whole):
    found = results.read(whole)
    log = found.log(found.find("table3", "iou-to-bce"))
    assert log["altered"] == [0, 0, 1, 0]
    assert log["images"] == [4 * STEPS] * 4
    steps = found.log(found.find("table3", "iou-to-bce"), "steps.csv")
    for epoch in range(4):
        mine = [loss for loss, at in zip(steps["loss"], steps["epoch"]) if at == epoch]
        assert log["train_loss"][epoch] == pytest.approx(sum(mine) / STEPS, abs=1e-12)
    result = found.finished[f"split/{ALTERED}"]
    assert result["switch"] == 2
    assert result["best"]["dice"] == max(log["dice"][2:])
    assert result["best_epoch"] == 2 + log["dice"][2:].index(max(log["dice"][2:]))
    assert [path.name for path in (whole / "runs" / "split" / ALTERED).glob("best-*")] == [
        f"best-{result['best_epoch']:04d}.pt"
    ]
    config = read_json(whole / "runs" / "split" / ALTERED / "config.json")
    assert config["run"]["parent"] == f"split/{FIRST}"
    assert config["settings"]["size"] == 32


def test_the_best_epoch_of_all_is_a_setting(tmp_path, capfd):
    """With a rate of 0 every epoch scores the same, and the first of equals is the best."""
    words = ["paper2", "--rows", "iou-to-dice", "--rate", "0"]
    for best_of, epoch in (("all", 0), ("switch", 1)):
        assert run(*words, "--best-of", best_of, "--out", str(tmp_path / best_of)) == 0
        found = results.read(tmp_path / best_of)
        row = found.find("figure2", "iou-to-dice")
        assert found.finished["split/iou-to-dice-2-seed0"]["best_epoch"] == epoch
        assert found.predates(row) == (best_of == "all")


@pytest.mark.parametrize(
    "words",
    [
        ["paper1", "--dataset", "synapse", "--rows", "modified", "--deterministic"],
        ["paper1", "--dataset", "acdc", "--rows", "modified", "--activation", "sigmoid"],
        ["paper1", "--dataset", "uwmgi", "--rows", "baseline", "--split", "kfold:5"],
        ["paper2", "--rows", "iou-to-bce-plateau", "--precision", "bf16-mixed", "--double-sigmoid"],
    ],
)
def test_other_labels_and_arithmetic_train_too(words, tmp_path, capfd):
    assert run(*words, "--out", str(tmp_path / "run")) == 0
    torch.use_deterministic_algorithms(True, warn_only=True)
    found = results.read(tmp_path / "run")
    (row,) = [row for row in found.rows if row.name in words]
    losses = found.log(row, "steps.csv")["loss"]
    assert len(losses) == 2 * STEPS and all([0 < loss < 10 for loss in losses])
    assert losses[-1] != losses[0]
    assert 0 <= found.scores(row, "dice")[0] <= 1
    assert found.example(row).exists()


def settings_for(**changes):
    from dataclasses import replace

    from fastloss.train.settings import Settings

    found = Settings("paper2", "smoke", "msd-colon", model="monai-unet", size=32, batch=4)
    return replace(found, **changes)


@pytest.mark.parametrize("reset", [True, False])
def test_a_switch_forgets_what_the_settings_say(reset):
    chosen = settings_for(reset_optimizer=reset, reset_rate=reset, rate=0.01)
    found = learner.Learner(chosen, 1, 0, 10, learner.launch(chosen, "cpu"))
    found.model(torch.randn(2, 1, 32, 32)).square().mean().backward()
    found.optimizer.step()
    found.rate = 0.001
    found.plateau.num_bad_epochs = 3
    schedule = LossSchedule([(0, IoULoss("binary")), (5, BCEWithLogitsLoss())])
    val_criterion = LossSchedule([(0, IoULoss("binary")), (5, BCEWithLogitsLoss())])
    assert not training._alter(schedule, val_criterion, 4, None, found)
    assert found.rate == 0.001 and found.adam.state
    assert training._alter(schedule, val_criterion, 5, None, found)
    assert val_criterion.active is val_criterion.losses[1]
    assert found.rate == (0.01 if reset else 0.001)
    assert bool(found.adam.state) != reset
    assert found.plateau.num_bad_epochs == (0 if reset else 3)


def test_a_blend_is_no_switch():
    chosen = settings_for(reset_rate=True)
    found = learner.Learner(chosen, 1, 0, 10, learner.launch(chosen, "cpu"))
    found.rate = 0.5
    pair = [LossSchedule.linear(IoULoss("binary"), BCEWithLogitsLoss(), 0, 10) for _ in range(2)]
    assert not training._alter(*pair, 5, None, found)
    assert found.rate == 0.5


def test_the_rate_falls_on_a_plateau_of_dice_and_along_a_cosine():
    chosen = settings_for(plateau_patience=1, plateau_factor=0.5, rate=0.2)
    found = learner.Learner(chosen, 1, 0, 10, learner.launch(chosen, "cpu"))
    for score in (0.5, 0.6, 0.6, 0.55):
        found.end_epoch(score)
    assert found.rate == pytest.approx(0.1)
    chosen = settings_for(rate_schedule="cosine", rate=0.2)
    found = learner.Learner(chosen, 1, 0, 10, learner.launch(chosen, "cpu"))
    found.begin(5)
    assert found.rate == pytest.approx(0.1)
    assert all([each.parent is None for each in runs.make_runs(chosen, runs.select_rows(chosen, ["table3"]), 1)])


def test_resuming_elsewhere_is_noted_and_adds_seeds(tmp_path, capfd):
    """Another number of threads, another torch: the finished trainings stay, new ones are added."""
    words = ["paper2", "--rows", "figure2", "--out", str(tmp_path / "run")]
    assert run(*words) == 0
    path = tmp_path / "run" / "reproduction.json"
    stored = json.loads(path.read_text())
    stored["machine"]["torch"] = "2.11.0"
    path.write_text(json.dumps(stored))
    before = bits(tmp_path / "run")
    for _ in range(2):
        assert run(*words, "--resume", "--seeds", "2", "--threads", "2") == 0
        said = capfd.readouterr().out
        assert (
            f"note: torch was 2.11.0 and is {torch.__version__} now; threads was 1 and is 2 now: bits may differ"
            in said
        )
    found = results.read(tmp_path / "run")
    assert found.machine["threads"] == 1 and [machine["threads"] for machine in found.machines] == [2]
    assert found.seeds == 2
    now = bits(tmp_path / "run")
    assert {name: now[name] for name in before} == before
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "Continued on 1 other machine(s)" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")


def test_resuming_with_changed_settings_names_what_changed(whole, capfd):
    before = (whole / "reproduction.json").read_bytes()
    assert run(*ROW, "--out", str(whole), "--resume", "--rate", "0.5") == 2
    assert "settings rate was 0.003" in capfd.readouterr().err
    assert run(*ROW, "--out", str(whole), "--resume", "--patients", "6") == 2
    assert "--resume: data " in capfd.readouterr().err
    assert (whole / "reproduction.json").read_bytes() == before


def test_the_folder_says_what_it_was_begun_with(whole, tmp_path, capfd):
    """Settings, rows, folds and data: resuming needs the folder alone."""
    out = tmp_path / "run"
    killed_after(STEPS + 2, *ROW, "--out", str(out))
    assert main(["reproduce", "--resume", "--out", str(out), "--device", "cpu", "--threads", "1"]) == 0
    assert bits(out) == bits(whole)
    for words in (["paper1"], ["--preset", "short"], ["--dataset", "demo"]):
        assert main(["reproduce", *words, "--resume", "--out", str(out), "--device", "cpu"]) == 2
        assert f" was {'paper2' if words == ['paper1'] else 'smoke' if 'short' in words else 'msd-colon'} in" in (
            capfd.readouterr().err
        )


def test_every_step_shows_a_loss(tmp_path, monkeypatch, capfd):
    seen = []

    class View(progress.Lines):
        def step(self, run, epoch, loss, images):
            seen.append(loss)
            super().step(run, epoch, loss, images)

    monkeypatch.setattr(session, "watch", View)
    assert run("paper2", "--rows", "bce", "--out", str(tmp_path / "run")) == 0
    assert len(seen) > 2 * STEPS and all([loss == loss for loss in seen])


def test_a_damaged_checkpoint_is_named(whole, tmp_path, capfd):
    killed_after(4, *ROW, "--out", str(tmp_path / "run"))
    path = tmp_path / "run" / "runs" / "split" / FIRST / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    assert run(*ROW, "--out", str(tmp_path / "run"), "--resume") == 2
    assert "checkpoint.pt is damaged" in capfd.readouterr().err


def test_a_full_disk_is_one_sentence_and_the_run_continues(whole, tmp_path, capfd):
    """The limit of a file's size stands in for the disk's."""
    import resource

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        return run(*ROW, "--out", str(tmp_path / "run"))

    child = in_child(work)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    printed = capfd.readouterr().err
    assert ".pt could not be written: " in printed and printed.count("\n") == 1
    assert not list(tmp_path.rglob("*.part"))
    assert run(*ROW, "--out", str(tmp_path / "run"), "--resume") == 0
    assert bits(tmp_path / "run") == bits(whole)


def test_labels_without_any_foreground_are_refused(tmp_path, capfd, monkeypatch):
    nibabel = pytest.importorskip("nibabel")
    from phantoms import phantom

    root = phantom("msd-colon", tmp_path / "data", patients=5)
    monkeypatch.setenv("FASTLOSS_CACHE", str(tmp_path / "cache"))
    words = ["paper2", "--data", str(root), "--rows", "bce", "--out", str(tmp_path / "run")]
    paths = sorted((root / "labelsTr").iterdir())
    for path in paths[-1:]:  # the validation part of index:80/20
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(0 * image.get_fdata(), image.affine), path)
    assert run(*words) == 2
    assert "validation slices of" in (printed := capfd.readouterr().err) and "have no foreground" in printed
    for path in paths[:-1]:
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(0 * image.get_fdata(), image.affine), path)
    assert run(*words) == 2
    assert f"the labels of all 5 volumes are background alone, from {paths[0]} on" in capfd.readouterr().err
    assert len(list((tmp_path / "cache" / "stores").glob("msd-colon*"))) == 1  # of the first attempt
    assert main(["data", "check", str(root), "--jobs", "1"]) == 2
    assert "background alone" in capfd.readouterr().out
    assert not (tmp_path / "run").exists()

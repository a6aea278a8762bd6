"""`fastloss demo` from the command line: pictures and tables, resuming, and bad arguments in one sentence."""

import json
import math

import pytest
import torch

pytest.importorskip("nibabel")
pytest.importorskip("nilearn")
pytest.importorskip("monai")
pytest.importorskip("matplotlib")
pytest.importorskip("segmentation_models_pytorch")

from fastloss.cli import main
from fastloss.train import loop

TINY = ["--quick", "--size", "32", "--epochs", "2", "--seeds", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and the output of a tiny demo, interrupted in its second training and continued."""
    out = tmp_path_factory.mktemp("demo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        real = loop.Log.add

        def stop(log, *cells):
            if log.path.parent.name == "bce-seed0" and log.path.name == "steps.csv" and cells[0] == 13:
                raise KeyboardInterrupt
            real(log, *cells)

        patch.setattr(loop.Log, "add", stop)
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # more would wait for each other on a busy machine
        try:
            assert main(["demo", *TINY, "--out", str(out)]) == 130
        finally:
            torch.set_num_threads(before)
    return out


def test_an_interrupted_demo_is_continued(finished, capfd):
    assert (finished / "runs" / "iou-seed0" / "result.json").exists()
    assert not (finished / "runs" / "bce-seed0" / "result.json").exists()
    assert main(["demo", "--resume", "--out", str(finished)]) == 0
    printed = capfd.readouterr()
    # torch's profiler may trace itself there
    assert [line for line in printed.err.splitlines() if not line.startswith("USDT:")] == []
    for name in ("curves.png", "masks.png"):
        assert (finished / name).read_bytes().startswith(b"\x89PNG")
        assert str(finished / name) in printed.out
    for words in ("ONE averaged brain", "no evidence for or against the paper", "intensity thresholds", "IoU → BCE"):
        assert words in printed.out
    report = (finished / "report.md").read_text(encoding="utf-8")
    assert "images/s" in report and "kept by smp" in report
    rows = json.loads((finished / "losses3d.json").read_text())["rows"]
    assert {row["library"] for row in rows} == {"fastloss", "smp", "monai"}
    assert all([math.isfinite(row["seconds"]) for row in rows])
    assert max(row["gradient_gap"] for row in rows if "gradient_gap" in row) < 1e-4
    methods = sorted(path.name for path in (finished / "runs").iterdir())
    assert methods == ["bce-seed0", "iou-plus-bce-seed0", "iou-seed0", "iou-then-bce-seed0"]
    assert not list(finished.rglob("*.part"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--epochs", "1"], "--epochs must be between 2 and 10000, got 1"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--size", "20"], "--size must be between 32 and 192, got 20"),
        (["--size", "100"], "--size must be a multiple of 8 for monai-unet, got 100"),
        (["--size", "72", "--paper-model"], "--size must be a multiple of 32"),
        (["--seeds", "0"], "--seeds must be between 1 and 100, got 0"),
        (["--resume"], "no demo was started in"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_bad_arguments(words, sentence, tmp_path, capfd):
    out = tmp_path / "new"
    try:
        status = main(["demo", *words, "--out", str(out)])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    printed = capfd.readouterr().err
    assert sentence in printed
    assert len(printed.strip().splitlines()) == 1
    assert not out.exists()


def test_a_folder_that_is_not_a_demos_is_left_alone(tmp_path, capfd):
    (tmp_path / "thesis.tex").write_text("mine")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "--out must name a new or empty folder" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("change", [["--epochs", "3"], ["--size", "64"], ["--seeds", "2"], ["--paper-model"]])
def test_resume_with_changed_settings(finished, change, capfd):
    before = (finished / "config.json").read_bytes()
    assert main(["demo", "--resume", "--out", str(finished), *change]) == 2
    printed = capfd.readouterr().err
    assert "--resume: " in printed and " was " in printed and " now" in printed
    assert len(printed.strip().splitlines()) == 1
    assert (finished / "config.json").read_bytes() == before


def test_resume_on_another_torch(finished, monkeypatch, capfd):
    monkeypatch.setattr(torch, "__version__", "1.13.0")
    assert main(["demo", "--resume", "--out", str(finished)]) == 2
    assert "torch was" in capfd.readouterr().err

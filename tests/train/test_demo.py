"""`fastloss demo` from the command line: pictures and tables, resuming, and bad arguments in one sentence."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("lightning_fabric")
pytest.importorskip("nibabel")
pytest.importorskip("nilearn")
pytest.importorskip("monai")
pytest.importorskip("matplotlib")
pytest.importorskip("segmentation_models_pytorch")
pytest.importorskip("markdown_it")

from markdown_it import MarkdownIt
from paper_runs import killed_after

import fastloss
from fastloss.cli import CommandError, main
from fastloss.train import checkpoint, demo, side_by_side
from fastloss.train.checkpoint import read_log
from fastloss.train.journal import EPOCH_COLUMNS

TINY = ["--quick", "--size", "32", "--epochs", "2", "--seeds", "1"]
STEPS = 10  # of an epoch
TIMES = {"loss_s", "smp_s", "step_s"}


def run(*words) -> int:
    return main(["demo", *words])


@pytest.fixture(scope="module")
def one_thread():
    """More would wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_thread):
    """The folder of a tiny demo, interrupted in its second training."""
    out = tmp_path_factory.mktemp("demo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        real = checkpoint.Log.add

        def stop(log, *cells):
            if log.path.parent.name.startswith("bce-") and log.path.name == "steps.csv" and cells[0] == 13:
                raise KeyboardInterrupt
            real(log, *cells)

        patch.setattr(checkpoint.Log, "add", stop)
        assert run(*TINY, "--out", str(out)) == 130
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory, one_thread):
    """That of one that nothing interrupted."""
    out = tmp_path_factory.mktemp("demo") / "run"
    assert run(*TINY, "--out", str(out)) == 0
    return out


def bits(folder):
    """What must not depend on interruptions: all but the times."""
    found = {}
    for path in sorted((folder / "runs").glob("split/*")):
        steps = read_log(path / "steps.csv")
        epochs = read_log(path / "epochs.csv", EPOCH_COLUMNS, 2)
        result = checkpoint.read_json(path / "result.json")
        gaps = {name: [v for v in steps[name] if v == v] for name in steps if name not in TIMES}
        found[path.name] = gaps, epochs | {"seconds": None}, result["weights"]
    return found


def test_an_interrupted_demo_is_continued(finished, whole, capfd):
    runs = finished / "runs" / "split"
    assert (runs / "iou-2-seed0" / "result.json").exists()
    assert not (runs / "bce-2-seed0" / "result.json").exists()
    assert main(["demo", "--resume", "--out", str(finished)]) == 0
    printed = capfd.readouterr()
    # torch's profiler may trace itself there
    assert [line for line in printed.err.splitlines() if not line.startswith("USDT:")] == []
    for name in ("curves.png", "masks.png"):
        assert (finished / name).read_bytes().startswith(b"\x89PNG")
        assert str(finished / name) in printed.out
    for words in ("ONE averaged brain", "no evidence for or against the paper", "intensity thresholds", "IoU → BCE"):
        assert words in " ".join(printed.out.split())
    report = (finished / "report.md").read_text(encoding="utf-8")
    assert "images/s" in report and "kept by smp" in report and "(masks.png)" in report
    assert "data:image/png;base64," in (finished / "report.html").read_text(encoding="utf-8")
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(report)
    assert rendered.count("<table>") == 5 and "<p>|" not in rendered and rendered.count("<img ") == 2
    for words in ("What ran", "What can be concluded", "cannot be said (1 seed, 3 needed)", "<details>"):
        assert words in rendered
    rows = json.loads((finished / "losses3d.json").read_text())["rows"]
    assert {row["library"] for row in rows} == {"fastloss", "smp", "monai"}
    assert all([math.isfinite(row["seconds"]) for row in rows])
    assert max(row["gradient_gap"] for row in rows if "gradient_gap" in row) < 1e-4
    methods = sorted(path.name for path in runs.iterdir())
    assert methods == ["bce-2-seed0", "iou+bce-2-seed0", "iou-2-seed0", "iou-to-bce-2-seed0"]
    assert not list(finished.rglob("*.part"))
    assert bits(finished) == bits(whole)


def test_masks_are_of_the_largest_truth_first():
    labels = [torch.ones(side, side) if side else torch.zeros(3, 3) for side in (0, 2, 5, 1, 9, 3)]
    records = [SimpleNamespace(positive=bool(label.any())) for label in labels]
    store = SimpleNamespace(slices=records, label=labels.__getitem__)
    assert demo._pictured(SimpleNamespace(store=store, valid=(0, 1, 2, 3, 5))) == [2, 5, 1]  # 4 is of the training part
    assert demo._pictured(SimpleNamespace(store=store, valid=(0,))) == [0, 0, 0]


def test_a_killed_demo_continues_with_the_same_bits(whole, tmp_path, capfd):
    out = tmp_path / "run"
    # in the second epoch of the last training, after the switch
    killed_after(7 * STEPS + 3, *TINY, "--out", str(out), command=run, batch=8)
    folder = out / "runs" / "split" / "iou-to-bce-2-seed0"
    assert (folder / "checkpoint.pt").exists() and not (folder / "result.json").exists()
    assert run("--resume", "--out", str(out)) == 0
    assert bits(out) == bits(whole)


def test_the_tables_fit_a_terminal_and_a_report_of_papers_refuses_the_folder(whole, capfd):
    assert run("--resume", "--out", str(whole)) == 0
    printed = capfd.readouterr().out
    methods = printed[printed.index("Scores on the validation slices") :]
    assert max([len(line) for line in methods.splitlines() if line.startswith("|")]) <= 100
    assert "loss nan" not in printed
    assert main(["report", str(whole)]) == 2
    assert "is of `fastloss demo`" in capfd.readouterr().err
    assert main(["reproduce", "--resume", "--out", str(whole)]) == 2
    assert "is of `fastloss demo`" in capfd.readouterr().err


def test_the_loss_is_altered_once_and_smp_agrees_on_every_step(whole):
    folder = whole / "runs" / "split" / "iou-to-bce-2-seed0"
    assert read_log(folder / "epochs.csv")["altered"] == [0, 1]
    steps = read_log(folder / "steps.csv")
    assert len(steps["step"]) == 2 * STEPS
    assert max(steps["value_gap"]) < 1e-5
    assert max(steps["gradient_gap"]) < 1e-4
    assert [step for step, error in zip(steps["step"], steps["error"]) if error == error] == [1, 11]
    assert max([error for error in steps["error"] if error == error]) < 1e-4
    assert all([0 < loss < step for loss, step in zip(steps["loss_s"], steps["step_s"])])


def test_every_region_loss_has_its_twin_in_smp():
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y = (torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.3).to(torch.uint8)
    whole = fastloss.TverskyLoss("binary", alpha=0.3, beta=0.7) + 0.5 * fastloss.DiceLoss("binary")
    whole = whole + fastloss.FocalLoss("binary", gamma=2.0) + fastloss.IoULoss("binary")
    ours, theirs = side_by_side.pair_with_smp(whole, tuple(x.shape))
    assert (ours.key, theirs.key, theirs.role) == ("fastloss", "smp", "peer")
    (value, gradient), (their_value, their_gradient) = (
        side_by_side.split(each.loss, x, each.target(y)) for each in (ours, theirs)
    )
    assert abs(value - their_value) < 1e-6
    assert side_by_side.distance(gradient, their_gradient) < 1e-5
    with pytest.raises(CommandError, match="topk"):
        side_by_side.pair_with_smp(fastloss.TopKLoss("binary"), tuple(x.shape))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--epochs", "1"], "--epochs must be between 2 and 10000, got 1"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--size", "20"], "--size must be between 32 and 192, got 20"),
        (["--size", "100"], "--size must be a multiple of 8 for monai-unet, got 100"),
        (["--size", "72", "--paper-model"], "--size must be a multiple of 32"),
        (["--seeds", "0"], "--seeds must be between 1 and 100, got 0"),
        (["--resume"], "--resume: no demo was started in"),
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
    before = (finished / "reproduction.json").read_bytes()
    assert main(["demo", "--resume", "--out", str(finished), *change]) == 2
    printed = capfd.readouterr().err
    assert "--resume: " in printed and " was " in printed and " now" in printed
    assert len(printed.strip().splitlines()) == 1
    assert (finished / "reproduction.json").read_bytes() == before


def test_resume_on_another_torch(finished, monkeypatch, capfd):
    monkeypatch.setattr(torch, "__version__", "1.13.0")
    assert main(["demo", "--resume", "--out", str(finished)]) == 2
    assert "torch was" in capfd.readouterr().err


def test_a_demo_leaves_a_reproduction_alone(tmp_path, capfd):
    (tmp_path / "reproduction.json").write_text('{"settings": {"paper": "paper2"}}')
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "--out must name a new or empty folder" in capfd.readouterr().err

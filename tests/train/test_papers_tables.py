"""The experiments against what the papers print, the t-tests, the scores against torchmetrics, and bad arguments."""

import argparse
import math
from dataclasses import replace

import pytest
import torch
from paper_runs import cache, run  # noqa: F401

from fastloss import LossSchedule
from fastloss.cli import main
from fastloss.train import experiments, runs
from fastloss.train.datasets.specs import get, trained_by
from fastloss.train.datasets.splits import counts
from fastloss.train.metrics import EMPTY, group_counts, scores
from fastloss.train.report import discrepancies, ttests
from fastloss.train.report.published import PAPER1_TABLE2, PAPER1_TABLE3, PAPER2, PAPER2_TABLE4
from fastloss.train.settings import PRESETS, Settings, add_arguments, defaults, read_options, resolve


def settings(paper="paper2", preset="paper", dataset=None) -> Settings:
    dataset = dataset or trained_by(paper)[0]
    return Settings(paper, preset, dataset, **defaults(paper, preset, dataset))


def test_every_row_of_paper2_is_there():
    rows = experiments.rows(settings())
    for table, printed in PAPER2.items():
        assert {row.name for row in rows if row.table == table} == set(printed)
    assert {row.name for row in rows if row.table == "table4"} == {name for pair in PAPER2_TABLE4 for name in pair}
    assert {row.name for row in rows if row.table == "controls"} == {"focal", "topk", "bce"}
    epochs = {"table1": 50, "table2": 100, "table3": 100, "table4": 100, "controls": 100}
    assert all([row.epochs == epochs[row.table] for row in rows if row.table in epochs])
    assert all([row.folds == (row.table == "table4") for row in rows])
    assert len({(row.table, row.name) for row in rows}) == len(rows)


def test_altered_rows_switch_at_half_time_between_the_losses_of_their_names():
    kinds = {"dice": (0.5, 0.5), "iou": (1.0, 1.0), "tversky": (0.3, 0.7)}
    for row in experiments.rows(settings()):
        if row.table == "table3":
            (start, first), (switch, second) = row.schedule.stages
            before, after = row.name.split("-to-")
            assert (start, switch) == (0, 50)
            (term,) = first.spec.terms
            assert (term.alpha, term.beta) == kinds[before]
            assert [term.kind for term in second.spec.terms] == [after]


def test_the_paper_is_74_trainings_and_4900_epochs():
    found = runs.make_runs(settings(), runs.select_rows(settings(), ["table1", "table2", "table3", "table4"]), seeds=1)
    assert len(found) == 74
    assert sum([each.stage_epochs for each in found]) == 4900
    assert len(runs.make_runs(settings(), runs.select_rows(settings(), None), seeds=2)) == 2 * 78


def test_runs_begin_where_equal_ones_end():
    found = {each.name: each for each in runs.make_runs(settings(), runs.select_rows(settings(), ["all"]), 1)}
    assert found["split/iou-to-bce-100-seed0"].parent == "split/iou-50-seed0"
    assert found["split/bce-100-seed0"].parent == "split/bce-50-seed0"
    assert found["fold3/iou-to-topk-100-seed0"].parent == "fold3/iou-50-seed0"
    assert found["split/iou+bce-100-seed0"].parent is None
    assert found["split/iou-to-bce-linear-100-seed0"].parent is None
    order = list(found)
    for each in found.values():
        if each.parent:
            assert order.index(each.parent) < order.index(each.name)
            assert each.first == found[each.parent].epochs < each.epochs
            mine, theirs = each.make(None).stages, found[each.parent].make(None).stages
            assert [repr(s) for s in mine if s[0] < each.first] == [repr(s) for s in theirs]


def test_switches_reach_the_losses():
    rows = {row.name: row.schedule for row in experiments.rows(replace(settings(), topk=0.006, jaccard_numerator=2))}
    assert float(rows["topk"].active.spec.terms[0].k) == 0.006
    assert rows["iou"].active.spec.terms[0].weight == 2
    assert rows["iou+bce"].active.spec.terms[1].weight == 1


@pytest.mark.parametrize(
    ("dataset", "mode"), [("synapse", "multiclass"), ("acdc", "multiclass"), ("uwmgi", "multilabel")]
)
def test_rows_of_paper1(dataset, mode):
    baseline, modified = experiments.rows(settings("paper1", dataset=dataset))
    assert (baseline.name, modified.name, modified.epochs) == ("baseline", "modified", 30)
    dice, focal = modified.schedule.active.spec.terms
    assert (dice.kind, dice.weight, focal.kind, focal.weight, focal.gamma) == ("tversky", 0.5, "focal", 0.5, 2.0)
    assert modified.schedule.active.mode == mode
    assert set(PAPER1_TABLE2) >= {"best_dice", "best_iou", "train_loss", "valid_loss", "last_dice", "parameters"}
    assert len(PAPER1_TABLE3) == 6


def test_on_several_processes_the_rows_are_the_same_with_a_group():
    alone, together = experiments.rows(settings()), experiments.rows(settings(), True)
    assert [(row.table, row.name) for row in alone] == [(row.table, row.name) for row in together]
    for row in together:
        assert isinstance(row.schedule, LossSchedule)
        for loss in row.schedule.losses:
            kinds = {term.kind for term in loss.spec.terms}
            assert loss.process_group is (True if kinds & {"tversky", "topk"} else None), row.name


def test_t_from_the_papers_rounded_inputs():
    for tests in PAPER2_TABLE4.values():
        for test in tests.values():
            expected = 10.28 if test.t == 10.23 else test.t  # the paper's one slip
            assert ttests.printed(test).t == pytest.approx(expected, abs=0.005)
            assert ttests.printed(test).p < 0.0035


def test_t_of_folds():
    composite, altered = [0.60, 0.66, 0.70, 0.64, 0.68], [0.71, 0.76, 0.79, 0.75, 0.80]
    differences = [b - a for a, b in zip(composite, altered)]
    mean = sum(differences) / 5
    sd = math.sqrt(sum([(d - mean) ** 2 for d in differences]) / 4)
    assert ttests.paired(composite, altered).t == pytest.approx(mean / (sd / math.sqrt(5)))
    assert 0 < ttests.unpaired(composite, altered).t < ttests.paired(composite, altered).t
    assert math.isnan(ttests.paired([0.5], [0.6]).t)


def counts_of(found, truth):
    cells = (found & truth, found & ~truth, ~found & truth, ~found & ~truth)
    return torch.stack([cell.flatten(2).sum(-1) for cell in cells], -1)


@pytest.fixture(scope="module")
def masks():
    rng = torch.Generator().manual_seed(3)
    truth = torch.rand(6, 3, 8, 8, generator=rng) < 0.3
    found = truth ^ (torch.rand(truth.shape, generator=rng) < 0.2)
    truth[1, 0] = truth[4, 1] = found[4, 1] = False
    return found, truth


def test_scores_agree_with_torchmetrics(masks):
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    found, truth = masks
    mine = scores(counts_of(found, truth))
    for name, pooled, function in (("dice", "pooled_dice", metrics.binary_f1_score),
                                   ("iou", "pooled_iou", metrics.binary_jaccard_index)):  # fmt: skip
        by_class = [
            torch.stack([function(found[i, c], truth[i, c]) for i in range(6) if truth[i, c].any()]).mean()
            for c in range(3)
        ]
        assert getattr(mine, name) == pytest.approx(float(torch.stack(by_class).mean()), abs=1e-6)
        whole = torch.stack([function(found[:, c], truth[:, c]) for c in range(3)]).mean()
        assert getattr(mine, pooled) == pytest.approx(float(whole), abs=1e-6)


def test_the_rule_for_empty_truths(masks):
    found, truth = masks
    counts = counts_of(found, truth)[:, :2]
    by_rule = {rule: scores(counts, rule).dice for rule in EMPTY}
    stats = 2 * counts[..., 0] / (2 * counts[..., 0] + counts[..., 1] + counts[..., 2]).clamp_min(1)
    stats[1, 0], stats[4, 1] = 0, 0
    sums = stats.sum(0)
    assert by_rule["skip"] == pytest.approx(float((sums / 5).mean()))
    assert by_rule["zero"] == pytest.approx(float((sums / 6).mean()))
    assert by_rule["one"] == pytest.approx(float(((sums + torch.tensor([0, 1])) / 6).mean()))
    assert by_rule["transunet"] == pytest.approx(float(((sums + torch.tensor([1, 0])) / 6).mean()))
    assert math.isnan(scores(torch.tensor([[[0, 0, 0, 9]]])).dice)


def test_volumes_are_pooled_first(masks):
    counts = counts_of(*masks)
    volumes = group_counts(counts, ["b", "a", "b", "a", "a", "b"])
    assert torch.equal(volumes[0], counts[[0, 2, 5]].sum(0))
    assert torch.equal(volumes[1], counts[[1, 3, 4]].sum(0))
    assert scores(volumes).pooled_dice == scores(counts).pooled_dice


def test_every_preset_resolves_and_every_option_is_checked():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for paper in ("paper1", "paper2"):
        for preset in PRESETS:
            for dataset in trained_by(paper):
                found = resolve(paper, preset, dataset, read_options(parser.parse_args([])))
                assert (found.paper, found.preset, found.dataset) == (paper, preset, dataset)
    full = settings()
    assert (full.epochs, full.size, full.batch, full.rate) == (100, 256, 32, 1e-4)
    levit = settings("paper1")
    assert (levit.epochs, levit.size, levit.batch, levit.valid_batch, levit.rate) == (30, 224, 8, 16, 2e-3)


def test_each_discrepancy_says_what_was_decided():
    for entry in discrepancies.PAPER1 + discrepancies.PAPER2:
        assert all(entry)
    assert len(discrepancies.PAPER1 + discrepancies.PAPER2) >= 30


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["paper3"], "argument paper: invalid choice: 'paper3'"),
        (["paper2", "--rows", "table9"], "--rows: paper2 has no row or table 'table9'"),
        (["paper2", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["paper2", "--topk", "60"], "--topk must be a share in (0, 1], got 60"),
        (["paper2", "--epochs", "1"], "--epochs must be at least 2, got 1"),
        (["paper2", "--size", "36"], "--size must be a multiple of 8 for monai-unet, got 36"),
        (["paper2", "--model", "resnet"], "--model must be one of "),
        (["paper1", "--model", "levit-unet-384"], "--size must be 224 for levit-unet-384, got 32"),
        (["paper2", "--dataset", "acdc"], "--dataset of paper2 with --data phantom must be one of msd-colon, got acdc"),
        (["paper2", "--compare", "keras"], "--compare takes smp, monai, compiled, got 'keras'"),
        (["paper2", "--set", "window"], "--set must be NAME=VALUE, got 'window'"),
        (["paper2", "--set", "colour=1"], "colour is not a setting of msd-colon"),
        (["paper2", "--data", "no/such/folder"], "no/such/folder"),
        (["paper2", "--preset", "paper"], "--data must name the dataset's folder"),
        (["paper2", "--resume"], "--resume: no reproduction was started in"),
        (["paper2", "--batch", "64"], "--batch 64 needs as many to train"),
        (["paper2", "--split", "patient:1/99"], "too few slices or patients for the split patient:1/99"),
        (["paper2", "--device", "cuda"], "--device cuda: torch sees no CUDA device here"),
    ],
)
@pytest.mark.usefixtures("cache")
def test_bad_arguments(words, sentence, tmp_path, capfd):
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    out = tmp_path / "new"
    assert run(*words, "--out", str(out)) == 2
    printed = capfd.readouterr().err
    assert sentence in printed
    assert len(printed.strip().splitlines()) == 1
    assert not out.exists()


@pytest.mark.usefixtures("cache")
def test_a_folder_with_something_else_is_left_alone(tmp_path, capfd):
    (tmp_path / "thesis.tex").write_text("mine")
    assert run("paper2", "--out", str(tmp_path)) == 2
    assert "--out must name a new or empty folder" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.usefixtures("cache")
def test_the_plan_counts_and_starts_nothing(tmp_path, capfd):
    out = tmp_path / "new"
    assert run("paper2", "--plan", "--rows", "table1,table3", "--seeds", "2", "--out", str(out)) == 0
    printed = capfd.readouterr().out
    (everything,) = [line for line in printed.splitlines() if line.startswith("| all")]
    cells = [cell.strip() for cell in everything.strip("|").split("|")]
    assert cells[1:4] == ["30", "30", "30"]  # 2 seeds of 6 + 9 trainings, an epoch each
    assert "hours here" in printed and "disk at most" in printed
    assert not out.exists()


def test_a_plan_needs_neither_data_nor_network(tmp_path, capfd, monkeypatch):
    """ImageNet's weights are not asked for (this network has none), and the published slices are counted."""
    monkeypatch.setenv("FASTLOSS_CACHE", str(tmp_path / "cache"))
    words = ["--plan", "--rows", "bce", "--size", "32", "--model", "monai-unet", "--device", "cpu", "--threads", "1"]
    assert main(["reproduce", "paper2", *words, "--pretrained", "--out", str(tmp_path / "new")]) == 0
    printed = capfd.readouterr().out
    assert "10788 training and 2698 validation slices" in printed and "Slices as published." in printed
    (everything,) = [line for line in printed.splitlines() if line.startswith("| all")]
    assert [cell.strip() for cell in everything.strip("|").split("|")][1:5] == ["2", "2", "100", "33700"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("dataset", "scheme", "expected"),
    [
        ("msd-colon", "index:80/20", (10_788, 2_698)),
        ("synapse", "official", (2_211, 1_567)),
        ("acdc", "patient:70/10/20", (1_331, 190)),
        ("uwmgi", "kfold:5", (15_025, 3_756)),
    ],
)
def test_published_slices_are_divided_as_the_scheme_says(dataset, scheme, expected):
    assert counts(scheme, get(dataset).slices) == expected


def test_what_comes_from_the_template_and_what_enters_the_encoder_is_said():
    words = {name: " ".join(map(" ".join, entries)) for name, entries in
             (("1", discrepancies.PAPER1), ("2", discrepancies.PAPER2))}  # fmt: skip
    for option in ("--rate-schedule cosine", "--weight-decay 1e-6", "--augment", "--augment-first", "--normalise"):
        assert option in words["1"]
    assert "--normalise imagenet" in words["2"] and "at most one patient straddles" in words["2"]
    assert "hardly kept apart" not in words["2"]

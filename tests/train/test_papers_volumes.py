"""Scores as others report them: whole volumes on the original grid, HD95, test parts, and the corrected t-test."""

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from paper_runs import SMALL, cache, run  # noqa: F401
from phantoms import opened, phantom

from fastloss.cli import main
from fastloss.train import volumes
from fastloss.train.datasets.images import resize_label, restore_grid
from fastloss.train.datasets.prepare import original_label
from fastloss.train.report import paper1, paper2, results, ttests
from fastloss.train.report import volumes as volume_tables
from fastloss.train.slices import Slices

ndimage = pytest.importorskip("scipy.ndimage")


def surface(mask):
    return np.argwhere(mask & ~ndimage.binary_erosion(mask))


def medpy_hd95(a, b):
    """By its definition, with every distance between two surfaces."""
    gaps = np.linalg.norm(surface(a)[:, None] - surface(b)[None], axis=-1)
    return np.percentile(np.concatenate([gaps.min(1), gaps.min(0)]), 95)


def test_hd95_is_that_of_medpy():
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = (ndimage.gaussian_filter(rng.random((6, 20, 24)), 2) > 0.5 for _ in range(2))
        assert volumes.hd95(a, b) == pytest.approx(medpy_hd95(a, b))
    a, b = np.zeros((3, 9, 9), bool), np.zeros((3, 9, 9), bool)
    a[0, 2, 2] = b[2, 5, 6] = True
    assert volumes.hd95(a, b) == pytest.approx(math.sqrt(4 + 9 + 16))
    assert volumes.hd95(a, 0 * b > 0) is None


def test_the_rules_for_what_is_absent():
    def row(tp, fp, fn, hd95=None):
        return {"tp": tp, "fp": fp, "fn": fn, "hd95": hd95}

    rows = [row(8, 2, 2, 3.0), row(0, 5, 0), row(0, 0, 5), row(0, 0, 0)]
    assert volumes.transunet(rows) == (pytest.approx((0.8 + 1 + 0 + 0) / 4), 3 / 4)
    assert volumes.nnunet(rows) == (pytest.approx((0.8 + 0 + 0) / 3), 3.0)
    assert all(map(math.isnan, volumes.nnunet(rows[3:])))


@pytest.mark.parametrize("how", ["linear", "cubic", "crop"])
def test_masks_go_back_to_the_grid_that_they_came_from(how):
    label = (np.add.outer(np.arange(40) // 8, np.arange(56) // 8) % 2).astype(np.uint8)
    back = restore_grid(resize_label(label, 64, how)[None], label.shape, how)[0]
    assert back.shape == label.shape
    assert (back == label).mean() > (0.999 if how == "crop" else 0.9)
    small = restore_grid(resize_label(label, 24, how)[None], label.shape, how)[0]
    assert small.shape == label.shape
    if how == "crop":
        assert np.array_equal(small[8:32, 16:40], label[8:32, 16:40]) and small.sum() == label[8:32, 16:40].sum()


def test_volumes_are_scored_as_transunet_does(tmp_path, monkeypatch):
    """With the stored truth as what a network finds, against TransUNet's steps: zoom of the ids, slice by slice."""
    root = phantom("acdc", tmp_path / "data")
    store = opened(root, "acdc", tmp_path / "c", size=24)
    rows = tuple(range(len(store)))
    queue = iter(rows)

    def perfect(x, *_):
        labels = np.stack([store.label(next(queue)) for _ in x])
        return torch.from_numpy(labels[:, None] == np.arange(1, 4).reshape(1, 3, 1, 1))

    monkeypatch.setattr(volumes, "foreground", perfect)
    settings = SimpleNamespace(size=24, valid_batch=4)
    found = volumes.measure(settings, Slices(store, rows, rows), None)
    assert {row["class"] for row in found} == {"right ventricle", "myocardium", "left ventricle"}
    dice = []
    for volume, case in store.cases.items():
        truth = original_label("acdc", store.settings, case)
        ids = [store.label(row) for row in rows if store.slices[row].volume == volume]
        guess = np.stack([ndimage.zoom(i, [n / 24 for n in truth.shape[1:]], order=0) for i in ids])
        for number in (1, 2, 3):
            (row,) = [r for r in found if r["volume"] == volume and r["class"] == store.class_names[number]]
            a, b = guess == number, truth == number
            assert (row["tp"], row["fp"], row["fn"]) == ((a & b).sum(), (a & ~b).sum(), (~a & b).sum())
            assert row["hd95"] == pytest.approx(medpy_hd95(a, b))
            assert row["slices"] == row["of"] == 6
            dice.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert volumes.transunet(found)[0] == pytest.approx(np.mean(dice))
    assert 0.7 < np.mean(dice) < 1


def test_the_paired_test_is_corrected_for_shared_training_slices():
    composite, altered = [0.60, 0.66, 0.70, 0.64, 0.68], [0.71, 0.76, 0.79, 0.75, 0.80]
    paired, corrected = ttests.paired(composite, altered), ttests.corrected(composite, altered, 5)
    # 1/5 + 1/4 in place of 1/5: the error grows by 1.5
    assert corrected.t == pytest.approx(paired.t / 1.5)
    assert paired.p < corrected.p < 0.01
    assert math.isnan(ttests.corrected([0.5], [0.6], 5).t) and math.isnan(ttests.corrected([0, 0], [0, 0], 2).t)


@pytest.fixture(scope="module")
def tested(cache, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("tested") / "run"
    words = ["paper1", "--dataset", "synapse", "--rows", "modified", "--split", "patient:40/30/30", "--augment-first"]
    torch.set_num_threads(1)
    sizeless = [word for at, word in enumerate(SMALL) if "size=32" not in SMALL[at : at + 2]]
    assert main(["reproduce", *words, *sizeless, "--out", str(out)]) == 0
    return out


def test_a_test_part_is_scored_apart_from_what_chooses_the_epoch(tested):
    found = results.read(tested)
    (result,) = found.finished.values()
    (row,) = [row for row in found.rows if row.name == "modified"]
    assert result["test"]["case_dice"] != result["best"]["case_dice"]
    assert found.scores(row, "dice") == [result["test"]["case_dice"]]
    assert "test part" in paper2.what(found)
    assert "Dice of the test part" in [cells[0].text for cells in paper1.table2(found).cells]


def test_the_augmentation_can_come_before_the_resize(tested):
    """On slices stored whole; the report names the setting."""
    found = results.read(tested)
    assert found.data["size"] is None and found.settings.augment_first
    assert any(["augment_first" in words for words in found.changed])


def test_the_report_has_a_table_by_organ(tested, tmp_path):
    assert main(["report", str(tested), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Whole volumes on the original grid: Modified" in text
    (block,) = volume_tables.blocks(results.read(tested))
    assert [cells[0].text for cells in block.cells][-2:] == ["stomach", "mean"]
    assert block.cells[-1][1].paper == "0.7853" and block.cells[-1][2].paper == "16.84"
    rows = json.loads(next(tested.rglob("volumes.json")).read_text())["rows"]
    assert len({row["volume"] for row in rows}) * 8 == len(rows)
    mean = np.mean([volumes.transunet(list(mine))[0] for _, mine in
                    itertools.groupby(sorted(rows, key=lambda r: r["class"]), key=lambda r: r["class"])])  # fmt: skip
    assert block.cells[-1][1].text == f"{mean:.4f}"


def test_figure_3_shows_the_papers_slice_wherever_it_is():
    def store(names):
        slices = [SimpleNamespace(volume=volume, z=z) for volume, z in names]
        return SimpleNamespace(slices=slices, label=lambda row: np.arange(9) < (3, 7, 2, 9)[row])

    there = store([("colon_001", 5), ("colon_007", 102), ("colon_008", 101), ("colon_008", 102)])
    assert Slices(there, (2, 3), (0, 1)).example(256) == (3, (50, 100, 75, 75))
    assert Slices(there, (2, 3), (0, 1)).example(512) == (3, (100, 200, 150, 150))
    elsewhere = store([("colon_001", 5), ("colon_007", 102), ("colon_018", 101), ("colon_009", 102)])
    assert Slices(elsewhere, (2, 3), (0, 1)).example(256) == (1, (0, 0, 0, 0))

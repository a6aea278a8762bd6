"""`fastloss bench --compat`: the cases cover the classes, and a run writes a record and a page."""

import json

import pytest

from fastloss.bench import cases_compat, compat
from fastloss.compat import monai, smp


def test_every_drop_in_is_a_case():
    for library, space in (("smp", smp), ("monai", monai)):
        named = {name for name in space.__all__ if name.endswith("Loss")}
        assert {case.name for case in cases_compat.CASES[library]} == named


def test_a_run_writes_record_and_page(tmp_path, capsys):
    pytest.importorskip("segmentation_models_pytorch")
    only = ["smp.SoftBCEWithLogitsLoss mask"]
    copy = tmp_path / "a" / "copy.json"
    status = compat.run(tmp_path, compiled=False, quick=True, only=only, rounds=3, copy=copy)
    assert status in (0, 1)  # 1: the machine was slow
    (file,) = tmp_path.glob("*.json")
    assert copy.read_text() == file.read_text()
    (row,) = json.loads(file.read_text())["rows"]
    ours, theirs = row["contenders"]["fastloss"], row["contenders"]["original"]
    assert ours["value_error"] < compat.LIMITS[0] and row["fused"] and theirs["ratio"]["median"] > 0
    assert "| smp.SoftBCEWithLogitsLoss mask | 2x1x64x64 | yes |" in (tmp_path / "README.md").read_text()
    assert "original" in capsys.readouterr().out


def test_a_wrong_loss_is_refused(monkeypatch):
    pytest.importorskip("segmentation_models_pytorch")
    case = cases_compat.CompatCase("smp", "DiceLoss", "mask", {"mode": "binary"})
    make = cases_compat.CompatCase.make

    def wrong(self, original):
        return make(self, original) if original else smp.DiceLoss("binary", smooth=5.0)

    monkeypatch.setattr(cases_compat.CompatCase, "make", wrong)
    row = compat.measure_case(case, "small", compiled=False, rounds=3, seconds=0.1)
    assert "differs" in row["refused"]

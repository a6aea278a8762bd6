"""`fastloss bench --compat`: the cases cover the classes, and a run writes a record and a page."""

import json

import pytest

from fastloss.bench import compat, compat_cases
from fastloss.compat import monai, smp


def test_every_drop_in_is_a_case():
    for library, space in (("smp", smp), ("monai", monai)):
        named = {name for name in space.__all__ if name.endswith("Loss")}
        assert {case.name for case in compat_cases.CASES[library]} == named


def test_a_run_writes_record_and_page(tmp_path, capsys):
    pytest.importorskip("segmentation_models_pytorch")
    only = ["smp.SoftBCEWithLogitsLoss mask"]
    assert compat.run(tmp_path, compiled=False, quick=True, only=only, rounds=3) in (0, 1)  # 1: the machine was slow
    (file,) = tmp_path.glob("*.json")
    (row,) = json.loads(file.read_text())["regimes"]["compat"]["rows"]
    assert row["parity"] < compat.VALUE and row["fused"] and row["ratio"]["original"][0] > 0
    assert "smp.SoftBCEWithLogitsLoss mask" in (tmp_path / "README.md").read_text()
    assert "original" in capsys.readouterr().out


def test_a_wrong_loss_is_refused(monkeypatch):
    pytest.importorskip("segmentation_models_pytorch")
    case = compat_cases.CompatCase("smp", "DiceLoss", "mask", {"mode": "binary"})
    make = compat_cases.CompatCase.make

    def wrong(self, original):
        return make(self, original) if original else smp.DiceLoss("binary", smooth=5.0)

    monkeypatch.setattr(compat_cases.CompatCase, "make", wrong)
    row = compat.measure_case(case, "small", compiled=False, rounds=3, seconds=0.1)
    assert "differs" in row["refused"]

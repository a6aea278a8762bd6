"""Generated datasets: the real layouts, reproducible, learnable, and nothing left of an interrupted one."""

import filecmp
import json

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("h5py")
pytest.importorskip("PIL")

from phantoms import LAYOUTS, SMALL, opened, phantom, silent

from fastloss.cli import main
from fastloss.train.datasets import DATASETS, open_dataset
from fastloss.train.datasets import phantom as module
from fastloss.train.datasets.readers.acdc import info


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_decathlon_has_the_files_and_keys_of_the_real_one(tmp_path):
    root = phantom("msd-colon", tmp_path / "p")
    names = [f"colon_{number:03d}.nii.gz" for number in (1, 2, 3)]
    content = json.loads((root / "dataset.json").read_text())
    assert content["training"] == [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names]
    assert content["labels"] == {"0": "background", "1": "colon cancer primaries"} and content["numTraining"] == 3
    image, label = (nibabel.load(root / folder / names[0]) for folder in ("imagesTr", "labelsTr"))
    assert image.shape == label.shape == (40, 40, 6) and nibabel.aff2axcodes(image.affine) == ("R", "P", "S")
    volume = np.asarray(image.dataobj)
    assert volume.min() < -900 and 100 < volume.max() < 400  # air and bone, in HU
    assert (root / content["test"][0]).is_file()


def test_synapse_has_slices_volumes_and_lists(tmp_path):
    import h5py

    root = phantom("synapse", tmp_path / "p")
    assert len(list((root / "train_npz").iterdir())) == 12
    slices = (root / "lists_Synapse" / "train.txt").read_text().split()
    assert slices[:2] == ["case0001_slice000", "case0001_slice001"] and len(slices) == 12
    with np.load(root / "train_npz" / "case0001_slice003.npz") as arrays:
        assert arrays["image"].shape == arrays["label"].shape == (40, 40)
        assert arrays["image"].min() >= 0 and arrays["image"].max() <= 1 and arrays["label"].max() <= 8
    with h5py.File(root / "test_vol_h5" / "case0003.npy.h5") as file:
        assert file["image"].shape == file["label"].shape == (6, 40, 40)


def test_acdc_has_two_labelled_frames_of_a_series(tmp_path):
    root = phantom("acdc", tmp_path / "p")
    folder = root / "training" / "patient001"
    values = info(folder / "Info.cfg")
    assert values["ED"] == "1" and values["Group"] == "NOR" and (root / "testing" / "patient003").is_dir()
    series = nibabel.load(folder / "patient001_4d.nii.gz")
    frame = nibabel.load(folder / f"patient001_frame{int(values['ES']):02d}.nii.gz")
    assert series.shape == (*frame.shape, int(values["NbFrame"]))
    np.testing.assert_array_equal(np.asarray(series.dataobj)[..., int(values["ES"]) - 1], np.asarray(frame.dataobj))
    ed, es = (np.asarray(nibabel.load(folder / f"patient001_frame0{n}_gt.nii.gz").dataobj) for n in (1, 3))
    assert (es == 3).sum() < (ed == 3).sum()  # the left ventricle contracts


def test_uwmgi_has_overlapping_runs_and_16_bit_slices(tmp_path):
    from PIL import Image

    root = phantom("uwmgi", tmp_path / "p", slices=12)
    lines = (root / "train.csv").read_text().splitlines()
    assert lines[0] == "id,class,segmentation" and len(lines) == 1 + 3 * 12 * 4  # the first patient has two days
    path = next((root / "train" / "case1" / "case1_day20" / "scans").glob("slice_0006_*_1.50_1.50.png"))
    assert np.asarray(Image.open(path)).max() > 10_000
    store = opened(root, "uwmgi", tmp_path / "c", keep_empty=1.0)
    assert len(store) == 48 and any(store.label(row).sum(0).max() > 1 for row in range(len(store)))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_patient_depends_on_its_number_and_the_seed_only(kind, tmp_path):
    few, many, other = (
        phantom(kind, tmp_path / name, **changes)
        for name, changes in {"few": {"patients": 2}, "many": {"patients": 3}, "other": {"seed": 1}}.items()
    )
    same = [name for name in files(few) if "001" in name or "case1/" in name]
    if kind != "synapse":  # npz and NIfTI hold no times; gzip does not either, as nibabel writes it
        assert same and filecmp.cmpfiles(few, many, same, shallow=False)[0] == same
    first, second, third = (opened(root, kind, tmp_path / "cache") for root in (few, many, other))
    np.testing.assert_array_equal(first.image(2), second.image(2))
    np.testing.assert_array_equal(first.label(2), second.label(2))
    assert not np.array_equal(first.image(2), third.image(2))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_patient_has_every_label_and_no_more_than_asked_for(kind, tmp_path):
    most = module.LAYOUTS[DATASETS[kind].phantom].classes
    for labels in {1, most}:
        root = phantom(kind, tmp_path / f"p{labels}", slices=24 if kind == "msd-colon" else 9, labels=labels)
        store = opened(root, kind, tmp_path / "cache")
        first = 0 if store.mode == "multilabel" else 1
        for patient in store.patients:
            classes = {c for record in store.slices if record.patient == patient for c in record.classes}
            assert classes == set(range(first, first + labels))
    if kind == "msd-colon":
        assert 0.03 < sum(record.positive for record in store.slices) / len(store) < 0.3


def test_lesions_differ_from_what_is_around_them_by_more_than_the_noise(tmp_path):
    store = opened(phantom("msd-colon", tmp_path / "p", slices=24, size=64), "msd-colon", tmp_path / "c", size=64)
    inside = np.concatenate([store.image(row)[store.label(row) == 1] for row in range(len(store))])
    assert abs(inside.mean() - (150 + 125) / 400) < 0.02 and inside.std() < 2 * 15 / 400


def test_it_is_generated_once(tmp_path, capsys):
    first = open_dataset("phantom", kind="acdc", patients=2, cache_dir=tmp_path, settings={"size": 32})
    assert "generating acdc: 2 patients" in capsys.readouterr().out
    second = open_dataset("phantom", kind="acdc", patients=2, cache_dir=tmp_path, settings={"size": 32})
    assert capsys.readouterr().out == "" and first.is_phantom
    assert (first.fingerprint, first.folder) == (second.fingerprint, second.folder)


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(phantom, out, count):
        (out / "half").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setitem(module.LAYOUTS, "acdc", module.LAYOUTS["acdc"]._replace(write=interrupted))
    with pytest.raises(KeyboardInterrupt):
        module.write(module.Phantom("acdc", **SMALL), tmp_path / "out", silent)
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses_what_it_cannot_do(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    for words, expected in [
        (["--out", str(tmp_path / "full")], "--out must be a new or empty folder"),
        (["--out", str(tmp_path / "x"), "--labels", "9"], "--labels must be between 1 and 3 for acdc, got 9"),
        (["--out", str(tmp_path / "x"), "--patients", "0"], "--patients must be between 1 and 9999"),
        (["--out", str(tmp_path / "x"), "--size", "5000"], "--size must be between 32 and 1024"),
    ]:
        assert main(["data", "phantom", "--layout", "acdc", *words]) == 2
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_the_command_writes_what_the_check_accepts(tmp_path, capsys):
    for layout in LAYOUTS.values():
        out = tmp_path / layout
        words = ["--layout", layout, "--out", str(out), "--patients", "2", "--size", "32", "--slices", "4"]
        assert main(["data", "phantom", *words]) == 0
        capsys.readouterr()
        assert main(["data", "check", str(out), "--jobs", "1"]) == 0
        printed = capsys.readouterr().out
        assert "Complete and readable." in printed and "generated by fastloss data phantom" in printed

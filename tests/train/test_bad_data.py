"""Missing, half-copied or wrong data: one sentence that names the file or setting, status 2, and no store."""

import errno
import json
import os
import shutil

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")
h5py = pytest.importorskip("h5py")
pytest.importorskip("PIL")

from phantoms import LAYOUTS, opened, phantom

from fastloss.cli import CommandError, main
from fastloss.train.datasets import prepare


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    return {kind: phantom(kind, folder / kind) for kind in LAYOUTS}


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def other_shape(path):
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[:, :-1], image.affine), path)


def other_label(path):
    image = nibabel.load(path)
    labels = np.asarray(image.dataobj).copy()
    labels.flat[7] = 9
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)


def half_label(path):
    image = nibabel.load(path)
    labels = np.asarray(image.dataobj) + np.float32(0.5)
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)


def with_affine(change):
    def damage(path):
        image = nibabel.load(path)
        written = nibabel.Nifti1Image(np.asarray(image.dataobj), None)
        written.header.set_sform(change(image.affine.copy()), code=1)
        nibabel.save(written, path)

    return damage


def lost_header(path):
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), np.eye(4)), path)


def almost(path):
    image = nibabel.load(path)
    labels = np.asarray(image.dataobj).astype(np.float64)
    labels.flat[7] = 1.001
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)


def again(path):
    path.write_text(path.read_text() + path.read_text().split()[0])


def not_finite(path):
    image = nibabel.load(path)
    volume = np.asarray(image.dataobj).astype(np.float32)
    volume.flat[7] = np.nan
    nibabel.save(nibabel.Nifti1Image(volume, image.affine), path)


def no_label(path):
    with np.load(path) as arrays:
        image = arrays["image"]
    np.savez(path, image=image)


def smaller_slice(path):
    with np.load(path) as arrays:
        image, label = arrays["image"], arrays["label"]
    np.savez(path, image=image[:-1], label=label[:-1])


def unequal_volume(path):
    with h5py.File(path, "r+") as file:
        label = file["label"][:-1]
        del file["label"]
        file["label"] = label


def text(words):
    return lambda path: path.write_text(words)


def replace(old, new):
    return lambda path: path.write_text(path.read_text().replace(old, new, 1))


def missing(path):
    path.unlink()


# kind, a file, what happens to it, what the sentence says beside the file's name
BROKEN = [
    ("msd-colon", "imagesTr/colon_002.nii.gz", missing, "is missing, which dataset.json lists"),
    ("msd-colon", "labelsTr/colon_002.nii.gz", missing, "is missing, which dataset.json lists"),
    ("msd-colon", "imagesTr/colon_002.nii.gz", cut, "cannot be read"),
    ("msd-colon", "imagesTr/colon_002.nii.gz", text(""), "cannot be read"),
    ("msd-colon", "labelsTr/colon_002.nii.gz", text("no volume"), "cannot be read"),
    ("msd-colon", "labelsTr/colon_002.nii.gz", other_shape, "both must be one 3D shape"),
    ("msd-colon", "labelsTr/colon_002.nii.gz", other_label, "holds the label 9, which is not in the map"),
    ("msd-colon", "labelsTr/colon_002.nii.gz", half_label, "holds the label 0.5, which is not in the map"),
    ("msd-colon", "labelsTr/colon_002.nii.gz", almost, "holds the label 1.001, which is not in the map"),
    ("msd-colon", "labelsTr/colon_002.nii.gz", lost_header,
     "imagesTr/colon_002.nii.gz has the orientation RPS and the spacing 0.78x0.78x5 and its label"),
    ("msd-colon", "labelsTr/colon_002.nii.gz", with_affine(lambda a: a * [-1, 1, 1, 1]), "the orientation LPS"),
    ("msd-colon", "labelsTr/colon_002.nii.gz", with_affine(lambda a: a * [1, 1, 1.01, 1]), "0.78x0.78x5.05"),
    ("msd-colon", "labelsTr/colon_002.nii.gz", with_affine(lambda a: a * 0), "does not map voxels to millimetres"),
    ("msd-colon", "imagesTr/colon_002.nii.gz", with_affine(lambda a: a * 0), "does not map voxels to millimetres"),
    ("msd-colon", "imagesTr/colon_002.nii.gz", with_affine(lambda a: a * np.nan), "does not map voxels"),
    ("msd-colon", "imagesTr/colon_002.nii.gz", not_finite, "an intensity that is not finite"),
    ("msd-colon", "dataset.json", text('{"training": [{"image": 1'), "cannot be read"),
    ("msd-colon", "dataset.json", text('{"name": "Colon"}'), 'must list the volumes under "training"'),
    ("msd-colon", "dataset.json", text('{"training": ["a"]}'), 'an "image" and a "label"'),
    ("synapse", "train_npz/case0001_slice003.npz", missing, "is missing, which train.txt lists"),
    ("synapse", "train_npz/case0001_slice003.npz", cut, "cannot be read"),
    ("synapse", "train_npz/case0001_slice003.npz", no_label, "cannot be read"),
    ("synapse", "train_npz/case0001_slice003.npz", smaller_slice, "the shape [39, 40]"),
    ("synapse", "test_vol_h5/case0003.npy.h5", missing, "it does not exist"),
    ("synapse", "test_vol_h5/case0003.npy.h5", cut, "cannot be read"),
    ("synapse", "test_vol_h5/case0003.npy.h5", unequal_volume, "image and label must be of one 3D shape"),
    ("synapse", "lists_Synapse/train.txt", text(""), "lists nothing"),
    ("synapse", "lists_Synapse/test_vol.txt", text("\n"), "lists nothing"),
    ("synapse", "lists_Synapse/train.txt", again, "lists case0001_slice000 twice"),
    ("acdc", "training/patient001/patient001_frame01_gt.nii.gz", lost_header, "the spacing 1.52x1.52x10 and its label"),
    ("acdc", "training/patient001/Info.cfg", replace("ES: 3", "ES: ³"), "must name the frame of ES by a number"),
    ("acdc", "training/patient001/Info.cfg", missing, "it does not exist"),
    ("acdc", "training/patient001/Info.cfg", replace("ES: 3", "ES: none"), "must name the frame of ES by a number"),
    ("acdc", "training/patient001/Info.cfg", replace("ES: 3", "ES: 4"), "frame04.nii.gz is missing"),
    ("acdc", "training/patient001/patient001_frame01_gt.nii.gz", other_shape, "both must be one 3D shape"),
    ("acdc", "training/patient001/patient001_frame01_gt.nii.gz", other_label, "holds the label 9"),
    ("acdc", "training/patient001/patient001_frame01.nii.gz", cut, "cannot be read"),
    ("uwmgi", "train.csv", text("id,predicted\n"), "must have the columns id, class, segmentation"),
    ("uwmgi", "train.csv", text("id,class,segmentation\n"), "lists no slices"),
    ("uwmgi", "train.csv", replace("_slice_0001,large_bowel", "_slice_0001,colon"), "an id and a class are expected"),
    ("uwmgi", "train.csv", replace("case1_day1_slice_0003,small_bowel,", "case1_day1_slice_0003,small_bowel,9 9 9,x"),
     "must be pairs within"),
    ("uwmgi", "train.csv", replace("case1_day1_slice_0003,small_bowel,", "case1_day1_slice_0003,small_bowel,1 99999,"),
     "must be pairs within"),
    ("uwmgi", "train/case2/case2_day1/scans/slice_0003_*.png", missing, "is missing, which train.csv lists"),
    ("uwmgi", "train/case2/case2_day1/scans/slice_0003_*.png",
     lambda path: path.with_name("slice_0003.png").write_text(""), "are both slice 3"),
    ("uwmgi", "train/case2/case2_day1/scans/slice_0004_*.png", cut, "cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize("kind, name, damage, words", BROKEN)
def test_broken_data_are_one_sentence_and_no_store(kind, name, damage, words, roots, tmp_path, capsys, monkeypatch):
    root = tmp_path / "data"
    shutil.copytree(roots[kind], root)
    (path,) = root.glob(name)
    damage(path)
    monkeypatch.setenv("FASTLOSS_CACHE", str(tmp_path / "cache"))
    assert (
        main(["data", "prepare", str(root), "--kind", kind, "--set", "keep_empty=1.0"][: 7 if kind == "uwmgi" else 5])
        == 2
    )
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and words in printed and "Traceback" not in printed
    assert path.name.split("_0")[0] in printed or "case0001" in printed
    assert not [path for path in (tmp_path / "cache").glob("stores/*") if path.is_dir()]
    assert main(["data", "check", str(root), "--kind", kind, "--jobs", "1"]) == 2


def test_the_check_lists_everything_and_where_to_get_it(roots, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(roots["msd-colon"], root)
    (root / "labelsTr" / "colon_001.nii.gz").unlink()
    cut(root / "imagesTr" / "colon_003.nii.gz")
    (root / "imagesTr" / "._colon_001.nii.gz").write_text("of macOS")
    (root / "imagesTr" / "colon_099.nii.gz").write_text("")
    (root / "fastloss-phantom.json").unlink()
    assert main(["data", "check", str(root)]) == 2
    printed = capsys.readouterr().out
    for words in ("licence: CC-BY-SA 4.0", "2 volumes", "labelsTr/colon_001.nii.gz is missing", "medicaldecathlon.com",
                  "colon_003.nii.gz cannot be read", "1 volumes in imagesTr are not listed"):  # fmt: skip
        assert words in printed
    assert main(["data", "check", str(root), "--quick"]) == 2
    assert "colon_003" not in capsys.readouterr().out


def test_without_lists_a_gap_in_the_slices_is_found(roots, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(roots["synapse"], root)
    shutil.rmtree(root / "lists_Synapse")
    assert len(opened(root, "synapse", tmp_path / "c")) == 18
    (root / "train_npz" / "case0002_slice002.npz").unlink()
    with pytest.raises(CommandError, match="case0002_slice002.npz is missing, though there are later slices"):
        opened(root, "synapse", tmp_path / "c")


def test_a_store_that_does_not_fit_the_disk_is_refused_before(roots, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(CommandError, match=r"too little space: \d+ MB are needed, 0 MB are free; .*FASTLOSS_CACHE"):
        opened(roots["acdc"], "acdc", tmp_path / "c")
    assert not list((tmp_path / "c" / "stores").glob("acdc*"))


def test_a_disk_that_fills_up_leaves_nothing(roots, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare.os, "fsync", full)
    with pytest.raises(CommandError, match=r"too little space: \d+ MB are needed; name another place"):
        opened(roots["acdc"], "acdc", tmp_path / "c")
    assert not list((tmp_path / "c" / "stores").glob("acdc*"))


@pytest.mark.parametrize(
    "kind, settings, words",
    [
        ("msd-colon", {"zoom": 2}, "zoom is not a setting of msd-colon, which has size, window, normalise, labels"),
        ("msd-colon", {"size": 8}, "size must be a number of pixels from 16 to 4096, or None, got 8"),
        ("msd-colon", {"window": [5, 5]}, "window must be a pair (low, high) with low < high, or None, got [5, 5]"),
        ("msd-colon", {"window": None}, "window must be a pair (low, high) for normalise=window, got None"),
        ("msd-colon", {"normalise": "l2"}, "normalise must be one of"),
        ("msd-colon", {"labels": "btcv"}, "labels must be one of identity, foreground or a map for msd-colon"),
        ("synapse", {"labels": {1: 9}}, "labels must map ids 0..255 to classes 0..8 of synapse, got {1: 9}"),
        ("synapse", {"labels": {"liver": 1}}, "labels must map ids 0..255"),
        ("uwmgi", {"keep_empty": 10}, "keep_empty must be a share from 0 to 1, got 10"),
        ("uwmgi", {"drop": "case7_day0"}, "drop must be a list of names"),
        ("brats", {}, "kind must be one of msd-colon, synapse, acdc, uwmgi, demo, got 'brats'"),
    ],
)
def test_wrong_settings_are_named(kind, settings, words, roots, tmp_path):
    with pytest.raises(CommandError) as raised:
        opened(roots.get(kind, tmp_path), kind, tmp_path / "c", **settings)
    assert words in str(raised.value)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "one of check, prepare and phantom is needed"),
        (["check", "/nowhere"], "/nowhere is not a folder"),
        (["prepare", "/nowhere", "--kind", "acdc"], "/nowhere is not a folder; the data of acdc are expected there"),
        (["prepare", "x", "--kind", "acdc", "--set", "size"], "--set must be NAME=VALUE, got 'size'"),
        (["prepare", "x", "--kind", "acdc", "--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["prepare", "x", "--kind", "acdc", "--set", "size=big"], "size must be a number of pixels"),
    ],
)
def test_wrong_words_of_the_command_are_named(words, expected, capsys):
    assert main(["data", *words]) == 2
    assert expected in capsys.readouterr().err


def test_a_folder_of_another_layout_is_said_to_be_one(roots, tmp_path, capsys):
    with pytest.raises(CommandError, match="does not hold the layout of acdc: training/patientNNN/"):
        opened(roots["synapse"], "acdc", tmp_path)
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "holds none of the known layouts" in capsys.readouterr().err


def test_the_check_without_a_path_names_all_sources(capsys):
    assert main(["data", "check"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("licence") == 5 and "CC-BY-SA 4.0" in printed and "kaggle.com" in printed


def test_a_patient_that_is_listed_twice_is_refused(roots, tmp_path):
    """It could come into two parts of a split."""
    root = tmp_path / "data"
    shutil.copytree(roots["msd-colon"], root)
    content = json.loads((root / "dataset.json").read_text())
    content["training"].append({"image": "imagesTr/colon_001.nii.gz", "label": "labelsTr/colon_002.nii.gz"})
    (root / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(CommandError, match="lists .*colon_001.nii.gz twice"):
        opened(root, "msd-colon", tmp_path / "c")


def test_labels_a_rounding_error_off_are_their_integers(roots, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(roots["msd-colon"], root)
    path = root / "labelsTr" / "colon_001.nii.gz"
    image = nibabel.load(path)
    labels = np.asarray(image.dataobj) * np.float32(1.0000001) - np.float32(1e-5)
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)
    assert (labels % 1 != 0).any()
    stores = [opened(place, "msd-colon", tmp_path / "c") for place in (root, roots["msd-colon"])]
    assert stores[0].fingerprint == stores[1].fingerprint and stores[0].folder != stores[1].folder


def test_a_byte_order_mark_and_names_without_sizes_are_read(roots, tmp_path):
    for kind, marked in (("acdc", "training/patient001/Info.cfg"), ("uwmgi", "train.csv"),
                         ("msd-colon", "dataset.json"), ("synapse", "lists_Synapse/train.txt")):  # fmt: skip
        root = tmp_path / kind
        shutil.copytree(roots[kind], root)
        (root / marked).write_text((root / marked).read_text(), encoding="utf-8-sig")
        for path in root.glob("train/case2/case2_day1/scans/slice_0003_*.png"):
            path.rename(path.with_name("slice_0003.png"))
        stores = [opened(place, kind, tmp_path / "c") for place in (root, roots[kind])]
        assert stores[0].fingerprint == stores[1].fingerprint


def test_another_origin_is_a_note(roots, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(roots["msd-colon"], root)
    path = root / "labelsTr" / "colon_001.nii.gz"
    image = nibabel.load(path)
    moved = image.affine + np.pad(np.full((3, 1), 7.0), ((0, 1), (3, 0)))
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), moved), path)
    assert main(["data", "check", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "colon_001.nii.gz have different origins" in printed and printed.count("note:") == 1


def test_training_slices_must_be_there(roots, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(roots["synapse"], root)
    shutil.rmtree(root / "lists_Synapse")
    for path in (root / "train_npz").iterdir():
        path.unlink()
    with pytest.raises(CommandError, match="train_npz holds no caseNNNN_sliceMMM.npz"):
        opened(root, "synapse", tmp_path / "c")


def test_a_tilde_is_the_home_folder(roots, tmp_path, monkeypatch):
    """A shell leaves it in `FASTLOSS_CACHE="~/x"` and in `--out=~/x`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTLOSS_CACHE", "~/cache")
    assert main(["data", "phantom", "--layout=acdc", "--patients=2", "--size=32", "--slices=4", "--out=~/acdc"]) == 0
    assert main(["data", "prepare", "~/acdc", "--kind", "acdc"]) == 0
    assert (tmp_path / "cache" / "stores").is_dir() and not (tmp_path / "~").exists()

"""The readers and the store: what is stored is what lies in the files, and only whole stores are ever used."""

import gzip
import json
import shutil
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")
h5py = pytest.importorskip("h5py")
Image = pytest.importorskip("PIL.Image")

from phantoms import LAYOUTS, opened, phantom, silent

from fastloss.cli import CommandError, main
from fastloss.train.datasets import DATASETS, open_dataset, readers, splits
from fastloss.train.datasets.records import Case, Found
from fastloss.train.datasets.specs import trained_by
from fastloss.train.settings import resolve


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """One small phantom for each kind; tests must not write into them."""
    folder = tmp_path_factory.mktemp("phantoms")
    return {kind: phantom(kind, folder / kind) for kind in LAYOUTS}


def rows(store, **wanted):
    return [row for row, s in enumerate(store.slices) if all(getattr(s, name) == v for name, v in wanted.items())]


def test_decathlon_is_windowed_turned_upright_and_halved(roots, tmp_path):
    """Half the size by linear interpolation is the mean of four pixels; the nearest label is the first of four."""
    store = opened(roots["msd-colon"], "msd-colon", tmp_path, size=20)
    image, label = (
        np.asarray(nibabel.load(roots["msd-colon"] / folder / "colon_002.nii.gz").dataobj, dtype=np.float64)
        for folder in ("imagesTr", "labelsTr")
    )
    hu = (np.clip(image, -125, 275) + 125) / 400
    for z, row in enumerate(rows(store, patient="colon_002")):
        # y is stored from front to back (its axis points to P), x is the second axis of a picture
        expected = hu[:, :, z].T.reshape(20, 2, 20, 2).mean((1, 3))
        np.testing.assert_allclose(store.image(row), expected, atol=6e-4)
        np.testing.assert_array_equal(store.label(row), label[::2, ::2, z].T)
        assert store.slices[row].z == z and store.slices[row].positive == bool(store.label(row).any())
        assert store.slices[row].source_positive == bool(label[..., z].any())
    assert (store.mode, store.num_classes, store.class_names) == ("binary", 1, ("colon cancer",))


def test_the_stored_orientation_does_not_matter(roots, tmp_path):
    """The same patient stored with other axes' directions gives the same store."""
    other = phantom("msd-colon", tmp_path / "p")
    for path in other.glob("*Tr/*.nii.gz"):
        image = nibabel.load(path)
        nibabel.save(nibabel.as_closest_canonical(image), path)
    assert nibabel.aff2axcodes(nibabel.load(path).affine) == ("R", "A", "S")
    first, second = (opened(root, "msd-colon", tmp_path / "c", size=32) for root in (roots["msd-colon"], other))
    assert first.folder != second.folder and first.fingerprint == second.fingerprint


def test_synapse_is_kept_as_it_is_at_its_own_size(roots, tmp_path):
    root = roots["synapse"]
    store = opened(root, "synapse", tmp_path, size=None)
    row = rows(store, patient="case0002", z=4)[0]
    with np.load(root / "train_npz" / "case0002_slice004.npz") as arrays:
        np.testing.assert_allclose(store.image(row), arrays["image"], atol=6e-4)
        np.testing.assert_array_equal(store.label(row), arrays["label"])
    with h5py.File(root / "test_vol_h5" / "case0003.npy.h5") as file:
        row = rows(store, patient="case0003", part="test")[2]
        np.testing.assert_allclose(store.image(row), file["image"][2], atol=6e-4)
        np.testing.assert_array_equal(store.label(row), file["label"][2])
    assert (store.mode, store.num_classes) == ("multiclass", 9) and store.class_names[4] == "right kidney"


def test_synapse_is_zoomed_as_transunet_does(roots, tmp_path):
    from scipy import ndimage

    plain, small = (opened(roots["synapse"], "synapse", tmp_path, size=size) for size in (None, 28))
    expected = ndimage.zoom(plain.image(3), 28 / 40, order=3)
    np.testing.assert_allclose(small.image(3), expected, atol=2e-3)
    np.testing.assert_array_equal(small.label(3), ndimage.zoom(plain.label(3), 28 / 40, order=0))


def test_acdc_has_both_phases_groups_and_normalised_volumes(roots, tmp_path):
    store = opened(roots["acdc"], "acdc", tmp_path, size=None)
    assert {s.volume for s in store.slices if s.patient == "patient002"} == {"patient002-ED", "patient002-ES"}
    assert {s.group for s in store.slices} == {"NOR", "MINF", "DCM"}
    own = rows(store, volume="patient001-ES")
    volume = np.stack([store.image(row) for row in own])
    assert abs(volume.mean()) < 1e-3 and abs(volume.std() - 1) < 1e-3
    label = np.asarray(nibabel.load(roots["acdc"] / "training/patient001/patient001_frame03_gt.nii.gz").dataobj)
    np.testing.assert_array_equal(np.stack([store.label(row) for row in own]), label.transpose(2, 1, 0))
    ranged = opened(roots["acdc"], "acdc", tmp_path, size=None, normalise="percentile")
    values = np.stack([ranged.image(row) for row in own])
    assert values.min() == 0 and values.max() == 1 and 0.005 < (values == 1).mean() < 0.02


def test_uwmgi_decodes_its_runs_and_crops_the_centre(roots, tmp_path):
    root = roots["uwmgi"]
    store = opened(root, "uwmgi", tmp_path, size=32, keep_empty=1.0)
    row = rows(store, volume="case2_day1", z=4)[0]
    path = next((root / "train/case2/case2_day1/scans").glob("slice_0004_*.png"))
    pixels = np.asarray(Image.open(path)).astype(float)
    side, at = len(pixels), (len(pixels) - 32) // 2
    np.testing.assert_allclose(store.image(row), (pixels / pixels.max())[at : at + 32, at : at + 32], atol=6e-4)
    for line in (root / "train.csv").read_text().splitlines():
        name, organ, runs = line.split(",")
        if name == "case2_day1_slice_0004":
            mask = [0] * side * side
            numbers = list(map(int, runs.split()))
            for start, length in zip(numbers[::2], numbers[1::2]):
                mask[start - 1 : start - 1 + length] = [1] * length
            channel = ("large_bowel", "small_bowel", "stomach").index(organ)
            expected = np.reshape(mask, (side, side))[at : at + 32, at : at + 32]
            np.testing.assert_array_equal(store.label(row)[channel], expected)
    assert (store.mode, store.num_classes) == ("multilabel", 3) and store.label(row).dtype == np.uint8


def test_uwmgi_keeps_a_share_of_the_empty_slices_and_drops_days(roots, tmp_path):
    every, none, some, dropped = (
        opened(roots["uwmgi"], "uwmgi", tmp_path, **settings)
        for settings in (
            {"keep_empty": 1.0},
            {"keep_empty": 0.0},
            {"keep_empty": 0.5},
            {"keep_empty": 1.0, "drop": ["case1_day1"]},
        )
    )
    empty = len(every) - len(none)
    assert empty > 2 and all(s.source_positive for s in none.slices) and len(some) - len(none) == round(empty / 2)
    assert {s.volume for s in every.slices} - {s.volume for s in dropped.slices} == {"case1_day1"}


@pytest.mark.parametrize(
    "labels, expected", [("btcv", {2: 4, 5: 0, 11: 6}), ({0: 0, 2: 1, 5: 0, 11: 8}, {2: 1, 11: 8})]
)
def test_labels_are_mapped(labels, expected, tmp_path):
    root = phantom("synapse", tmp_path / "p")
    path = root / "train_npz" / "case0001_slice000.npz"
    with np.load(path) as arrays:
        image, label = arrays["image"], np.zeros_like(arrays["label"])
    label.flat[[10, 20, 30]] = [2, 5, 11]
    for other in root.glob("train_npz/*.npz"):
        np.savez(other, image=image, label=label)
    with h5py.File(root / "test_vol_h5" / "case0003.npy.h5", "r+") as file:
        file["label"][...] = 0
    store = opened(root, "synapse", tmp_path / "c", size=None, labels=labels)
    found = {raw: int(store.label(0).flat[at]) for raw, at in ((2, 10), (5, 20), (11, 30))}
    assert found == {5: 0} | expected
    names = opened(root, "synapse", tmp_path / "c", labels="btcv").class_names
    assert names[expected[11]] == ("pancreas" if labels == "btcv" else "stomach")


def test_the_demo_is_a_dataset_of_slabs(tmp_path):
    pytest.importorskip("nilearn")
    store = open_dataset(
        "demo", kind="synapse", settings={"size": 32, "labels": "samed"}, cache_dir=tmp_path, say=silent
    )
    assert store.kind == "demo" and store.mode == "binary" and len(store.patients) >= 5 and not store.is_phantom
    for first, second in zip(store.patients, store.patients[1:]):
        gap = store.slices[rows(store, patient=second)[0]].z - store.slices[rows(store, patient=first)[-1]].z
        assert gap == 5  # four slices between
    assert 0.5 < sum(record.positive for record in store.slices) / len(store) <= 1


def test_every_kind_has_a_reader_that_finds_its_layout(roots):
    for kind, root in roots.items():
        assert readers.detect(root) == kind
    assert readers.detect(roots["acdc"] / "training") is None


def test_the_manifest_keeps_the_settings(roots, tmp_path):
    store = opened(roots["msd-colon"], "msd-colon", tmp_path, window=(-160, 240))
    kept = json.loads((store.folder / "manifest.json").read_text())["settings"]
    assert kept == {"size": 256, "window": [-160, 240], "normalise": "window", "labels": "identity"} == store.settings


def as_slices(root, out):
    """A phantom of ACDC in the layout of the code around TransUNet."""
    nibabel = pytest.importorskip("nibabel")
    for number, folder in enumerate(sorted(root.glob("t*ing/patient*"))):
        for phase, path in zip(("ED", "ES"), sorted(folder.glob("*_gt.nii.gz"))):
            paths = path.with_name(path.name.replace("_gt", "")), path
            image, label = (np.asarray(nibabel.load(p).dataobj).T.astype(np.float64) for p in paths)
            part = ("test", "valid", "train", "train")[number % 4]
            (out / part).mkdir(parents=True, exist_ok=True)
            if part == "test":
                np.savez(out / part / f"case_{number:03d}_volume_{phase}", img=image, label=label)
            for z in range(len(image) if part != "test" else 0):
                np.savez(out / part / f"case_{number:03d}_slice{phase}_{z}", img=image[z], label=label[z])
    return out


def test_acdc_as_slices_is_acdc(tmp_path):
    original = phantom("acdc", tmp_path / "acdc", patients=4)
    root = as_slices(original, tmp_path / "ACDC")
    store, expected = (opened(place, "acdc", tmp_path / "c") for place in (root, original))
    (split,) = splits(store, "official", 0)
    parts = [{store.slices[row].patient for row in rows} for rows in (split.train, split.val, split.test)]
    assert parts == [{"case_002", "case_003"}, {"case_001"}, {"case_000"}]
    names = {f"case_{n:03d}": path.name for n, path in enumerate(sorted(original.glob("t*ing/patient*")))}
    rows = {(r.volume, r.z): row for row, r in enumerate(expected.slices)}
    for row, record in enumerate(store.slices):
        twin = rows[record.volume.replace(record.patient, names[record.patient]), record.z]
        assert np.array_equal(store.image(row), expected.image(twin))
        assert np.array_equal(store.label(row), expected.label(twin))
    (root / "train" / "case_002_sliceED_2.npz").unlink()
    with pytest.raises(CommandError, match="case_002_sliceED_2.npz is missing, though there are later slices"):
        opened(root, "acdc", tmp_path / "c")
    (root / "lists_ACDC").mkdir()
    (root / "lists_ACDC" / "train.txt").write_text("case_003_sliceED_0.npz\ncase_009_sliceED_0.npz\n")
    with pytest.raises(CommandError, match="case_009_sliceED_0.npz is missing, which the list of train names"):
        opened(root, "acdc", tmp_path / "c")


def unpacked(path):
    """As Kaggle's copies are: x.nii/x.nii."""
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.load(path)
    folder = path.with_name(path.name.removesuffix(".gz"))
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine), folder / folder.name)
    path.unlink()


def test_copies_of_the_decathlon_are_read(tmp_path, capsys):
    original = phantom("msd-colon", tmp_path / "original")
    root = tmp_path / "copy"
    shutil.copytree(original, root)
    for folder in ("imagesTr", "labelsTr"):
        unpacked(root / folder / "colon_001.nii.gz")
        with gzip.open(root / folder / "colon_002.nii.gz") as file:
            (root / folder / "colon_002.nii").write_bytes(file.read())
        (root / folder / "colon_002.nii.gz").unlink()
    nnunet = tmp_path / "Dataset010_Colon"
    shutil.copytree(original, nnunet)
    for path in (nnunet / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "cancer": 1}, "file_ending": ".nii.gz"}
    (nnunet / "dataset.json").write_text(json.dumps(content | {"numTraining": 3}))
    stores = [opened(place, "msd-colon", tmp_path / "c") for place in (original, root, nnunet)]
    assert len({store.fingerprint for store in stores}) == 1 and len({store.folder for store in stores}) == 3
    assert main(["data", "check", str(root)]) == 0
    assert "not listed" not in capsys.readouterr().out
    acdc = [phantom("acdc", tmp_path / name) for name in ("acdc", "nested")]
    for path in list(acdc[1].rglob("*_frame*.nii.gz")):
        unpacked(path)
    assert len({opened(place, "acdc", tmp_path / "c").fingerprint for place in acdc}) == 1
    (nnunet / "dataset.json").write_text(json.dumps(content | {"file_ending": ".mha"}))
    with pytest.raises(CommandError, match="volumes with one channel in .nii.gz or .nii, got 1 of .mha"):
        opened(nnunet, "msd-colon", tmp_path / "c")


def test_a_new_dataset_is_a_reader_and_one_entry(tmp_path, monkeypatch, capsys):
    reader = ModuleType("fastloss.train.datasets.readers.mine")
    reader.EXPECTED = "volume.npy"
    reader.find = lambda folder: folder if (folder / "volume.npy").exists() else None
    reader.scan = lambda root, settings: Found(
        [Case(f"p{at}", f"p{at}", (root / "volume.npy",), tuple(range(4)), (20, 20)) for at in range(5)]
    )

    def read(case):
        volume = np.load(case.files[0])
        return volume.astype(np.float32), (volume > 0.5).astype(np.uint8)

    reader.read = read
    monkeypatch.setitem(sys.modules, reader.__name__, reader)
    spec = replace(DATASETS["msd-colon"], reader="mine", phantom="", title="My own", training={"augment": "flip"})
    monkeypatch.setitem(DATASETS, "mine", spec)
    np.save(tmp_path / "volume.npy", np.random.default_rng(0).random((4, 20, 20)))
    store = opened(tmp_path, "mine", tmp_path / "cache", size=16, normalise="none")
    with pytest.raises(CommandError, match="there is no phantom of mine"):
        open_dataset("phantom", kind="mine", cache_dir=tmp_path / "cache")
    assert (len(store), store.mode, store.num_classes) == (20, "binary", 1)
    assert readers.detect(tmp_path) == "mine" and "mine" in trained_by("paper2")
    chosen = resolve("paper2", "smoke", "mine", {})
    assert (chosen.augment, chosen.mode, chosen.split) == ("flip", "binary", "index:80/20")
    assert main(["data", "check", str(tmp_path), "--jobs", "1", "--set", "normalise=none"]) == 0
    assert "My own" in capsys.readouterr().out

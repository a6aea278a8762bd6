"""`fastloss predict`: what the trainer measures of whole volumes, on the grid of each file, and one sentence for what
does not fit."""

import json
import shutil
import struct
from dataclasses import asdict

import nibabel
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from paper_runs import cache, run  # noqa: F401

from fastloss.cli import main
from fastloss.train import settings
from fastloss.train.datasets import SliceDataset, grids, open_dataset, readers
from fastloss.train.datasets.files import nifti
from fastloss.train.datasets.prepare import original_label
from fastloss.train.learner import Learner, launch
from fastloss.train.predict import Predictor, predict
from fastloss.train.slices import load
from fastloss.train.volumes import measure

pytestmark = [pytest.mark.usefixtures("cache"), pytest.mark.filterwarnings("ignore")]
TRAINED = {
    "msd-colon": ("paper2", "--rows", "iou", "--volumes"),
    "acdc": ("paper1", "--dataset", "acdc", "--rows", "modified", "--split", "patient:80/20"),
    "synapse": (
        "paper1",
        "--dataset",
        "synapse",
        "--rows",
        "modified",
        "--activation",
        "sigmoid",
        "--set",
        "labels=samed",
    ),
}


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory):  # noqa: F811
    """By kind: the folder of a reproduction with one training, and the store that it was trained on."""
    found = {}

    def one(kind):
        if kind not in found:
            out = tmp_path_factory.mktemp("trained") / "run"
            words = ["--valid-limit", "0", "--keep-weights", "--out", str(out)]
            split = [] if "--split" in TRAINED[kind] or kind == "synapse" else ["--split", "patient:80/20"]
            assert run(*TRAINED[kind], *words, *split) == 0
            settings = {"size": 32, **({"labels": "samed"} if kind == "synapse" else {})}
            found[kind] = out, open_dataset("phantom", kind=kind, settings=settings, patients=5)
        return found[kind]

    return one


@pytest.fixture(scope="module")
def colon(trained):
    """(folder, image file) of a volume that was not trained on."""
    out, store = trained("msd-colon")
    (path,) = out.rglob("volumes.json")
    return out, store.cases[json.loads(path.read_text())["rows"][0]["volume"]].files[0]


class Marks(torch.nn.Module):
    """In place of a network: where an intensity, which a ramp over both axes changes, is near the level of a class."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        ramp = torch.linspace(-0.4, 0.4, x.shape[-1]) + torch.linspace(-0.2, 0.2, x.shape[-2])[:, None]
        if self.channels == 1:
            return x + ramp - 0.4
        return 0.02 - (x + ramp - 0.2 * torch.arange(self.channels)[:, None, None]) ** 2


@pytest.fixture
def marked(monkeypatch):
    """Every predictor has such a network, whose masks are neither empty nor full."""
    load = Predictor.load

    def loaded(self):
        load(self).learner.net = Marks(self.channels)
        return self

    monkeypatch.setattr(Predictor, "load", loaded)


def written(found):
    return nibabel.load(found.labels)


@pytest.mark.parametrize("kind", TRAINED)
def test_it_finds_what_the_trainer_measures(kind, trained, marked, tmp_path):
    """tp, fp and fn, which the trainer counts on the original grid of slices from the store, from what is written."""
    out, store = trained(kind)
    predictor = Predictor(out).load()
    rows = measure(predictor.settings, load(store, predictor.settings, None), predictor.learner)
    volumes = dict.fromkeys([row["volume"] for row in rows])
    files = [store.cases[volume].files[0] for volume in volumes]
    shares = []
    for volume, found in zip(volumes, predict(out, files, tmp_path / "labels", overlay=True)):
        rows_of = [row for row, record in enumerate(store.slices) if record.volume == volume]
        trained_on = SliceDataset(store, rows_of, size=32, augment="none", seed=0)
        seen = grids.prepare(grids.read(store.cases[volume].files[0], kind).slices, kind, store.settings, 32, False)
        for at, row in enumerate(rows_of):
            assert np.array_equal(seen[store.slices[row].z], trained_on[at][0][0])
        guess = nifti(found.labels, canonical=kind == "msd-colon")
        truth = original_label(kind, store.settings, store.cases[volume])
        for number, row in enumerate([row for row in rows if row["volume"] == volume]):
            a, b = guess == number + 1, truth == number + 1
            if kind != "synapse":  # whose classes may overlap, while a label is one of them
                counts = [int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum())]
                assert counts == [row[name] for name in ("tp", "fp", "fn")], (volume, row)
            assert found.voxels[row["class"]] == a.sum() <= row["tp"] + row["fp"]
            shares.append(a.mean())
        assert found.overlay.read_bytes()[:4] == b"\x89PNG" and found.labels.name in str(found.labels)
    assert max(shares) < 0.9 and sum([share > 0.001 for share in shares]) > len(shares) / 3


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SPL", "AIR"])
def test_size_orientation_spacing_and_affine_are_those_of_the_input(codes, colon, marked, tmp_path):
    """The same volume stored with other axes gets the same labels, stored with those axes."""
    out, path = colon
    source = nibabel.load(path)
    moved = ornt_transform(io_orientation(source.affine), axcodes2ornt(codes))
    image = source.as_reoriented(moved)
    tilted = nibabel.affines.from_matvec([[1, 0.02, 0], [-0.02, 1, 0], [0, 0, 1]]) @ image.affine
    turned = nibabel.Nifti1Image(np.asarray(image.dataobj), tilted, image.header)
    turned.header.set_xyzt_units("mm")
    turned.set_sform(tilted, code=2)
    turned.set_qform(None, code=0)
    nibabel.save(turned, tmp_path / "turned.nii")
    (straight,) = predict(out, [path], tmp_path / "straight")
    (other,) = predict(out, [tmp_path / "turned.nii"], tmp_path / "other")
    given, found = nibabel.load(tmp_path / "turned.nii"), written(other)
    assert found.shape == given.shape and np.array_equal(found.affine, given.affine)
    assert found.header.get_zooms() == given.header.get_zooms() and found.get_data_dtype() == np.uint8
    for code in ("sform_code", "qform_code", "xyzt_units"):
        assert found.header[code] == given.header[code]
    assert nibabel.aff2axcodes(found.affine) == tuple(codes)
    same = written(straight).as_reoriented(moved)
    assert np.array_equal(found.dataobj, same.dataobj) and 0.05 < np.mean(found.dataobj) < 0.95


def test_the_weights_are_those_of_the_best_epoch(colon):
    (path,) = colon[0].rglob("best-*.pt")
    loaded = Predictor(path.parent).load().learner.net
    assert not loaded.training
    for name, tensor in torch.load(path)["net"].items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_labels_have_the_numbers_of_the_files(trained):
    assert Predictor(trained("synapse")[0]).numbers.tolist() == list(range(9))
    made = Predictor(trained("msd-colon")[0])
    for labels, numbers in (("identity", [0, 1]), ("foreground", [0, 1]), ({"0": 0, "7": 1, "9": 1}, [0, 7])):
        made.data["labels"] = labels
        assert made.file_numbers().tolist() == numbers


def test_the_demo_sees_what_it_was_trained_on():
    """MNI152 through the readers of predict is what the demo trains on; a whole mask comes back whole."""
    mni152 = readers.of("demo")
    path = mni152.packaged() / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    grids.check(path, "demo")
    volume = grids.read(path, "demo")
    seen = grids.prepare(volume.slices, "demo", {}, 64, True)
    brain = mni152._whole(64, mni152.packaged())
    assert np.array_equal(seen[brain.z], brain.images)
    stored = grids.prepare(volume.slices[brain.z], "demo", {"size": 64}, 64, False)
    assert np.abs(stored - brain.images).max() < 0.5 and stored.dtype == np.float32
    back = volume.back(grids.restore(np.ones((len(seen), 64, 64), np.uint8), "demo", volume.slices.shape[1:]))
    assert back.shape == nibabel.load(path).shape and np.all(back.dataobj)
    with pytest.raises(ValueError, match="intensities must be from 0 to 255"):
        grids.prepare(volume.slices * 2, "demo", {}, 64, True)


def test_a_network_of_the_demo_looks_at_a_whole_brain(tmp_path):
    """A folder as the demo leaves it, with an untrained network."""
    chosen = settings.resolve("demo", "quick", "demo", {})
    training = tmp_path / "demo" / "runs" / "split" / "focal-2-seed0"
    training.mkdir(parents=True)
    record = {"settings": asdict(chosen), "data": {"kind": "demo", "size": chosen.size}, "machine": {}}
    (tmp_path / "demo" / settings.FILE).write_text(json.dumps(record))
    (training / "config.json").write_text(json.dumps({"run": {}, "settings": record["settings"]}))
    net = Learner(chosen, 1, 0, 1, launch(chosen, "cpu")).net
    torch.save({"learner": {"net": net.state_dict()}}, training / "checkpoint.pt")
    torch.save({"net": {}}, training / "best-0001.pt")  # the demo's tables show the last epoch
    path = readers.of("demo").packaged() / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    (found,) = predict(tmp_path / "demo", [path], tmp_path / "masks")
    given, labels = nibabel.load(path), written(found)
    assert labels.shape == given.shape and np.array_equal(labels.affine, given.affine)
    assert set(np.unique(labels.dataobj)) <= {0, 1} and list(found.voxels) == ["deep grey matter"]


def fails(capfd, *words):
    assert main(["predict", *map(str, words)]) == 2
    told = capfd.readouterr().err
    assert told.startswith("fastloss predict: ") and told.count("\n") == 1, told
    return told


def test_odd_inputs_are_one_sentence_before_work_begins(colon, tmp_path, monkeypatch, capfd):
    out, path = colon
    monkeypatch.setattr(Predictor, "load", lambda *_: pytest.fail("work began"))
    volume = np.zeros((8, 8, 4), np.float32)

    def saved(name, data):
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / name)
        return tmp_path / name

    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image")
    short = saved("short.nii", volume)
    short.write_bytes(short.read_bytes()[:-9])
    colours = saved("colours.nii", np.zeros((8, 8, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    lost = saved("lost.nii", volume)
    lost.write_bytes(b"".join([lost.read_bytes()[:252], struct.pack("<hh", 0, 0), lost.read_bytes()[256:]]))
    flat = saved("flat.nii", volume)
    flat.write_bytes(b"".join([flat.read_bytes()[:280], bytes(16), flat.read_bytes()[296:]]))
    for given, told in (
        (tmp_path / "nowhere.nii", "nowhere.nii does not exist"),
        (
            saved("four.nii", np.zeros((8, 8, 4, 2), np.float32)),
            "must be one volume with three axes and one channel, got",
        ),
        (saved("two.nii", volume[..., 0]), "got the shape [8, 8]"),
        (colours, "must have one channel of real numbers, got colours"),
        (saved("complex.nii", volume.astype(np.complex64)), "got complex64"),
        (broken, "broken.nii.gz cannot be read"),
        (short, "short.nii is cut short"),
        (lost, "lost.nii has no affine"),
        (flat, "flat.nii cannot be read: its affine does not map voxels to millimetres"),
        (shutil.copy(path, tmp_path / "volume.mha"), "must end in .nii.gz or .nii"),
    ):
        assert told in fails(capfd, out, path, given, "--out", tmp_path / "labels"), given
    (tmp_path / "empty").mkdir()
    assert "holds no volume" in fails(capfd, out, tmp_path / "empty", "--out", tmp_path / "labels")
    (tmp_path / "again").mkdir()
    same = shutil.copy(path, tmp_path / "again")
    assert "would both become" in fails(capfd, out, path, same, "--out", tmp_path / "labels")
    assert not (tmp_path / "labels").exists()


def test_what_a_header_hides_is_one_sentence(colon, tmp_path, capfd):
    out, path = colon
    content = path.read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(content[: len(content) // 2])
    assert "cut.nii.gz cannot be read" in fails(capfd, out, tmp_path / "cut.nii.gz", "--out", tmp_path / "labels")
    nibabel.save(nibabel.Nifti1Image(np.full((8, 8, 4), np.nan, np.float32), np.eye(4)), tmp_path / "nan.nii")
    told = fails(capfd, out, tmp_path / "nan.nii", "--out", tmp_path / "labels")
    assert "nan.nii cannot be used: it holds an intensity that is not finite" in told
    assert not list((tmp_path / "labels").iterdir())


def test_what_exists_or_cannot_be_written_is_one_sentence(colon, tmp_path, monkeypatch, capfd):
    out, path = colon
    monkeypatch.setattr(Predictor, "load", lambda *_: pytest.fail("work began"))
    name = path.name.removesuffix(".nii.gz")
    (tmp_path / f"{name}.png").touch()
    assert f"{name}.png exists" in fails(capfd, out, path, "--out", tmp_path, "--overlay")
    assert "could not be made" in fails(capfd, out, path, "--out", tmp_path / f"{name}.png")
    assert "/proc/x could not be made" in fails(capfd, out, path, "--out", "/proc/x")


def test_a_folder_without_weights_is_one_sentence(colon, tmp_path, capfd):
    out, path = colon
    words = (path, "--out", tmp_path / "labels")
    assert "is no folder of" in fails(capfd, tmp_path, *words)
    copy = shutil.copytree(out, tmp_path / "copy")
    (config,) = copy.rglob("config.json")
    (best,) = copy.rglob("best-*.pt")
    other = shutil.copytree(config.parent, config.parent.with_name("other"))
    assert "has 2 trainings with weights, name one of them: runs/split/iou" in fails(capfd, copy, *words)
    shutil.rmtree(other)
    state = torch.load(best)
    torch.save({"net": {"layer": torch.zeros(1)}}, best)
    assert f"{best} does not hold the weights of monai-unet" in fails(capfd, copy, *words)
    torch.save({"other": state["net"]}, best)
    assert "is damaged: it holds no network" in fails(capfd, copy, *words)
    best.write_bytes(best.read_bytes()[:99])
    assert "is damaged" in fails(capfd, copy, *words)
    for weights in config.parent.glob("*.pt"):
        weights.unlink()
    assert "no training in" in fails(capfd, copy, *words) and not (tmp_path / "labels").exists()
    assert "has no weights; train with --keep-weights" in fails(capfd, config.parent, *words)
    (copy / "reproduction.json").unlink()
    assert "reproduction.json is missing" in fails(capfd, config.parent, *words)

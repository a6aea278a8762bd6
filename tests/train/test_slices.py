"""Splits by patient, and items that depend on (seed, epoch, slice) and on nothing else."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

pytest.importorskip("nibabel")
pytest.importorskip("h5py")
pytest.importorskip("scipy")

from phantoms import opened, phantom

from fastloss.cli import CommandError
from fastloss.train.datasets import Slice, SliceDataset, augment, splits

AUGMENTED = ["flip", "transunet", "uwmgi"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {
        kind: opened(phantom(kind, folder / kind, patients=2), kind, folder / "cache", size=size)
        for kind, size in (("acdc", None), ("uwmgi", 32), ("synapse", 40))
    }


@dataclass
class Listed:
    """What `splits` looks at of a store."""

    slices: list


def listed(patients, slices=4, groups=("",), part="train"):
    return Listed([
        Slice(f"p{number:03d}", f"p{number:03d}", z, (1, 1), part, groups[number % len(groups)], (), False)
        for number in range(patients)
        for z in range(slices + number % 3)
    ])  # fmt: skip


def patients(store, part):
    return {store.slices[row].patient for row in part}


@pytest.mark.parametrize("scheme, shares", [("patient:80/20", (80, 20, 20)), ("patient:70/10/20", (70, 10, 20))])
def test_shares_are_of_whole_patients_balanced_over_groups(scheme, shares):
    store = listed(100, groups=("NOR", "MINF", "DCM", "HCM", "RV"))
    (split,) = splits(store, scheme, seed=3)
    parts = [patients(store, part) for part in (split.train, split.val, split.test)]
    assert tuple(map(len, parts)) == shares
    assert (parts[1] == parts[2]) == (len(scheme.split("/")) == 2) and not parts[0] & (parts[1] | parts[2])
    for part in parts:
        groups = [int(name[1:]) % 5 for name in part]
        counts = [groups.count(group) for group in range(5)]
        assert max(counts) - min(counts) <= 2
    rows = set(split.train) | set(split.val) | set(split.test)
    assert rows == set(range(len(store.slices)))
    assert splits(store, scheme, seed=3) == [split] != splits(store, scheme, seed=4)


def test_in_k_folds_each_patient_is_tested_once():
    store = listed(13)
    folds = splits(store, "kfold:5", seed=0)
    tested = [row for split in folds for row in split.test]
    assert sorted(tested) == list(range(len(store.slices)))
    for split in folds:
        assert not patients(store, split.train) & patients(store, split.test) and split.val == split.test
        assert sorted(split.train + split.test) == list(range(len(store.slices)))
        assert 2 <= len(patients(store, split.test)) <= 3


def test_the_index_cut_gives_the_papers_numbers_and_at_most_one_patient_twice():
    """13,486 slices of 126 patients, 10,788 of them in training: floor(0.8 n)."""
    store = Listed(
        [Slice(f"p{row // 107:03d}", "", row % 107, (1, 1), "train", "", (), False) for row in range(13_486)]
    )
    (split,) = splits(store, "index:80/20", seed=0)
    assert (len(split.train), len(split.test)) == (10_788, 2_698)
    assert split.train == tuple(range(10_788)) and len(patients(store, split.train) & patients(store, split.test)) == 1


def test_the_own_test_part_is_touched_by_the_official_split_only():
    store = Listed(listed(10).slices + [Slice(f"q{n}", "", 0, (1, 1), "test", "", (), False) for n in range(4)])
    train = set(range(len(store.slices) - 4))
    (official,) = splits(store, "official", seed=0)
    assert set(official.train) == train and official.test == official.val == tuple(range(len(train), len(train) + 4))
    for scheme in ("patient:80/20", "kfold:3", "index:70/10/20"):
        for split in splits(store, scheme, seed=0):
            assert set(split.train) | set(split.val) | set(split.test) == train


def test_few_patients_still_fill_every_part():
    (split,) = splits(listed(3), "patient:70/10/20", seed=0)
    assert [len(patients(listed(3), part)) for part in (split.train, split.val, split.test)] == [1, 1, 1]


@pytest.mark.parametrize(
    "scheme, words",
    [
        ("patient:80/30", "the split must be one of"),
        ("patient", "the split must be one of"),
        ("patient:100", "the split must be one of"),
        ("kfold:1", "the split must be one of"),
        ("random", "got 'random'"),
        ("kfold:5", "the data have 2 patients, too few for the split kfold:5"),
        ("patient:70/10/20", "the data have 2 patients, too few"),
        ("official", "no labelled test part of their own"),
    ],
)
def test_impossible_splits_are_refused(scheme, words):
    with pytest.raises(CommandError, match=words):
        splits(listed(2), scheme, seed=0)


def batches(store, workers, augmented, epochs=(0, 1)):
    """All items of two epochs, by a loader with persistent workers."""
    dataset = SliceDataset(store, range(len(store)), size=32, augment=augmented, seed=5)
    loader = torch.utils.data.DataLoader(dataset, batch_size=5, num_workers=workers, persistent_workers=workers > 0)
    items = []
    for epoch in epochs:
        dataset.set_epoch(epoch)
        images, labels = zip(*loader)
        items.append((torch.cat(images), torch.cat(labels)))
    return items


@pytest.mark.parametrize("kind", ["acdc", "uwmgi"])
@pytest.mark.parametrize("augmented", AUGMENTED)
def test_items_are_the_same_bits_with_0_and_2_workers(stores, kind, augmented):
    here, there = (batches(stores[kind], workers, augmented) for workers in (0, 2))
    for (x, y), (x2, y2) in zip(here, there):
        assert torch.equal(x, x2) and torch.equal(y, y2)
    assert not torch.equal(here[0][0], here[1][0])  # epochs differ
    assert x.dtype == torch.float32 and x.shape[1:] == (1, 32, 32) and y.dtype == torch.uint8


@pytest.mark.parametrize("augmented", ["none", *AUGMENTED])
def test_an_item_does_not_depend_on_its_place_or_on_what_came_before(stores, augmented):
    store = stores["uwmgi"]
    every = SliceDataset(store, range(len(store)), size=32, augment=augmented, seed=5)
    some = SliceDataset(store, [7, 3], size=32, augment=augmented, seed=5)
    for item, index in ((1, 3), (0, 7), (0, 7)):
        assert all(torch.equal(a, b) for a, b in zip(some[item], every[index]))
    other = SliceDataset(store, [7, 3], size=32, augment=augmented, seed=6)
    same = all(torch.equal(some[item][0], other[item][0]) for item in (0, 1))
    assert same or augmented != "none"


@pytest.mark.parametrize("augmented", AUGMENTED)
@pytest.mark.parametrize("channels", [0, 3])
def test_label_and_image_move_together(augmented, channels):
    """An image that is its own label stays so, but for the edges that the linear interpolation of the image blurs."""
    label = np.zeros((48, 48), np.uint8)
    label[10:30, 5:25] = 1
    moved = 0
    for seed in range(40):
        given = np.stack([label] * channels) if channels else label
        image, result = augment.get(augmented)(label.astype(np.float32), given, np.random.default_rng(seed))
        planes = result if channels else result[None]
        assert result.shape == given.shape and result.dtype == np.uint8 and image.dtype == np.float32
        for plane in planes:
            assert np.mean((image > 0.5) != (plane > 0)) < 0.03
        moved += not np.array_equal(planes[0], label)
    assert moved > 10


def test_transunet_draws_each_kind_of_change_in_its_share():
    """Half quarter turns with a flip; a quarter rotations, which keep neither rows nor columns; a quarter nothing."""
    image = np.arange(20 * 20, dtype=np.float32).reshape(20, 20)
    turns = {np.flip(np.rot90(image, k), axis).tobytes() for k in range(4) for axis in (0, 1)}
    assert len(turns) == 4  # a turn and a flip is one of four reflections
    counts = {"turned": 0, "kept": 0, "rotated": 0}
    for seed in range(400):
        result, _ = augment.get("transunet")(image, image.astype(np.uint8), np.random.default_rng(seed))
        same = np.array_equal(result, image)
        counts["kept" if same else "turned" if np.ascontiguousarray(result).tobytes() in turns else "rotated"] += 1
    assert 160 < counts["turned"] < 240 and 65 < counts["kept"] < 140 and 65 < counts["rotated"] < 135


def test_slices_of_unequal_sizes_come_out_equal_and_unaugmented_ones_are_those_of_the_store(stores):
    store = stores["acdc"]
    assert len({record.shape for record in store.slices}) > 1
    dataset = SliceDataset(store, range(len(store)), size=48, augment="none", seed=0)
    assert {tuple(x.shape) for x, _ in (dataset[0], dataset[len(store) - 1])} == {(1, 48, 48)}
    plain = stores["synapse"]
    image, label = SliceDataset(plain, [4], size=40, augment="none", seed=0)[0]
    np.testing.assert_array_equal(image[0], plain.image(4))
    np.testing.assert_array_equal(label, plain.label(4))


def test_the_items_fit_the_losses(stores):
    import fastloss

    for kind, store in stores.items():
        x, y = SliceDataset(store, [5], size=32, augment="none", seed=0)[0]
        logits = torch.zeros(1, store.num_classes, *x.shape[-2:])
        assert torch.isfinite(fastloss.DiceLoss(store.mode, backend="reference")(logits, y[None])), kind


def test_unknown_augmentations_and_seeds_are_refused(stores):
    with pytest.raises(CommandError, match="augment must be one of none, flip, mri, transunet, uwmgi, got 'mixup'"):
        SliceDataset(stores["acdc"], [0], size=32, augment="mixup", seed=0)
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        SliceDataset(stores["acdc"], [0], size=32, augment="none", seed=-1)

"""The slices that `fastloss demo` trains on: read from nilearn's volumes, degraded as a function of the key alone."""

import numpy as np
import pytest

pytest.importorskip("nibabel")
pytest.importorskip("nilearn")
pytest.importorskip("scipy")

from fastloss.cli import CommandError
from fastloss.train.datasets import Slice, SliceDataset, splits
from fastloss.train.datasets.readers import mni152
from fastloss.train.datasets.store import MemoryStore


@pytest.fixture(scope="module")
def store():
    return mni152.training_store(64)


def test_the_brain_is_read(store):
    (split,) = splits(store, "official", seed=0)
    train, valid = list(split.train), list(split.val)
    assert train == list(range(80)) and valid == list(range(80, 110)) and split.test == split.val
    assert store.images.shape == store.labels.shape == (110, 64, 64)
    assert store.images.dtype == np.float32 and store.labels.dtype == np.uint8
    assert 0.02 < store.labels[train].mean() < 0.08
    assert [store.slices[row].positive for row in valid] == [bool(store.labels[row].any()) for row in valid]
    # Deep grey matter is neither empty space nor most of what is bright.
    assert 0.4 < np.median(store.images[train][store.labels[train] == 1]) < 0.8
    assert store.images[train].max() <= 1 < store.images[valid].max()  # only what validates is degraded already
    again = mni152.training_store(64)
    assert np.array_equal(again.images, store.images) and again.fingerprint == store.fingerprint


@pytest.mark.parametrize("count", [30, 147, 189])
def test_slabs_have_a_gap(count):
    train, valid = mni152.split(count)
    assert train and valid
    assert min(abs(a - b) for a in train for b in valid) > mni152.GAP
    assert max(*train, *valid) < count


def test_other_seeds_epochs_and_slices_are_degraded_otherwise(store):
    def item(seed, epoch, at):
        data = SliceDataset(store, (3, 3, 4), size=64, augment="mri", seed=seed)
        data.set_epoch(epoch)
        return data[at][0].numpy()

    first = item(0, 0, 0)
    assert np.array_equal(first, item(0, 0, 1))  # by the slice, not by its place
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 2)):
        assert not np.array_equal(first, item(*other))
    noise = np.concatenate([item(seed, 0, 0)[0][:4] for seed in range(9)])  # above the head there is nothing else
    assert abs(noise.mean()) < 0.005 and 0.045 < noise.std() < 0.055


def test_a_flip_takes_the_mask_along():
    """The template is symmetric, so that this needs another image."""
    mask = np.zeros((1, 16, 16), np.uint8)
    mask[:, 4:8, 1:6] = 1
    record = Slice("a", "a", 0, (16, 16), "train", "", (1,), True)
    store = MemoryStore("demo", {"size": 16}, [record], mask.astype(np.float32), mask)
    data = SliceDataset(store, (0,), size=16, augment="mri", seed=0)
    seen = set()
    for epoch in range(12):
        data.set_epoch(epoch)
        image, label = (tensor.numpy() for tensor in data[0])
        flipped = np.array_equal(label, mask[0, :, ::-1])
        assert flipped or np.array_equal(label, mask[0])
        assert image[0][label == 1].min() > 0.5 > image[0][label == 0].max()
        seen.add(flipped)
    assert seen == {True, False}


def test_a_damaged_volume_is_named(tmp_path):
    with pytest.raises(CommandError, match=r"t1_tal_nlin_sym_09a_converted\.nii\.gz cannot be read"):
        mni152.training_store(64, tmp_path)
    (tmp_path / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz").write_bytes(b"no brain")
    with pytest.raises(CommandError, match="cannot be read"):
        mni152.training_store(64, tmp_path)

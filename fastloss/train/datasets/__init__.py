"""The papers' data: read from their real layouts, prepared once into a memory-mapped store of slices.

    store = open_dataset("Task10_Colon", kind="msd-colon")           # or "phantom", or "demo"
    (split,) = splits(store, "patient:80/20", seed=0)                # "kfold:5" gives five
    train = SliceDataset(store, split.train, size=256, augment="none", seed=0)
    train.set_epoch(3)                                               # seen by running workers, too
    image, label = train[0]

Labels are uint8: class ids [H, W] if store.mode is "binary" or "multiclass", else ("multilabel": the classes of
`uwmgi` overlap) 0 or 1 in [C, H, W]. All of them fit the losses' targets of that mode. `DATASETS` says of each kind its
classes, settings, usual split, source and licence.
"""

from .items import SliceDataset
from .opening import default_cache, open_dataset
from .records import Case, Slice, Split
from .specs import DATASETS, DatasetSpec
from .splits import splits
from .store import Store

__all__ = [
    "DATASETS",
    "Case",
    "DatasetSpec",
    "Slice",
    "SliceDataset",
    "Split",
    "Store",
    "default_cache",
    "open_dataset",
    "splits",
]

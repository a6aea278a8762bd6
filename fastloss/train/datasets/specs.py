"""The datasets: what each one is, which settings it takes, where to get it, and under which licence.

A new dataset is a module of `readers` and an entry of DATASETS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastloss.cli import CommandError

ORGANS = ("aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach")
SAMED = ("spleen", "right kidney", "left kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas")
# The ids of the raw BTCV volumes; 5, 9, 10, 12 and 13 (esophagus, veins, adrenals) are background to the eight organs.
BTCV = {8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8} | {0: 0, 5: 0, 9: 0, 10: 0, 12: 0, 13: 0}
FOREGROUND = {0: 0} | dict.fromkeys(range(1, 255), 1)


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset.

    Attributes:
        reader: the module of `readers` that knows its layout on disk.
        mode, class_names: the losses' mode, and one name per channel of the logits.
        settings: names and defaults of what can be set; see `settings.resolve`.
        resize: how an image is brought to the stored size: "linear", "cubic" (SciPy's zoom, as TransUNet does), or
            "crop" (the centre, padded if the slice is smaller). Labels take the nearest pixel, or are cropped.
        split: the scheme to use if none is asked for.
        title, source, licence: for `fastloss data check`.
        patients, slices: as published; the slices of what is split, and of a test part apart from it (about, if the
            settings leave some out).
        experiments: which are trained on it; of the datasets of an experiment the first is its default.
        volumes: which files `fastloss predict` takes: "upright" (NIfTI, axial slices by its affine, the front at the
            top), "stored" (NIfTI, slices along the last axis as it is stored), "transunet" (its HDF5), "" (none).
        phantom: the layout that `fastloss data phantom` generates for it, "" if there is none.
        packaged: whether a package brings the data, so that no folder is asked for.
        training: settings of a training that go with the data.
        label_maps: what the setting `labels` takes by name beside "identity": from ids in the files to classes.
        renamed: class names where such a map orders the classes in its own way.
    """

    reader: str
    mode: str
    class_names: tuple[str, ...]
    settings: Mapping[str, Any]
    resize: str
    split: str
    title: str
    source: str
    licence: str
    patients: int
    slices: tuple[int, int]
    experiments: tuple[str, ...]
    volumes: str = ""
    phantom: str = ""
    packaged: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)
    label_maps: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    renamed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """Of a label, with background."""
        return max(2, len(self.class_names))

    @property
    def identity(self) -> dict[int, int]:
        """The map of labels that are classes already."""
        return {value: value for value in range(self.classes)}


_TRANSUNET = {"augment": "transunet", "baseline": "levit-unet", "average": "case", "volumes": True}
DATASETS = {
    "msd-colon": DatasetSpec(
        reader="decathlon",
        mode="binary",
        class_names=("colon cancer",),
        settings={"size": 256, "window": (-125.0, 275.0), "normalise": "window", "labels": "identity"},
        resize="linear",
        split="index:80/20",
        title="Medical Segmentation Decathlon, Task10 colon cancer: "
        "Task10_Colon/ with dataset.json, imagesTr, labelsTr",
        source="http://medicaldecathlon.com, or https://msd-for-monai.s3-us-west-2.amazonaws.com/Task10_Colon.tar",
        licence="CC-BY-SA 4.0",
        patients=126,
        slices=(13_486, 0),
        volumes="upright",
        phantom="decathlon",
        experiments=("paper2",),
        label_maps={"foreground": FOREGROUND},
    ),
    "synapse": DatasetSpec(
        reader="synapse",
        mode="multiclass",
        class_names=("background", *ORGANS),
        settings={"size": 224, "window": None, "normalise": "none", "labels": "identity"},
        resize="cubic",
        split="official",
        title="Synapse multi-organ CT as TransUNet prepares it: train_npz/, test_vol_h5/ and perhaps lists_Synapse/",
        source="https://github.com/Beckschen/TransUNet (prepared), https://www.synapse.org/Synapse:syn3193805 (raw)",
        licence="the terms of the BTCV challenge on synapse.org; registration is needed",
        patients=30,
        slices=(2_211, 1_567),
        volumes="transunet",
        phantom="synapse",
        experiments=("paper1",),
        training=_TRANSUNET,
        label_maps={"samed": {value: value for value in range(9)}, "btcv": BTCV},
        renamed={"samed": ("background", *SAMED)},
    ),
    "acdc": DatasetSpec(
        reader="acdc",
        mode="multiclass",
        class_names=("background", "right ventricle", "myocardium", "left ventricle"),
        settings={"size": 224, "window": None, "normalise": "zscore", "labels": "identity"},
        resize="cubic",
        split="patient:80/20",
        title="Automated Cardiac Diagnosis Challenge: "
        "training/patientNNN/ (and testing/) with Info.cfg and NIfTI frames",
        source="https://www.creatis.insa-lyon.fr/Challenge/acdc/",
        licence="CC-BY-NC-SA 4.0, with the citation of Bernard et al. 2018",
        patients=150,
        slices=(1_902, 1_076),
        volumes="stored",
        phantom="acdc",
        experiments=("paper1",),
        training=_TRANSUNET,
    ),
    "uwmgi": DatasetSpec(
        reader="uwmgi",
        mode="multilabel",
        class_names=("large bowel", "small bowel", "stomach"),
        settings={
            "size": 224,
            "window": None,
            "normalise": "max",
            "keep_empty": 0.1,
            "keep_seed": 101,
            "drop": ("case7_day0", "case81_day30"),
        },
        resize="crop",
        split="kfold:5",
        title="UW-Madison GI tract MRI: train.csv and train/caseN/caseN_dayD/scans/slice_*.png",
        source="https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation",
        licence="the rules of the Kaggle competition; registration is needed",
        patients=85,
        slices=(18_781, 0),  # 16,590 of 38,496 have a mask, and a tenth of the others is kept
        phantom="uwmgi",
        experiments=("paper1",),
        training={"augment": "uwmgi", "activation": "sigmoid", "empty": "one"},
    ),
    "demo": DatasetSpec(
        reader="mni152",
        mode="binary",
        class_names=("deep grey matter",),
        settings={"size": 128, "window": None, "normalise": "none", "labels": "identity"},
        resize="linear",
        split="patient:80/20",
        title="MNI152 T1 template in the nilearn package: ONE brain, cut into slabs that count as patients",
        source="pip install nilearn",
        licence="BSD-3-Clause, with the notice of the MNI template",
        patients=7,
        slices=(112, 0),
        experiments=("paper1", "paper2", "demo"),
        volumes="upright",
        packaged=True,
        training={"augment": "flip"},
    ),
}


def get(kind: str) -> DatasetSpec:
    """Return the dataset of that name; CommandError if there is none."""
    if kind not in DATASETS:
        raise CommandError(f"kind must be one of {', '.join(DATASETS)}, got {kind!r}")
    return DATASETS[kind]


def trained_by(experiment: str) -> list[str]:
    """Name the datasets of an experiment, its default first."""
    return [name for name, spec in DATASETS.items() if experiment in spec.experiments]

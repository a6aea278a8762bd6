"""The datasets: classes, settings with their defaults, where to get them, and under which licence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastloss.cli import CommandError

ORGANS = ("aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach")
SAMED = ("spleen", "right kidney", "left kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas")
# The ids of the raw BTCV volumes; 5, 9, 10, 12 and 13 (esophagus, veins, adrenals) are background to the eight organs.
BTCV = {8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8} | {0: 0, 5: 0, 9: 0, 10: 0, 12: 0, 13: 0}
FOREGROUND = "foreground"


@dataclass(frozen=True)
class Kind:
    """One dataset.

    Attributes:
        mode, class_names: the losses' mode, and one name per channel of the logits.
        settings: names and defaults of what can be set; see `resolve`.
        resize: how an image is brought to the stored size: "linear", "cubic" (SciPy's zoom, as TransUNet does), or
            "crop" (the centre, padded if the slice is smaller). Labels take the nearest pixel, or are cropped.
        scheme: the split to use if none is asked for.
        title, source, licence: for `fastloss data check`.
    """

    mode: str
    class_names: tuple[str, ...]
    settings: Mapping[str, Any]
    resize: str
    scheme: str
    title: str
    source: str
    licence: str


KINDS = {
    "msd-colon": Kind(
        "binary",
        ("colon cancer",),
        {"size": 256, "window": (-125.0, 275.0), "normalise": "window", "labels": "identity"},
        "linear",
        "index:80/20",
        "Medical Segmentation Decathlon, Task10 colon cancer: Task10_Colon/ with dataset.json, imagesTr, labelsTr",
        "http://medicaldecathlon.com, or https://msd-for-monai.s3-us-west-2.amazonaws.com/Task10_Colon.tar",
        "CC-BY-SA 4.0",
    ),
    "synapse": Kind(
        "multiclass",
        ("background", *ORGANS),
        {"size": 224, "window": None, "normalise": "none", "labels": "identity"},
        "cubic",
        "official",
        "Synapse multi-organ CT as TransUNet prepares it: train_npz/, test_vol_h5/ and perhaps lists_Synapse/",
        "https://github.com/Beckschen/TransUNet (prepared), https://www.synapse.org/Synapse:syn3193805 (raw)",
        "the terms of the BTCV challenge on synapse.org; registration is needed",
    ),
    "acdc": Kind(
        "multiclass",
        ("background", "right ventricle", "myocardium", "left ventricle"),
        {"size": 224, "window": None, "normalise": "zscore", "labels": "identity"},
        "cubic",
        "patient:80/20",
        "Automated Cardiac Diagnosis Challenge: training/patientNNN/ (and testing/) with Info.cfg and NIfTI frames",
        "https://www.creatis.insa-lyon.fr/Challenge/acdc/",
        "CC-BY-NC-SA 4.0, with the citation of Bernard et al. 2018",
    ),
    "uwmgi": Kind(
        "multilabel",
        ("large bowel", "small bowel", "stomach"),
        {
            "size": 224,
            "window": None,
            "normalise": "max",
            "keep_empty": 0.1,
            "keep_seed": 101,
            "drop": ("case7_day0", "case81_day30"),
        },
        "crop",
        "kfold:5",
        "UW-Madison GI tract MRI: train.csv and train/caseN/caseN_dayD/scans/slice_*.png",
        "https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation",
        "the rules of the Kaggle competition; registration is needed",
    ),
    "demo": Kind(
        "binary",
        ("deep grey matter",),
        {"size": 128, "window": None, "normalise": "none", "labels": "identity"},
        "linear",
        "patient:80/20",
        "MNI152 T1 template in the nilearn package: ONE brain, cut into slabs that count as patients",
        "pip install nilearn",
        "BSD-3-Clause, with the notice of the MNI template",
    ),
}


def get(kind: str) -> Kind:
    if kind not in KINDS:
        raise CommandError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return KINDS[kind]


def resolve(kind: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The kind's settings with those given put in, as plain JSON values.

    Settings:
        size: side of the stored slices in pixels; None: as they are on disk (TransUNet augments before it resizes).
        window: (low, high) HU or intensities that become 0 and 1, for `normalise="window"`; values beyond are clipped.
        normalise: "none"; "window"; "max" (a slice by its maximum); "zscore" or "percentile" (1 to 99) of a volume.
        labels: "identity"; for synapse also "samed" (the other order of names) and "btcv" (ids of the raw volumes);
            "foreground" for msd-colon (every label but 0 is 1); or a map from every id in the files to a class.
        keep_empty, keep_seed: the share of slices without any mask that is kept, and the seed of the draw.
        drop: volumes to leave out; by default the two whose masks are known to be wrong.

    Raises:
        CommandError: a setting that the kind does not have, or a value that it does not take.
    """
    known = get(kind).settings
    settings = dict(known)
    for name, value in (given or {}).items():
        if name not in known:
            raise CommandError(f"{name} is not a setting of {kind}, which has {', '.join(known)}")
        expected, fits = CHECKS[name]
        if not fits(value):
            raise CommandError(f"{name} must be {expected}, got {value!r}")
        settings[name] = value
    if settings.get("normalise") == "window" and settings["window"] is None:
        raise CommandError("window must be a pair (low, high) for normalise=window, got None")
    _label_map(kind, settings)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_window(value: Any) -> bool:
    pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))
    return value is None or (pair and value[0] < value[1])


NORMALISE = ("none", "window", "max", "zscore", "percentile")
CHECKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "size": ("a number of pixels from 16 to 4096, or None", lambda v: v is None or (_is_int(v) and 16 <= v <= 4096)),
    "window": ("a pair (low, high) with low < high, or None", _is_window),
    "normalise": (f"one of {', '.join(NORMALISE)}", lambda v: v in NORMALISE),
    "labels": ("the name of a label map, or a map from ids to classes", lambda v: isinstance(v, (str, Mapping))),
    "keep_empty": ("a share from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1),
    "keep_seed": ("a non-negative integer", lambda v: _is_int(v) and v >= 0),
    "drop": ("a list of names", lambda v: isinstance(v, (list, tuple)) and all(isinstance(n, str) for n in v)),
}


def class_names(kind: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """One name per channel; "samed" orders the organs of Synapse otherwise."""
    return ("background", *SAMED) if settings.get("labels") == "samed" else KINDS[kind].class_names


def _label_map(kind: str, settings: dict[str, Any]) -> None:
    """Turns a map's keys into text, as JSON has them, and checks it."""
    labels = settings.get("labels")
    if labels is None:
        return
    names = {"msd-colon": ("identity", FOREGROUND), "synapse": ("identity", "samed", "btcv")}.get(kind, ("identity",))
    if isinstance(labels, str):
        if labels not in names:
            raise CommandError(f"labels must be one of {', '.join(names)} or a map for {kind}, got {labels!r}")
        return
    most = _classes(kind) - 1
    try:
        pairs = {int(raw): value for raw, value in labels.items()}
    except (TypeError, ValueError):
        pairs = {-1: -1}
    if not all(0 <= raw <= 255 and _is_int(value) and 0 <= value <= most for raw, value in pairs.items()):
        raise CommandError(f"labels must map ids 0..255 to classes 0..{most} of {kind}, got {dict(labels)}")
    settings["labels"] = {str(raw): pairs[raw] for raw in sorted(pairs)}


def _classes(kind: str) -> int:
    """With background."""
    return max(2, len(KINDS[kind].class_names))


def label_map(kind: str, settings: Mapping[str, Any]) -> dict[int, int]:
    """From every id that may be in the files to its class."""
    labels = settings["labels"]
    if isinstance(labels, Mapping):
        return {int(raw): value for raw, value in labels.items()}
    if labels == "btcv":
        return BTCV
    if labels == FOREGROUND:
        return {0: 0} | dict.fromkeys(range(1, 255), 1)
    return {value: value for value in range(_classes(kind))}

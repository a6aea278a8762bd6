"""The settings of a dataset: what they may be, and what they mean for its labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastloss.cli import CommandError

from .specs import get


def resolve(kind: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Put the given settings into the kind's, as plain JSON values.

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
    _check_labels(kind, settings)
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
    """Name the channels; a map of labels may order the classes otherwise."""
    labels, spec = settings.get("labels"), get(kind)
    return spec.renamed.get(labels, spec.class_names) if isinstance(labels, str) else spec.class_names


def _check_labels(kind: str, settings: dict[str, Any]) -> None:
    """Turn a map's keys into text, as JSON has them, and check it."""
    labels, spec = settings.get("labels"), get(kind)
    if labels is None:
        return
    names = ("identity", *spec.label_maps)
    if isinstance(labels, str):
        if labels not in names:
            raise CommandError(f"labels must be one of {', '.join(names)} or a map for {kind}, got {labels!r}")
        return
    most = spec.classes - 1
    try:
        pairs = {int(raw): value for raw, value in labels.items()}
    except (TypeError, ValueError):
        pairs = {-1: -1}
    if not all(0 <= raw <= 255 and _is_int(value) and 0 <= value <= most for raw, value in pairs.items()):
        raise CommandError(f"labels must map ids 0..255 to classes 0..{most} of {kind}, got {dict(labels)}")
    settings["labels"] = {str(raw): pairs[raw] for raw in sorted(pairs)}


def label_map(kind: str, settings: Mapping[str, Any]) -> Mapping[int, int]:
    """Return the map from every id that may be in the files to its class."""
    labels = settings["labels"]
    if isinstance(labels, Mapping):
        return {int(raw): value for raw, value in labels.items()}
    return get(kind).label_maps.get(labels, get(kind).identity)

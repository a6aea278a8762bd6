"""Who trains, who chooses the epoch, who is tested."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from fastloss.cli import CommandError

from .records import Slice, Split
from .store import Store

SCHEMES = "patient:80/20, patient:70/10/20, kfold:5, index:80/20, official"


def splits(store: Store, scheme: str, seed: int) -> list[Split]:
    """Make the splits of a scheme; a list of one but for k-fold. No patient is in two parts of a split, except by
    "index".

    All but "official" divide what is not the dataset's own test part, so that this stays untouched.

    Args:
        scheme: "patient:80/20" or "patient:70/10/20" (train, val, test: shares of patients, drawn with the seed,
            balanced over groups); "kfold:5" (each patient in one test part; val = test); "index:80/20" (the first 80%
            of the slices: the reading of 10,788 of 13,486 in the dynamic alteration paper, with at most one patient in
            both parts); "official" (the dataset's own: synapse 18/12, ACDC 100/50, or its slices' three parts).

    Raises:
        CommandError: the scheme is unknown, or the store has too few patients for it.
    """
    name, shares = _parse(scheme)
    if name == "official":
        return [_official(store)]
    rows = [row for row, record in enumerate(store.slices) if record.part != "test"]
    if name == "kfold":
        return _folds(store, rows, shares[0], seed)
    if name == "index":
        cuts = [len(rows) * total // 100 for total in np.cumsum(shares)[:-1]]
        return [_split([part.tolist() for part in np.split(np.array(rows), cuts)], scheme)]
    return [_by_patient(store, rows, shares, seed, scheme)]


def counts(scheme: str, slices: tuple[int, int]) -> tuple[int, int]:
    """Estimate how many slices train and how many choose the epoch, of those that a scheme divides and of a test part;
    CommandError for an unknown scheme."""
    name, shares = _parse(scheme)
    if name == "official":
        return slices
    total = slices[0]
    if name == "kfold":
        return total - total // shares[0], total // shares[0]
    first, second = (total * share // 100 for share in np.cumsum(shares).tolist()[:2])
    return first, second - first


def _parse(scheme: str) -> tuple[str, list[int]]:
    name, _, numbers = scheme.partition(":")
    shares = [int(word) for word in numbers.split("/")] if re.fullmatch(r"\d+(/\d+)*", numbers) else []
    folds = name == "kfold" and len(shares) == 1 and shares[0] >= 2
    parts = name in ("patient", "index") and sum(shares) == 100 and 2 <= len(shares) <= 3 and all(shares)
    if scheme == "official" or folds or parts:
        return name, shares
    raise CommandError(f"the split must be one of {SCHEMES} (shares add up to 100), got {scheme!r}")


def _split(parts: Sequence[Sequence[int]], scheme: str) -> Split:
    if not all(parts):
        raise CommandError(f"the data have too few slices or patients for the split {scheme}")
    train, test = tuple(parts[0]), tuple(parts[-1])
    return Split(train, tuple(parts[1]), test)


def _official(store: Store) -> Split:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, record in enumerate(store.slices):
        rows[record.part].append(row)
    if not {"train", "test"} <= set(rows):
        raise CommandError(f"the data have no labelled test part of their own; split them by one of {SCHEMES}")
    return _split([rows[part] for part in ("train", "valid", "test") if part in rows], "official")


def _shuffled(store: Store, rows: list[int], seed: int) -> list[str]:
    """Return the patients in random order, the groups dealt out evenly over it."""
    rng = np.random.default_rng([seed, 0x5B117])
    groups: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        record = store.slices[row]
        if record.patient not in groups[record.group]:
            groups[record.group].append(record.patient)
    placed = []
    for group in sorted(groups):
        names = rng.permutation(sorted(groups[group])).tolist()
        placed += [((place + rng.random()) / len(names), name) for place, name in enumerate(names)]
    return [name for _, name in sorted(placed)]


def _where(store: Store, rows: list[int], test: Callable[[Slice], bool]) -> list[int]:
    return [row for row in rows if test(store.slices[row])]


def _folds(store: Store, rows: list[int], folds: int, seed: int) -> list[Split]:
    names = _shuffled(store, rows, seed)
    if len(names) < folds:
        raise CommandError(f"the data have {len(names)} patients, too few for the split kfold:{folds}")
    result = []
    for fold in range(folds):
        held = set(names[fold::folds])
        test = _where(store, rows, lambda record, held=held: record.patient in held)
        train = _where(store, rows, lambda record, held=held: record.patient not in held)
        result.append(_split([train, test], f"kfold:{folds}"))
    return result


def _by_patient(store: Store, rows: list[int], shares: list[int], seed: int, scheme: str) -> Split:
    names = _shuffled(store, rows, seed)
    if len(names) < len(shares):
        raise CommandError(f"the data have {len(names)} patients, too few for the split {scheme}")
    # Every part gets a patient at least: with few patients a share of 10% would round to none.
    counts = [max(1, round(len(names) * share / 100)) for share in shares[1:]]
    parts, end = [], len(names)
    for count in reversed(counts):
        parts.insert(0, set(names[end - count : end]))
        end -= count
    parts.insert(0, set(names[:end]))
    return _split([_where(store, rows, lambda record, part=part: record.patient in part) for part in parts], scheme)

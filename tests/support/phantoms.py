"""Small phantoms for the tests of the data."""

from fastloss.train.datasets import DATASETS, open_dataset
from fastloss.train.datasets.phantom import Phantom, write

LAYOUTS = {name: spec.phantom for name, spec in DATASETS.items() if spec.phantom}
SMALL = {"patients": 3, "size": 40, "slices": 6}


def silent(words):
    """For `say`."""


def phantom(kind, out, **changes):
    """Writes a small phantom into the folder `out` and returns it."""
    write(Phantom(LAYOUTS[kind], **(SMALL | changes)), out, silent)
    return out


def opened(root, kind, cache, **settings):
    return open_dataset(root, kind=kind, settings=settings, cache_dir=cache, jobs=1, say=silent)

"""Fused segmentation losses for PyTorch: any weighted sum of them in one pass over logits and target."""

from . import backends, functional
from ._version import __version__
from .backends import debug
from .compound import CompoundLoss
from .losses import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    IoULoss,
    JaccardLoss,
    TopKLoss,
    TverskyLoss,
)
from .schedule import LossSchedule
from .stats import Stats

__all__ = [
    "BCEWithLogitsLoss",
    "CompoundLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "IoULoss",
    "JaccardLoss",
    "LossSchedule",
    "Stats",
    "TopKLoss",
    "TverskyLoss",
    "__version__",
    "backends",
    "debug",
    "functional",
]

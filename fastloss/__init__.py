"""Fused segmentation losses for PyTorch: any weighted sum of them in one pass over logits and target."""

from . import backends, functional
from ._version import __version__
from .backends import debug
from .balanced import BalancedCrossEntropyLoss, RecallCrossEntropyLoss
from .boundary import BoundaryLoss, signed_distance
from .compat._fuse import NotFusable, fuse
from .compound import CompoundLoss
from .crossentropies import ExpLogCrossEntropyLoss, PolyLoss
from .deep import DeepSupervisionLoss
from .explanation import explain
from .head import HeadLoss
from .losses import BCEWithLogitsLoss, CrossEntropyLoss, FocalLoss, TopKLoss
from .overlap import BoundaryDoULoss, GeneralizedDiceLoss, MCCLoss, TvMFDiceLoss
from .region import DiceLoss, IoULoss, JaccardLoss, TverskyLoss
from .schedule import LossSchedule
from .squared import SensitivitySpecificityLoss, WeightedSoftDiceLoss
from .stats import Stats
from .unified import UnifiedFocalLoss
from .upsampled import UpsampledLoss
from .wasserstein import GeneralizedWassersteinDiceLoss

__all__ = [
    "BCEWithLogitsLoss",
    "BalancedCrossEntropyLoss",
    "BoundaryDoULoss",
    "BoundaryLoss",
    "CompoundLoss",
    "CrossEntropyLoss",
    "DeepSupervisionLoss",
    "DiceLoss",
    "ExpLogCrossEntropyLoss",
    "FocalLoss",
    "GeneralizedDiceLoss",
    "GeneralizedWassersteinDiceLoss",
    "HeadLoss",
    "IoULoss",
    "JaccardLoss",
    "LossSchedule",
    "MCCLoss",
    "NotFusable",
    "PolyLoss",
    "RecallCrossEntropyLoss",
    "SensitivitySpecificityLoss",
    "Stats",
    "TopKLoss",
    "TvMFDiceLoss",
    "TverskyLoss",
    "UnifiedFocalLoss",
    "UpsampledLoss",
    "WeightedSoftDiceLoss",
    "__version__",
    "backends",
    "debug",
    "explain",
    "functional",
    "fuse",
    "signed_distance",
]
